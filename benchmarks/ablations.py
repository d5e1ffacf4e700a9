"""Variants of the attention unit, to find out what the paper's attention contributes and what could improve it.

Usage::

    python -m benchmarks.ablations COMMAND ...    # like timm-landmark COMMAND ..., with the variants as models
    python -m benchmarks.ablations train resneat50_cosine --data DATA --output RUN --epochs 10 --img-size 112

Importing this module registers the variants with timm. Each is ``resneat50`` with other attention units: with the same
seed, the weights that both models have are initialized identically. The package itself does not contain the variants.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import nn

from benchmarks.variants.cosine_attention import CosineAttention2d
from timm_landmark import cli
from timm_landmark.layers import ChannelAttention2d, attention_scale
from timm_landmark.models.resneat import ChannelAttentionBottleneck, resneat50


class ScaleOne(nn.Module):
    """No attention: only the grouped projection and its norm, like the last 1x1 of ResNeXt but with groups."""

    def __init__(self, in_chs: int, out_chs: int, groups: int) -> None:
        super().__init__()
        self.output = nn.Conv2d(in_chs, out_chs, 1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_chs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """norm(output(x)), shape (B, in_chs, H, W) -> (B, out_chs, H, W)."""
        return self.norm(self.output(x))


class MeanOfValues(ScaleOne):
    """One number per photo: Scale = sigmoid(mean of V), which is what the unit computes if its softmax is uniform."""

    def __init__(self, in_chs: int, out_chs: int, groups: int) -> None:
        super().__init__(in_chs, out_chs, groups)
        self.value = nn.Conv2d(in_chs, out_chs, 1, groups=groups, bias=False)

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """Scale (B, ch), the same for every channel."""
        v = self.value(F.adaptive_avg_pool2d(x, 1)).flatten(1)
        return torch.sigmoid(v.mean(1, keepdim=True)).expand_as(v)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale * norm(output(x)), shape (B, in_chs, H, W) -> (B, out_chs, H, W)."""
        return self.scale(x)[:, :, None, None] * self.norm(self.output(x))


class DenseOutput(ChannelAttention2d):
    """The paper's Scale on a dense 1x1 as in ResNeXt, to measure the cost of the groups in the last 1x1."""

    def __init__(self, in_chs: int, out_chs: int, groups: int) -> None:
        super().__init__(in_chs, out_chs, groups)
        self.output = nn.Conv2d(in_chs, out_chs, 1, bias=False)
        nn.init.kaiming_normal_(self.output.weight, mode="fan_out", nonlinearity="relu")  # as timm initialises ResNeXt

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale * norm(output(x)), shape (B, in_chs, H, W) -> (B, out_chs, H, W)."""
        scale = attention_scale(x, self.query.weight, self.key.weight, self.value.weight, self.groups)
        return scale[:, :, None, None] * self.norm(self.output(x))


class ChannelShuffle(nn.Module):
    """Channel shuffle as in ShuffleNet: spreads the channels of each group over all groups; no parameters, no MACs."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Permutes the channels of (B, C, H, W)."""
        batch, channels, height, width = x.shape
        return x.view(batch, self.groups, -1, height, width).transpose(1, 2).reshape(batch, channels, height, width)


@dataclass(frozen=True)
class Variant:
    """How a model differs from ``resneat50``.

    Attributes:
        unit: Replacement for the attention unit; None keeps the paper's.
        shuffle: Whether the channels are shuffled before the unit, whose projections are all grouped.
        start: Initial standard deviation of the weights of Q, K and V, times sqrt(fan-in); None keeps timm's, 0.18.
    """

    unit: Callable[[int, int, int], nn.Module] | None = None
    shuffle: bool = False
    start: float | None = None


# With it the standard deviation of Scale over the channels is 0.05 to 0.17 before training, with the paper's attention
# (whose logits are then large) as with cosine attention. With timm's initialisation V is so small that it is 0.01.
START = 2.0

VARIANTS = {
    "resneat50_scale1": Variant(ScaleOne),
    "resneat50_mean": Variant(MeanOfValues),
    "resneat50_large": Variant(start=START),
    "resneat50_cosine": Variant(CosineAttention2d, start=START),
    "resneat50_dense": Variant(DenseOutput),
    "resneat50_scale1_shuffle": Variant(ScaleOne, shuffle=True),
    "resneat50_shuffle": Variant(shuffle=True),
    "resneat50_cosine_shuffle": Variant(CosineAttention2d, shuffle=True, start=START),
}


def change(net: nn.Module, variant: Variant) -> nn.Module:
    """Turns a ``resneat50`` into one of its variants, in place."""
    for block in net.modules():
        if isinstance(block, ChannelAttentionBottleneck):
            if variant.shuffle:
                before = nn.Identity() if block.aa is None else block.aa
                block.aa = nn.Sequential(before, ChannelShuffle(block.attn.groups))  # aa is just before the unit
            if variant.start is not None:
                _restart(block.attn, variant.start)
            if variant.unit is not None:
                block.add_module("attn", _replaced(block.attn, variant.unit))
    return net


@torch.no_grad()
def _restart(unit: ChannelAttention2d, start: float) -> None:
    for projection in (unit.query, unit.key, unit.value):
        weight = projection.weight
        weight.mul_(start / math.sqrt(weight.shape[1]) / weight.std())


def _replaced(old: ChannelAttention2d, unit: Callable[[int, int, int], nn.Module]) -> nn.Module:
    """The new unit, with the layers of the old one where their shapes agree."""
    new = unit(old.output.in_channels, old.output.out_channels, old.groups)
    for name, part in new.named_children():
        if part.weight.shape == getattr(old, name).weight.shape:
            setattr(new, name, getattr(old, name))
    return new


def _register(name: str, variant: Variant) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            raise ValueError(f"pretrained=True: there are no weights for the variant {name}; use pretrained=False")
        return change(resneat50(**kwargs), variant)

    create.__name__ = name
    register_model(create)


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)

if __name__ == "__main__":
    sys.exit(cli.main())
