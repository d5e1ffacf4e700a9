"""The loader that validation, the stand-in and every evaluation share."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def validation_loader(
    dataset: Any, config: Mapping[str, Any], batch_size: int, workers: int, device: "torch.device"
) -> Iterable[tuple["torch.Tensor", "torch.Tensor"]]:
    """The loader with timm's transform for validation: one for the trainer's stand-in and for every evaluation.

    Args:
        dataset: Gives images and labels; timm sets its ``transform``.
        config: Holds input_size, mean, std, interpolation and crop_pct, as timm's data config does.
        batch_size: Images a step.
        workers: Loading processes beside this one.
        device: Where the batches are wanted.
    """
    from timm.data import create_loader

    transform = {key: config[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    return create_loader(dataset, batch_size=batch_size, num_workers=workers, device=device, **transform)
