"""Run folders: what timm's train script writes, and ``run.json`` beside it.

RUN/args.yaml  RUN/summary.csv  RUN/last.pth.tar  RUN/checkpoint-N.pth.tar  RUN/model_best.pth.tar   (the trainer's)
RUN/run.json   model, recipe, seed, data digest, trainer, this project's commit, machine, wall time, parameters,
               evaluation (this package's)
RUN/predictions-SPLIT.csv  RUN/features-SPLIT.npz   what `evaluate` and its --keep-features write
RUN/classes.csv   the data set's classes in the order of the model's outputs (read_rows(RUN, ClassRow))
"""

import argparse
import csv
import io
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_landmark.data.address import Address, Place, place
from timm_landmark.errors import UserError
from timm_landmark.files import write_atomic, write_json

if TYPE_CHECKING:
    import torch
    from torch import nn

LAST, BEST, PARTIAL = "last.pth.tar", "model_best.pth.tar", "tmp.pth.tar"  # timm's CheckpointSaver's names


@dataclass(frozen=True)
class Run:
    """A training run as its folder tells it; ``data`` is None where the data set is not (or no longer) there."""

    path: Path
    model: str
    args: dict[str, Any]
    info: dict[str, Any]
    checkpoint: Path
    data: Place | None
    num_classes: int
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


def load_run(path: Path) -> Run:
    """Reads a run folder.

    Args:
        path: The folder given to ``train --output``.

    Raises:
        UserError: If the folder, one of its files or every checkpoint is missing or unreadable.
    """
    path = Path(path)
    info, args = read_info(path), read_args(path)
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    import timm_landmark  # noqa: F401  (registers the models, whose defaults are asked for)

    model = args["model"]
    default = get_pretrained_cfg(model)
    config = resolve_data_config(args, pretrained_cfg=default.to_dict() if default else None)
    data = place(args["data_dir"]) if args.get("data_dir") else None
    if isinstance(data, Address) and data.is_command:
        data = None  # a run may come from somebody else: a command is run only for the --data of one's own
    return Run(
        path=path,
        model=model,
        args=args,
        info=info,
        checkpoint=best_checkpoint(path, args.get("eval_metric", "top1")),
        data=data if data is not None and data.is_dir() else None,
        num_classes=args["num_classes"],
        input_size=tuple(config["input_size"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
    )


def read_info(path: Path) -> dict[str, Any]:
    """Reads ``run.json``.

    Raises:
        UserError: If the folder or the file is missing, or the file is not JSON.
    """
    try:
        return json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is not a run (run.json is missing); make one with `timm-landmark train`") from None
    except ValueError as error:
        raise UserError(f"{path / 'run.json'} is not JSON ({error}); restore it or train again") from None


def update_info(path: Path, **values: Any) -> dict[str, Any]:
    """Sets top-level ``values`` in ``run.json`` (made if missing) atomically; returns the whole."""
    info = read_info(path) if (path / "run.json").exists() else {}
    info.update(values)
    write_json(path / "run.json", info)
    return info


def read_args(path: Path) -> dict[str, Any]:
    """Reads ``args.yaml``, the trainer's full set of options.

    Raises:
        UserError: If it is missing or not a mapping with a model.
    """
    import yaml

    try:
        args = yaml.safe_load((path / "args.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not a run (args.yaml is missing); make one with `timm-landmark train`") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path / 'args.yaml'} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(args, dict) or not args.get("model"):
        raise UserError(f"{path / 'args.yaml'} names no model; it is not the file that timm's train script writes")
    return args


def read_summary(path: Path) -> list[dict[str, float]]:
    """Reads ``summary.csv``: one row an epoch, in order, values as numbers; empty where there is no file yet.

    Repeated header lines, which timm's train script writes on resume, and a last line torn by a kill are passed over;
    of an epoch trained twice the later row counts.
    """
    file = Path(path) / "summary.csv"
    if not file.exists():
        return []
    header: list[str] = []
    rows: dict[int, dict[str, float]] = {}
    for line in csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")):
        if line and line[0] == "epoch":
            header = line
            continue
        try:
            row = {name: float(text) for name, text in zip(header, line, strict=True)}
        except ValueError:
            continue  # torn
        if row:
            rows[int(row["epoch"])] = row
    return [rows[epoch] for epoch in sorted(rows)]


def tidy_summary(path: Path, epochs: int) -> None:
    """Leaves in ``summary.csv`` one header and, once each, the rows of the first ``epochs`` epochs.

    The lines themselves are kept as the trainer wrote them, to the last digit.
    """
    file = Path(path) / "summary.csv"
    if not file.exists():
        return
    text = file.read_bytes().decode()
    header, rows = "", {}
    for line in text.splitlines(keepends=True):
        first = line.split(",", 1)[0]
        if first == "epoch":
            header = header or line
        elif first.isdigit() and int(first) < epochs and line.endswith("\n") and line.count(",") == header.count(","):
            rows[int(first)] = line
    tidy = header + "".join(rows[epoch] for epoch in sorted(rows))
    if tidy != text:
        write_atomic(file, tidy)


def checkpoint_epoch(file: Path) -> int | None:
    """The epoch that a checkpoint closes, or None if it is missing, torn or no checkpoint of timm's."""
    try:
        epoch = _load(file, mmap=True)["epoch"]
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError):
        return None
    return epoch if isinstance(epoch, int) else None


def best_epoch(rows: list[dict[str, float]], metric: str = "top1") -> int | None:
    """The epoch with the best validation ``metric`` (the first of equals, as timm's saver ranks), None without rows."""
    if not rows:
        return None
    column, sign = (f"eval_{metric}", 1) if f"eval_{metric}" in rows[0] else ("train_loss", -1)
    if metric == "loss":
        sign = -1
    return int(max(rows, key=lambda row: sign * row[column])["epoch"])


def best_checkpoint(path: Path, metric: str = "top1") -> Path:
    """The checkpoint of the run's best epoch on validation.

    ``summary.csv`` decides, not the name of a file: the stock script forgets its best epoch on resume and then calls
    the first one that follows the best.

    Raises:
        UserError: If there is no finished epoch or the best epoch's checkpoint is gone.
    """
    epoch = best_epoch(read_summary(path), metric)
    if epoch is None:
        raise UserError(f"{path} has no finished epoch (summary.csv is missing or empty); train on with --resume")
    for name in (f"checkpoint-{epoch}.pth.tar", BEST, LAST):
        if checkpoint_epoch(path / name) == epoch:
            return path / name
    raise UserError(f"{path} has no readable checkpoint of its best epoch, {epoch}; restore it or train again")


def settle(path: Path, metric: str = "top1", keep: int = 1) -> int:
    """Brings a run folder that a kill may have left anywhere to the state after its last finished epoch.

    A checkpoint that was whole but not yet renamed is taken over, ``summary.csv`` is cut to the epochs that have a
    checkpoint, ``model_best.pth.tar`` becomes the best of the whole run, and checkpoints beyond the ``keep`` best ones
    go.

    Returns:
        The number of finished epochs.
    """
    partial, last = checkpoint_epoch(path / PARTIAL), checkpoint_epoch(path / LAST)
    if partial is not None and (last is None or partial > last):
        os.replace(path / PARTIAL, path / LAST)
        last = partial
    (path / PARTIAL).unlink(missing_ok=True)
    if last is None:
        if len(read_summary(path)) > 1:
            raise UserError(
                f"{path} has {len(read_summary(path))} epochs in summary.csv but no readable {LAST}; restore it, or "
                "train again into another --output"
            )
        tidy_summary(path, 0)
        return 0
    tidy_summary(path, last + 1)
    rows = read_summary(path)
    if [int(row["epoch"]) for row in rows] != list(range(last + 1)):
        raise UserError(f"{path / 'summary.csv'} lacks epochs before {last + 1}; restore it, or train again")
    best = best_epoch(rows, metric)
    if checkpoint_epoch(path / BEST) != best:
        _link(best_checkpoint(path, metric), path / BEST)
    if not (path / f"checkpoint-{best}.pth.tar").exists():
        _link(path / BEST, path / f"checkpoint-{best}.pth.tar")
    ranked = [best_epoch(rows, metric)]
    while len(ranked) < keep and len(ranked) < len(rows):
        ranked.append(best_epoch([row for row in rows if row["epoch"] not in ranked], metric))
    for file in path.glob("checkpoint-*.pth.tar"):
        epoch = file.name.removeprefix("checkpoint-").removesuffix(".pth.tar")
        if epoch.isdigit() and int(epoch) not in ranked:
            file.unlink()
    return last + 1


def _link(source: Path, target: Path) -> None:
    """A second name for ``source``, put in place by rename; a copy where the file system has no hard links."""
    import shutil

    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copy2(source, temporary)
    os.replace(temporary, target)


def _load(file: Path, mmap: bool = False) -> Any:
    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):  # timm's checkpoints hold the parsed options
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def load_model_weights(path: Path) -> "dict[str, torch.Tensor]":
    """Reads weights from a checkpoint without ever running what a pickle asks for.

    Args:
        path: A checkpoint of timm's train script (the EMA weights are preferred where it has them), a bare state dict
            or a ``.safetensors`` file.

    Raises:
        UserError: If the file is missing, torn, asks for code to be run, or holds no weights.
    """
    import torch
    from timm.models import load_state_dict

    path = Path(path)
    try:
        weights = load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; give a run folder with one, or train first") from None
    except Exception as error:
        unsafe = "weights_only" in str(error) or isinstance(error, pickle.UnpicklingError)
        reason = "it asks for code to be run, which was refused" if unsafe else f"it cannot be read ({_first(error)})"
        raise UserError(f"{path}: {reason}; use a checkpoint from a source that you trust") from None
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path} holds no weights; give a checkpoint that timm's train script wrote")
    return weights


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def load_run_model(run: Run, device: "str | torch.device" = "cpu") -> "nn.Module":
    """The run's model with the weights of its best epoch, in eval mode on ``device``.

    Raises:
        UserError: If the weights cannot be read or do not fit the model.
    """
    from timm import create_model

    import timm_landmark  # noqa: F401

    try:
        model = create_model(
            run.model,
            num_classes=run.num_classes,
            in_chans=run.input_size[0],
            global_pool=run.args.get("gp"),
            **(run.args.get("model_kwargs") or {}),
        )
        model.load_state_dict(load_model_weights(run.checkpoint))
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{run.checkpoint} does not fit {run.model} of {run.path / 'args.yaml'}: {_first(error)}"
        ) from None
    return model.to(device).eval()
