"""``timm-landmark export``: writes a finished run to a folder for the Hugging Face Hub."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_landmark.data.address import place
from timm_landmark.data.check import write_sums
from timm_landmark.data.layout import ClassRow, read_rows, write_rows
from timm_landmark.hub.config import class_names
from timm_landmark.hub.destination import new_folder
from timm_landmark.hub.model_card import Measured, exported_info, licence_note, render_card
from timm_landmark.hub.space.folder import write_space
from timm_landmark.runs.folder import INFO, SUMMARY
from timm_landmark.runs.model import Run, load_run, load_run_model
from timm_landmark.runs.thresholds import KEY, run_thresholds
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_atomic, write_json
from timm_landmark.utils.hub_files import CARD, CONFIG, LICENSE, ONNX, VECTORS, WEIGHTS
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import printable, say

if TYPE_CHECKING:
    from torch import nn

SEED, VECTOR_IMAGES = 0, 2
TOLERANCE = 1e-4  # relative to the largest logit or 1; covers float32 sums in another order
ONNX_TOLERANCE = 1e-3


def main(argv: list[str]) -> int:
    """Runs the verb; returns 0.

    Raises:
        UserError: If the run is not finished or readable, or the folder, name or dtype cannot be used.
    """
    options = _parser().parse_args(argv)
    run = load_run(options.run)
    if options.data is not None:
        run = replace(run, data=options.data)
    name = checked_name(options.name, run)
    if note := run_thresholds(run)[1]:
        say(note)
    with new_folder(options.output, options.overwrite) as folder:
        export_run(run, folder, name, options.dtype, options.license)
        if options.onnx:
            from timm_landmark.hub.onnx import export_onnx

            difference = export_onnx(folder, ONNX_TOLERANCE)
            say(f"{ONNX}: onnxruntime and timm agree within {difference:.1e} (allowed: {ONNX_TOLERANCE:.0e})")
        if options.space:
            write_space(folder)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes 0600
        write_sums(folder)
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file()) / 1e6
    say(f"{options.output}: {name}, {size:.1f} MB; `timm-landmark check {options.output}` loads and compares it")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="timm-landmark export",
        description=(
            "Writes the run's best epoch (the EMA weights if it has them) to a folder for the Hugging Face Hub: "
            "weights, config.json, model card, licence, test vectors and checksums."
        ),
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder (train --output)")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to create")
    parser.add_argument("--name", help="ARCHITECTURE.TAG, such as resneat50.my_landmarks (default tag: name of RUN)")
    parser.add_argument("--dtype", choices=("fp32", "fp16"), default="fp32", help="of the weights (default: fp32)")
    parser.add_argument("--license", default="apache-2.0", metavar="ID", help="of the weights (default: apache-2.0)")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx and check it with onnxruntime")
    parser.add_argument("--space", action="store_true", help="also write space/, the files of a Hugging Face Space")
    parser.add_argument("--data", type=place, help="data set of the run, if it was moved (for release and licence)")
    parser.add_argument("--overwrite", action="store_true", help="replace FOLDER if it is an exported model")
    return parser


def checked_name(name: str | None, run: Run) -> str:
    """Returns ``ARCHITECTURE.TAG``; the default tag is the name of the run folder.

    Raises:
        UserError: If the architecture is not the run's, or the tag has characters other than letters, digits, ``_``
            and ``-``.
    """
    if name is None:
        return f"{run.model}.{re.sub(r'[^0-9A-Za-z_]+', '_', run.path.resolve().name).strip('_') or 'run'}"
    architecture, _, tag = name.partition(".")
    if architecture != run.model:
        raise UserError(f"--name {name}: the run's model is {run.model}; use {run.model}.TAG")
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}", tag):
        raise UserError(f"--name {name}: the tag after the first dot may contain only letters, digits, _ and -")
    return name


def export_run(run: Run, folder: Path, name: str, dtype: str, licence: str) -> None:
    """Writes everything except ONNX and the checksums to ``folder``.

    Args:
        run: The run, from :func:`timm_landmark.runs.model.load_run`.
        folder: An empty folder.
        name: ``ARCHITECTURE.TAG``.
        dtype: ``fp32`` or ``fp16``, the dtype of the stored weights.
        licence: Licence of the weights, as an identifier of the Hub.

    Raises:
        UserError: If the classes do not fit the model, or a weight does not fit into the dtype.
    """
    classes = [harmless(row) for row in read_rows(run.path, ClassRow)]
    if len(classes) != run.num_classes:
        raise UserError(
            f"{run.path}: {len(classes)} classes in classes.csv, {run.num_classes} in the model; train again"
        )
    model = load_run_model(run)
    save_weights(model, folder, name, classes, run, dtype, licence)
    model.float()  # compute with the stored values
    tolerance = _save_vectors(model, folder, run.input_size)
    measured = _measure(model, run, dtype, tolerance)
    card = render_card(run, name, classes, measured, licence)
    write_atomic(folder / CARD, card)
    write_atomic(folder / LICENSE, licence_note(run, classes, licence))
    write_json(folder / INFO, exported_info(run))
    write_rows(folder, ClassRow, classes)
    write_atomic(folder / SUMMARY, (run.path / SUMMARY).read_bytes())


def harmless(row: ClassRow) -> ClassRow:
    """Returns the class with control characters removed from its id and name."""
    return replace(row, landmark_id=printable(row.landmark_id), name=printable(row.name))


def save_weights(
    model: "nn.Module", folder: Path, name: str, classes: Sequence[ClassRow], run: Run, dtype: str, licence: str
) -> None:
    """Writes model.safetensors and config.json with timm's ``save_for_hf``.

    Raises:
        UserError: If a value is too large for ``dtype``.
    """
    import torch
    from timm.models import save_for_hf

    thresholds, _ = run_thresholds(run)
    eps = run.args.get("bn_eps")  # a number that timm's config has no other place for
    model.to(memory_format=torch.contiguous_format)  # safetensors rejects channels_last tensors
    if dtype == "fp16":
        model.half()
        if lost := [key for key, value in model.state_dict().items() if not torch.isfinite(value).all()]:
            raise UserError(f"--dtype fp16: {lost[0]} has values beyond 65504; use --dtype fp32")
    save_for_hf(
        model,
        str(folder),
        model_config={**class_names(classes), KEY: thresholds.as_dict()},
        model_args={**({} if eps is None else {"bn_eps": eps}), **(run.args.get("model_kwargs") or {})},
        safe_serialization=True,
    )
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config.get("model_args", {}).pop("num_classes", None)  # transformers passes it too, which would be a duplicate
    cfg = config["pretrained_cfg"]
    own = ("test_input_size", "test_crop_pct", "test_pool_size", "min_input_size")
    for key in (*own, "origin_url", "paper_ids", "paper_name", "notes"):
        cfg.pop(key, None)  # these describe the default weights of the architecture
    if run.input_size != tuple(cfg.get("input_size", ())):
        cfg["pool_size"] = None
    cfg.update(
        tag=name.partition(".")[2],
        hf_hub_filename=WEIGHTS,  # else timm tries a pickle when the network fails
        custom_load=False,
        num_classes=run.num_classes,
        input_size=list(run.input_size),
        interpolation=run.interpolation,
        crop_pct=run.crop_pct,
        mean=list(run.mean),
        std=list(run.std),
        license=licence,
    )
    write_json(folder / CONFIG, config)


def _save_vectors(model: "nn.Module", folder: Path, input_size: tuple[int, int, int]) -> float:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(VECTOR_IMAGES, *input_size, generator=generator)  # (B, C, H, W), like normalized photos
    with torch.inference_mode():
        logits = model(images)
    if not torch.isfinite(logits).all():
        raise UserError("the model's logits are not finite (NaN or infinity); train again with a lower --lr")
    tolerance = TOLERANCE * max(1.0, logits.abs().max().item())
    facts = {"seed": str(SEED), "tolerance": repr(tolerance), "torch": torch.__version__}
    save_file({"input": images, "logits": logits.contiguous()}, folder / VECTORS, metadata=facts)
    return tolerance


def _measure(model: Any, run: Run, dtype: str, tolerance: float) -> Measured:
    import torch

    from timm_landmark.accounting.macs import count_macs
    from timm_landmark.layers import ChannelAttention2d, force_path

    with force_path("plain"):
        count = count_macs(model, torch.zeros(1, *run.input_size))
    return Measured(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=count.macs,
        activations=count.activations,
        num_features=model.num_features,
        feature_shapes=_feature_shapes(run),
        attention=any(isinstance(module, ChannelAttention2d) for module in model.modules()),
        ema=bool(run.args.get("model_ema")),
        dtype=dtype,
        tolerance=float(f"{tolerance:.1e}"),
    )


def _feature_shapes(run: Run) -> tuple[tuple[int, ...], ...]:
    """Shapes of the feature maps of ``features_only=True`` for one image; empty if the model does not support it."""
    import timm
    import torch

    arguments: dict[str, Any] = dict(run.args.get("model_kwargs") or {})
    try:
        model = timm.create_model(run.model, features_only=True, in_chans=run.input_size[0], **arguments).eval()
    except (RuntimeError, AttributeError, AssertionError, TypeError, ValueError):
        return ()
    with torch.inference_mode():
        return tuple(tuple(each.shape) for each in model(torch.zeros(1, *run.input_size)))
