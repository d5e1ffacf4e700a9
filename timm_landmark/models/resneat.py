"""ResNeAt: ResNeXt with the last 1x1 convolution of every bottleneck replaced by a channel attention unit.

Paper: "Pre-activation and self-attention in image classification" (Huang, Li, Cai), section 3.2 and Table 1.

Where the paper is ambiguous: the shortcut is added to Scale * O (reading 1); the 3x3 convolution has the stride
(reading 5); the unit's input is the output of the 3x3 convolution after BN and ReLU, and the block ends with ReLU
(reading 12).

Based on timm's ResNet (Copyright 2019 Ross Wightman, Apache-2.0).
"""

import math
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import create_aa, create_attn
from timm.models import ResNet, generate_default_cfgs, register_model
from torch import nn

from timm_landmark.layers import ChannelAttention2d
from timm_landmark.models.pretrained import build_model
from timm_landmark.utils.hub_files import WEIGHTS

__all__ = ["ChannelAttentionBottleneck", "resneat50", "resneat101"]


class ChannelAttentionBottleneck(nn.Module):
    """1x1 reduce, grouped 3x3, attention unit, shortcut (Figure 8, right); arguments as timm's ``Bottleneck``."""

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        cardinality: int = 1,
        base_width: int = 64,
        reduce_first: int = 1,
        dilation: int = 1,
        first_dilation: int | None = None,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        attn_layer: type[nn.Module] | None = None,
        aa_layer: type[nn.Module] | None = None,
        drop_block: type[nn.Module] | None = None,
        drop_path: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        width = math.floor(planes * (base_width / 64)) * cardinality
        first_planes = width // reduce_first
        outplanes = planes * self.expansion
        first_dilation = first_dilation or dilation
        use_aa = aa_layer is not None and (stride == 2 or first_dilation != dilation)

        self.conv1 = nn.Conv2d(inplanes, first_planes, kernel_size=1, bias=False, **dd)
        self.bn1 = norm_layer(first_planes, **dd)
        self.act1 = act_layer(inplace=True)

        self.conv2 = nn.Conv2d(
            first_planes,
            width,
            kernel_size=3,
            stride=1 if use_aa else stride,
            padding=first_dilation,
            dilation=first_dilation,
            groups=cardinality,
            bias=False,
            **dd,
        )
        self.bn2 = norm_layer(width, **dd)
        self.drop_block = drop_block() if drop_block is not None else nn.Identity()
        self.act2 = act_layer(inplace=True)
        # nn.Identity if there is no layer
        self.aa: Any = create_aa(aa_layer, width, stride, use_aa, **dd)  # pyright: ignore[reportArgumentType]

        self.attn = ChannelAttention2d(width, outplanes, groups=cardinality, norm_layer=norm_layer, **dd)
        self.se = create_attn(attn_layer, outplanes, **dd)
        self.act3 = act_layer(inplace=True)
        self.downsample = downsample
        self.stride = stride
        self.dilation = dilation
        self.drop_path = drop_path

    def zero_init_last(self) -> None:
        """Zero-initializes the weight of the unit's BatchNorm, so that the block starts as the identity."""
        if (weight := getattr(self.attn.norm, "weight", None)) is not None:
            nn.init.zeros_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """ReLU(AU(3x3(1x1(x))) + shortcut(x)), shape (B, inplanes, H, W) -> (B, 4 * planes, H/stride, W/stride)."""
        shortcut = x

        x = self.act1(self.bn1(self.conv1(x)))
        x = self.aa(self.act2(self.drop_block(self.bn2(self.conv2(x)))))
        x = self.attn(x)

        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x += shortcut
        return self.act3(x)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "hf_hub_filename": WEIGHTS,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "resneat50.gld_1k": _cfg(hf_hub_id="timm-landmark/resneat50.gld_1k"),
        "resneat101.gld_1k": _cfg(hf_hub_id="timm-landmark/resneat101.gld_1k"),
    }
)


def _create_resneat(variant: str, pretrained: bool = False, **kwargs: Any) -> ResNet:
    return build_model(ResNet, variant, pretrained, **kwargs)


@register_model
def resneat50(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNeAt-50 (Table 1): 3, 4, 6, 3 bottlenecks, cardinality 32, base width 4."""
    model_args = dict(block=ChannelAttentionBottleneck, layers=(3, 4, 6, 3), cardinality=32, base_width=4)
    return _create_resneat("resneat50", pretrained, **dict(model_args, **kwargs))


@register_model
def resneat101(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNeAt-101: 3, 4, 23, 3 bottlenecks; not in the paper, which claims that depth helps (section 6)."""
    model_args = dict(block=ChannelAttentionBottleneck, layers=(3, 4, 23, 3), cardinality=32, base_width=4)
    return _create_resneat("resneat101", pretrained, **dict(model_args, **kwargs))
