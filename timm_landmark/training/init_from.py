"""``train --init-from``: copies every tensor with the same name and shape from another model before training."""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_landmark.hub.exported import PREFIX, load_model
from timm_landmark.runs.checkpoints import load_model_weights
from timm_landmark.runs.folder import INFO
from timm_landmark.runs.model import build_model, load_run
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import atomic_path
from timm_landmark.utils.hub_errors import explain
from timm_landmark.utils.hub_files import CONFIG, WEIGHTS
from timm_landmark.utils.text import say

if TYPE_CHECKING:
    import torch
    from torch import nn

FILE = "init.safetensors"  # in the run folder: the complete initial state, which the train script loads


@dataclass(frozen=True)
class Copied:
    """What was copied into a model.

    Attributes:
        source: The model, repository or file that was copied from.
        parameters: Number of copied parameters (values, without running statistics).
        of: Number of parameters of the model.
        tensors: Number of copied tensors, with running statistics.
        fresh: Names of the tensors that keep their random initialization.
    """

    source: str
    parameters: int
    of: int
    tensors: int
    fresh: tuple[str, ...]

    def describe(self) -> tuple[str, str]:
        """Two lines for the terminal; fresh tensors are grouped by the last two parts of their names."""
        endings = Counter(".".join(name.split(".")[-2:]) for name in self.fresh)
        fresh = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in endings.most_common())
        return (
            f"from {self.source}: copied {self.parameters:,} of {self.of:,} parameters ({self.tensors} tensors with "
            "the same name and shape)",
            f"randomly initialized: {fresh or 'nothing'}",
        )


def source_weights(source: str) -> "dict[str, torch.Tensor]":
    """The weights of a trained model.

    From the Hub only safetensors files are read; a local checkpoint is loaded with ``weights_only``.

    Args:
        source: ``hf-hub:ORG/NAME[@REVISION]``, the name of a pretrained timm model, an exported folder, a run folder
            (the weights of its best epoch) or a checkpoint file.

    Raises:
        UserError: If there is no such model, folder, repository or file, or it cannot be downloaded or read.
    """
    import timm

    path = Path(source)
    exported, run = ((path / name).is_file() for name in (CONFIG, INFO))
    if timm.is_model(source.partition(".")[0]):
        if exported or run:
            raise UserError(f"--init-from {source}: both a timm model and a folder; write ./{source} for the folder")
        return _timm_weights(source)
    if source.startswith(PREFIX) or exported:
        return load_model(source)[0].state_dict()
    if run:
        return load_model_weights(load_run(path).checkpoint)
    if not path.is_file():
        raise UserError(
            f"--init-from {source}: not a run, an exported folder, an hf-hub:ORG/NAME, a timm model or a checkpoint"
        )
    return load_model_weights(path)


def _timm_weights(name: str) -> "dict[str, torch.Tensor]":
    import timm

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        raise UserError(
            f"--init-from {name}: timm has no weights for this model on the Hub; give another model, a run or a "
            "checkpoint"
        )
    try:
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"hf_hub_filename": WEIGHTS}
        ).state_dict()
    except UserError:
        raise
    except Exception as error:
        if (reason := explain(error, cfg.hf_hub_id, WEIGHTS)) is None:
            raise
        raise UserError(f"--init-from {name}: {reason}") from None


def copy_equal(model: "nn.Module", weights: "dict[str, torch.Tensor]", source: str) -> Copied:
    """Copies every tensor with the same name and shape into ``model``.

    Raises:
        UserError: If there is no such parameter.
    """
    own = model.state_dict()
    shared = {
        name: weights[name] for name, value in own.items() if name in weights and weights[name].shape == value.shape
    }
    parameters = dict(model.named_parameters())
    copied = [name for name in parameters if name in shared]
    if not copied:
        raise UserError(f"--init-from {source}: none of its tensors has the name and shape of a parameter of the model")
    model.load_state_dict(shared, strict=False)
    return Copied(
        source=source,
        parameters=sum(parameters[name].numel() for name in copied),
        of=sum(value.numel() for value in parameters.values()),
        tensors=len(shared),
        fresh=tuple(name for name in own if name not in shared),
    )


def initial_state(args: argparse.Namespace, source: str) -> "tuple[dict[str, torch.Tensor], Copied]":
    """The state in which a run starts, and what of it is copied.

    Args:
        args: The train script's options: model, number of classes, seed (of the random initialization).
        source: As for :func:`source_weights`.

    Raises:
        UserError: If the source is unavailable or has no matching tensor.
    """
    import torch

    weights = source_weights(source)
    torch.manual_seed(args.seed)
    model = build_model(vars(args))
    copied = copy_equal(model, weights, source)
    return model.state_dict(), copied


def write_start(state: "dict[str, torch.Tensor]", copied: Copied, path: Path) -> dict[str, Any]:
    """Writes the initial state of a run and prints what was copied and what is randomly initialized.

    Args:
        state: From :func:`initial_state`, as is ``copied``.
        copied: What was copied.
        path: The safetensors file to write.

    Returns:
        What run.json records about it.
    """
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in state.items()}, temporary)
        temporary.chmod(0o644)
    say(*copied.describe())
    source = copied.source
    name = Path(source).resolve().name if Path(source).exists() else source  # run.json contains no local paths
    return {"source": name, "parameters_copied": copied.parameters, "parameters": copied.of, "tensors": copied.tensors}
