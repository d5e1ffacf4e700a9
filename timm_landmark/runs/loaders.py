"""The data loader of validation and evaluation."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def validation_loader(
    dataset: Any, config: Mapping[str, Any], batch_size: int, workers: int, device: "torch.device"
) -> Iterable[tuple["torch.Tensor", "torch.Tensor"]]:
    """A loader with timm's validation transform, shared by the stand-in and by every evaluation.

    Args:
        dataset: Yields images and labels; timm sets its ``transform``.
        config: Has input_size, mean, std, interpolation and crop_pct, as timm's data config does.
        batch_size: Images per batch.
        workers: Number of data loading processes; 0 loads in this process.
        device: Device of the batches.

    Returns:
        Batches of normalized images (N, C, H, W) and labels (N,).
    """
    from timm.data import create_loader

    transform = {key: config[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    return create_loader(dataset, batch_size=batch_size, num_workers=workers, device=device, **transform)
