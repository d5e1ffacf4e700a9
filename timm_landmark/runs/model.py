"""Loading of a run folder, and of its model with the weights of the best epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_landmark.data.address import Address, Place, place
from timm_landmark.runs.checkpoints import best_checkpoint, load_model_weights
from timm_landmark.runs.folder import ARGS, best_epoch, read_args, read_run_info, read_summary
from timm_landmark.utils.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Run:
    """A training run, read from its folder; ``data`` is None if the data set does not exist (any more)."""

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

    @property
    def best_epoch(self) -> int | None:
        """The epoch of ``checkpoint``, which is the best on validation by ``--eval-metric``."""
        return best_epoch(read_summary(self.path), self.args.get("eval_metric", "top1"))


def load_run(path: Path) -> Run:
    """Reads a run folder.

    Args:
        path: The folder given to ``train --output``.

    Raises:
        UserError: If the folder, one of its files or all checkpoints are missing or unreadable.
    """
    path = Path(path)
    info, args = read_run_info(path), read_args(path)
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    model = args["model"]
    default = get_pretrained_cfg(model)
    config = resolve_data_config(args, pretrained_cfg=default.to_dict() if default else None)
    data = place(args["data_dir"]) if args.get("data_dir") else None
    if isinstance(data, Address) and data.is_command:
        data = None  # the run may come from another user: only commands given with --data are run
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


def build_model(args: Mapping[str, Any], **changes: Any) -> "nn.Module":
    """Builds the model of a run, as timm's train script does, with random weights.

    Args:
        args: The options, as in ``args.yaml``: model, num_classes, in_chans, gp, bn_eps, model_kwargs.
        changes: Arguments of ``timm.create_model`` that replace the run's.
    """
    from timm import create_model

    arguments = {
        "num_classes": args["num_classes"],
        "in_chans": args.get("in_chans"),
        "global_pool": args.get("gp"),
        "bn_eps": args.get("bn_eps"),
        **(args.get("model_kwargs") or {}),
    }
    return create_model(args["model"], **arguments | changes)


def load_run_model(run: Run, device: "str | torch.device" = "cpu") -> "nn.Module":
    """Loads the run's model with the weights of its best epoch, in eval mode on ``device``.

    Raises:
        UserError: If the weights cannot be read or do not fit the model.
    """
    try:
        model = build_model(run.args, in_chans=run.input_size[0])
        model.load_state_dict(load_model_weights(run.checkpoint))
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{run.checkpoint} does not fit {run.model} of {run.path / ARGS} ({first_line(error, 120)}); restore the "
            "files of the run or train again"
        ) from None
    return model.to(device).eval()
