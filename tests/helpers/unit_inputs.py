"""Inputs of one attention unit, and the unit itself, for the tests of its paths and of its output."""

import torch

from timm_landmark.layers import ChannelAttention2d


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, size: float = 1.0) -> list[torch.Tensor]:
    """Input and the three weights, with gradients."""
    batch, in_chs, out_chs, groups, height, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.rand(batch, in_chs, height, width, generator=generator, dtype=torch.float64) * size
    weights = [torch.randn(out_chs, in_chs // groups, 1, 1, generator=generator, dtype=torch.float64) for _ in "qkv"]
    return [t.to(dtype).requires_grad_() for t in (x, *weights)]


def unit(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> ChannelAttention2d:
    """A unit whose BatchNorm has random weights and running statistics."""
    torch.manual_seed(0)
    module = ChannelAttention2d(shape[1], shape[2], groups=shape[3]).to(dtype)
    for tensor in (module.norm.weight, module.norm.bias, module.norm.running_mean, module.norm.running_var):
        torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return module
