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


def can_fold(x: torch.Tensor, norm: nn.Module) -> bool:
    """Whether the folded form may stand in for ``Scale * norm(output(x))``.

    It knows nn.BatchNorm2d with its usual settings (not a subclass, such as the one that synchronises processes), in
    full precision, run eagerly: a compiler fuses the passes by itself, and a graph that leaves torch keeps BatchNorm.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or isinstance(x, torch.fx.Proxy):
        return False
    usual = type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None
    full = x.dtype in (torch.float32, torch.float64) and x.dtype == norm.weight.dtype if usual else False
    return full and not in_autocast(x)


def in_autocast(x: torch.Tensor) -> bool:
    """Whether autocast is on for the tensor's device; meta has none and must not be asked.

    torch.amp.is_autocast_available would ask for any device, but torch.compile (2.9) cannot trace it.
    """
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


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
    maps = x.reshape(batch, groups, -1, height * width)  # (B, g, c, s)
    wo = weight.view(groups, -1, weight.shape[1])  # (g, ch/g, c)
    if norm.training:
        mean, var = _statistics(maps, wo)
        _update_running(norm, mean.detach(), var.detach(), batch * height * width)
    else:
        mean, var = norm.running_mean, norm.running_var
    gain = scale * (norm.weight * torch.rsqrt(var + norm.eps))  # (B, ch)
    offset = scale * norm.bias - gain * mean
    folded = gain.view(batch, groups, -1, 1) * wo  # (B, g, ch/g, c)
    out = torch.baddbmm(offset.view(batch * groups, -1, 1), folded.flatten(0, 1), maps.flatten(0, 1))
    # Not a view for autograd, which would copy the map to differentiate what the block adds to it in place.
    return torch.ops.aten._unsafe_view(out, [batch, offset.shape[1], height, width])


def _statistics(maps: torch.Tensor, wo: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of O, each (ch,), from the input (B, g, c, s)."""
    batch, _, _, area = maps.shape
    count = batch * area
    if count == 1:
        raise ValueError("BatchNorm in training needs more than one value per channel: use a larger batch or image")
    mean = maps.mean((0, 3))  # (g, c)
    covariance = _Covariance.apply(maps, mean.detach())
    var = ((wo @ covariance) * wo).sum(2)  # diag(Wo S Wo^T)
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
        return d @ (maps - mean[:, :, None]), None


@torch.no_grad()
def _update_running(norm: nn.BatchNorm2d, mean: torch.Tensor, var: torch.Tensor, count: int) -> None:
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(var * (count / (count - 1)), norm.momentum)  # unbiased, as BatchNorm keeps it
