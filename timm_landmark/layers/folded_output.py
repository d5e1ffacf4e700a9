"""Scale * BatchNorm(O) as one projection of the input: what the unit does with Scale, without O itself.

O = Wo x is linear in x, so its statistics follow from the input's: with mean m and covariance S of x over batch and
positions, O has mean Wo m and variance diag(Wo S Wo^T). BatchNorm and Scale then are a factor and an offset for each
image and channel, and the factor goes into the weights:

    Scale * (gamma * (Wo x - mean) / sqrt(var + eps) + beta)  =  (gain * Wo) x + offset.

In training this saves four passes over a map of ch channels and keeps half as much for the backward pass; S is taken of
the centred input, so no large numbers are subtracted. In evaluation mean and variance are the running ones.
"""

import torch
import torch.fx
from torch import nn

from timm_landmark.layers.streamed_attention import compute_dtype


def can_fold(x: torch.Tensor, norm: nn.Module) -> bool:
    """Whether the folded form may stand in for ``Scale * norm(output(x))``.

    It knows nn.BatchNorm2d with its usual settings (not a subclass, such as the one that synchronises processes), in
    float32, float64 or bfloat16. Of graphs that leave torch, only an exported program in evaluation mode with a fixed
    image size takes it; the others keep BatchNorm for the tools that look for it.
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
    """Whether autocast is on for the tensor's device; meta has none and must not be asked.

    torch.amp.is_autocast_available would ask for any device, but torch.compile (2.9) cannot trace it.
    """
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def differentiates_forward(*tensors: torch.Tensor) -> bool:
    """Whether a transform of torch.func is at work, or one of the tensors carries a tangent.

    The custom operators have a backward pass only; the ordinary ones serve every other kind of derivative. torch has no
    public question for the first: without one, a transform would drop the tangents of a custom operator silently.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._are_functorch_transforms_active():
        return True
    return any(torch.autograd.forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def folds_cheaply(in_chs: int, groups: int, height: int, width: int) -> bool:
    """Whether one image's weights are no more than what they produce: s >= C / groups."""
    return height * width >= in_chs // groups


def folded_output(
    x: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, norm: nn.BatchNorm2d, groups: int
) -> torch.Tensor:
    """Scale * norm(O) with O the grouped 1x1 convolution of x; updates the running statistics in training.

    Args:
        x: The unit's input, shape (B, C, H, W).
        scale: Scale, shape (B, ch).
        weight: Weight of the output projection, shape (ch, C / groups, 1, 1).
        norm: The BatchNorm on O.
        groups: Number of groups.

    Returns:
        A new tensor of shape (B, ch, H, W).

    Raises:
        ValueError: If there is one value a channel in training, as BatchNorm itself does.
    """
    batch, _, height, width = x.shape
    if in_autocast(x):
        with torch.autocast(x.device.type, enabled=False):
            return folded_output(x, scale, weight, norm, groups)
    dtype = compute_dtype(x)  # of all but the last product: bfloat16 maps are averaged in float32
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
    factors = (offset.view(batch * groups, wo.shape[1], 1), folded.flatten(0, 1))
    out = torch.baddbmm(*(t.to(x.dtype) for t in factors), maps.flatten(0, 1))
    # Not a view for autograd, which would copy the map to differentiate what the block adds to it in place.
    return torch.ops.aten._unsafe_view(out, [batch, offset.shape[1], height, width])


def _statistics(maps: torch.Tensor, wo: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of O, each (ch,), from the input (B, g, c, s)."""
    batch, _, _, area = maps.shape
    count = batch * area
    if count == 1:
        raise ValueError("BatchNorm in training needs more than one value per channel: use a larger batch or image")
    mean = maps.mean((0, 3), dtype=wo.dtype)  # (g, c)
    covariance = _Covariance.apply(maps, mean.detach())
    var = ((wo @ covariance) * wo).sum(2).clamp(min=0)  # diag(Wo S Wo^T), which rounding can push below zero
    return (wo @ mean.unsqueeze(2)).flatten(), var.flatten()


class _Covariance(torch.autograd.Function):
    """Biased covariance of the channels within each group, about their mean; keeps the maps, not a centred copy."""

    @staticmethod
    def forward(maps: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """(B, g, c, s), (g, c) -> (g, c, c)."""
        centred = maps - mean[:, :, None]
        return (centred @ centred.transpose(2, 3)).sum(0) / (maps.shape[0] * maps.shape[3])

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, d: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The mean has no part in it: the deviations from it sum to zero."""
        maps, mean = ctx.saved_tensors
        d = (d + d.transpose(1, 2)) / (maps.shape[0] * maps.shape[3])
        return (d @ (maps - mean[:, :, None])).to(maps.dtype), None


@torch.no_grad()
def _update_running(norm: nn.BatchNorm2d, mean: torch.Tensor, var: torch.Tensor, count: int) -> None:
    norm.num_batches_tracked.add_(1)
    unbiased = var * (count / (count - 1))  # as BatchNorm keeps it
    for kept, new in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        kept.lerp_(new.to(kept.dtype), norm.momentum)
