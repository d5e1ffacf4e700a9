"""Scale * BatchNorm(O) as one projection of the input, without computing O itself.

O = Wo x is linear in x, so its statistics follow from those of the input: with mean m and covariance S of x over batch
and positions, O has mean Wo m and variance diag(Wo S Wo^T). BatchNorm and Scale become a factor and an offset for each
image and channel, and the factor is folded into the weights:

    Scale * (gamma * (Wo x - mean) / sqrt(var + eps) + beta)  =  (gain * Wo) x + offset.

In training this saves four passes over a map of ch channels and stores half as much for the backward pass. S is
computed from the centred input to avoid cancellation. In evaluation, mean and variance are the running statistics.
"""

from typing import Any, Protocol, TypeGuard

import torch
import torch.fx
from torch import nn

from timm_landmark.layers.streamed_attention import compute_dtype


class FoldableNorm(Protocol):
    """An ``nn.BatchNorm2d`` with its usual settings; torch declares most of these attributes as optional."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float
    eps: float
    training: bool


def can_fold(norm: nn.Module, x: torch.Tensor) -> TypeGuard[FoldableNorm]:
    """Whether ``folded_output`` can replace ``Scale * norm(output(x))``.

    It supports ``nn.BatchNorm2d`` with its usual settings (not subclasses such as SyncBatchNorm) in float32, float64 or
    bfloat16. Of the graphs exported from torch, only an exported program in evaluation mode with a fixed image size
    uses it; the others keep BatchNorm as a separate node for the tools that look for it.
    """
    if torch.jit.is_tracing() or isinstance(x, torch.fx.Proxy) or differentiates_forward(x):
        return False
    usual = type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None
    if not usual or x.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return False
    if torch.compiler.is_exporting():
        return not norm.training and isinstance(x.shape[2], int) and isinstance(x.shape[3], int)
    return not (in_autocast(x) and x.dtype == torch.float32)


def in_autocast(x: torch.Tensor) -> bool:
    """Whether autocast is enabled for the tensor's device; the meta device does not support the query.

    torch.amp.is_autocast_available supports every device, but torch.compile (2.9) cannot trace it.
    """
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def differentiates_forward(*tensors: torch.Tensor) -> bool:
    """Whether a torch.func transform is active or one of the tensors carries a forward-mode tangent.

    The custom operators only have a backward pass, so every other derivative needs the ordinary operators: a transform
    would silently drop the tangents of a custom operator. torch has no public API to detect an active transform.
    """
    if torch.jit.is_tracing():
        return False
    if _transforms_active():
        return True
    if torch.compiler.is_compiling():  # of a dual number torch.compile itself says that it cannot trace it
        return False
    return any(torch.autograd.forward_ad.unpack_dual(t).tangent is not None for t in tensors)


@torch.compiler.assume_constant_result
def _transforms_active() -> bool:
    """Asked while torch.compile traces: it compiles a function inside and outside of a transform separately."""
    return torch._C._are_functorch_transforms_active()


def folds_cheaply(in_chs: int, groups: int, height: int, width: int) -> bool:
    """Whether the folded weights of one image are no larger than its output map: s >= C / groups."""
    return height * width >= in_chs // groups


def folded_output(
    x: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, norm: FoldableNorm, groups: int
) -> torch.Tensor:
    """Computes Scale * norm(O), with O the grouped 1x1 convolution of x; updates the running statistics in training.

    Args:
        x: The unit's input, shape (B, C, H, W).
        scale: Scale, shape (B, ch).
        weight: Weight of the output projection, shape (ch, C / groups, 1, 1).
        norm: The BatchNorm of O, accepted by ``can_fold``.
        groups: Number of groups.

    Returns:
        A new tensor of shape (B, ch, H, W).

    Raises:
        ValueError: If there is only one value per channel in training, like BatchNorm itself.
    """
    batch, _, height, width = x.shape
    if in_autocast(x):
        with torch.autocast(x.device.type, enabled=False):
            return folded_output(x, scale, weight, norm, groups)
    dtype = compute_dtype(x)  # of all products but the last: bfloat16 maps are averaged in float32
    maps = x.reshape(batch, groups, weight.shape[1], height * width)  # (B, g, c, s)
    wo, scale = weight.to(dtype).view(groups, -1, weight.shape[1]), scale.to(dtype)  # (g, ch/g, c)
    if norm.training:
        mean, var = _statistics(maps, wo)
        _update_running(norm, mean.detach(), var.detach(), batch * height * width)
    else:
        mean, var = norm.running_mean, norm.running_var
    gain = scale * (norm.weight * torch.rsqrt(var + norm.eps))  # (B, ch)
    offset = scale * norm.bias - gain * mean
    folded = gain.view(batch, *wo.shape[:2], 1) * wo  # (B, g, ch/g, c)
    bias = offset.view(batch * groups, wo.shape[1], 1).to(x.dtype)
    out = torch.baddbmm(bias, folded.flatten(0, 1).to(x.dtype), maps.flatten(0, 1))
    # Not a view: autograd would copy the map when the block adds the shortcut to a view in place.
    return torch.ops.aten._unsafe_view(out, [batch, offset.shape[1], height, width])


def _statistics(maps: torch.Tensor, wo: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of O, each (ch,), from the input (B, g, c, s)."""
    batch, _, _, area = maps.shape
    count = batch * area
    if count == 1:
        raise ValueError("BatchNorm in training needs more than one value per channel: use a larger batch or image")
    mean = maps.mean((0, 3), dtype=wo.dtype)  # (g, c)
    covariance = _Covariance.apply(maps, mean.detach())
    var = ((wo @ covariance) * wo).sum(2).clamp(min=0)  # diag(Wo S Wo^T), which rounding may make negative
    return (wo @ mean.unsqueeze(2)).flatten(), var.flatten()


class _Covariance(torch.autograd.Function):
    """Biased covariance of the channels within each group; saves the maps for backward, not a centred copy."""

    @staticmethod
    def forward(maps: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """(B, g, c, s), (g, c) -> (g, c, c)."""
        centred = maps - mean[:, :, None]
        return (centred @ centred.transpose(2, 3)).sum(0) / (maps.shape[0] * maps.shape[3])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator has no types
        ctx: Any, d: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """The mean needs no gradient: the deviations from it sum to zero."""
        maps, mean = ctx.saved_tensors
        d = (d + d.transpose(1, 2)) / (maps.shape[0] * maps.shape[3])
        return (d @ (maps - mean[:, :, None])).to(maps.dtype), None


@torch.no_grad()
def _update_running(norm: FoldableNorm, mean: torch.Tensor, var: torch.Tensor, count: int) -> None:
    norm.num_batches_tracked.add_(1)
    unbiased = var * (count / (count - 1))  # as in BatchNorm
    for kept, new in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        kept.lerp_(new.to(kept.dtype), norm.momentum)
