"""Inception-Res-PA: Inception-ResNet-v2 with pre-activation residual blocks.

Paper: "Pre-activation and self-attention in image classification" (Huang, Li, Cai), section 3.1 and Figure 6, after
"Identity mappings in deep residual networks" (He et al. 2016).

Where the paper is ambiguous (reading 6): only the residual blocks change. The branches share one BN-ReLU in front of
them; every further convolution of a branch, and the 1x1 convolution that restores the channels, has its own BN-ReLU in
front. That 1x1 convolution is linear and keeps its scale, and the shortcut is the identity. One BN-ReLU ends each run
of blocks. timm's last block (scale 1.0) belongs to the third run, which ends after it (reading 13). The stem and the
reductions are those of timm.

Based on timm's InceptionResnetV2 (Apache-2.0, after Cadene's port of Google's code).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, calculate_drop_path_rates, get_norm_act_layer
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from timm.models.inception_resnet_v2 import InceptionResnetV2
from torch import nn

from timm_landmark.models.pretrained import build_model
from timm_landmark.utils.hub_files import WEIGHTS

__all__ = ["InceptionResnetPa", "PreActResidual", "inception_resnet_pa"]

NormAct = Callable[[int], nn.Module]

# Branches of the three block types as (output channels, kernel) per convolution (Szegedy et al. 2016, fig. 16, 17, 19).
BLOCK35 = (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3)))
BLOCK17 = (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1))))
BLOCK8 = (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1))))

Branches = tuple[tuple[tuple[int, int | tuple[int, int]], ...], ...]


class PreActResidual(nn.Module):
    """An Inception-ResNet block with pre-activation: x + scale * F(BN-ReLU(x)) (Figure 6, right; section 2.3)."""

    def __init__(
        self,
        channels: int,
        branches: Branches,
        scale: float,
        norm_act: NormAct,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.scale = scale
        self.norm_act = norm_act(channels)
        self.branches = nn.ModuleList([_branch(channels, convs, norm_act, **dd) for convs in branches])
        width = sum(convs[-1][0] for convs in branches)
        self.norm_act_out = norm_act(width)
        self.conv2d = nn.Conv2d(width, channels, kernel_size=1, **dd)  # linear, with a bias as in timm
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) -> (B, channels, H, W); the shortcut is the identity."""
        h = self.norm_act(x)
        h = torch.cat([branch(h) for branch in self.branches], 1)
        h = self.conv2d(self.norm_act_out(h))
        return torch.add(x, self.drop_path(h), alpha=self.scale)  # scaled and added in one pass


def _branch(
    channels: int,
    convs: tuple[tuple[int, int | tuple[int, int]], ...],
    norm_act: NormAct,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for out_chs, size in convs:
        kernel = (size, size) if isinstance(size, int) else size
        if layers:
            layers.append(norm_act(channels))
        # explicit, because "same" traces to an operator that fvcore counts as zero
        padding = (kernel[0] // 2, kernel[1] // 2)
        layers.append(nn.Conv2d(channels, out_chs, kernel, padding=padding, bias=False, device=device, dtype=dtype))
        channels = out_chs
    return nn.Sequential(*layers)


class ResidualRun(nn.Sequential):
    """Pre-activation blocks and the BN-ReLU after them, with optional gradient checkpointing per block."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.grad_checkpointing = False  # an instance attribute, because torch.jit.script does not see class attributes

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self, input)
        for module in self:
            input = module(input)
        return input


class InceptionResnetPa(InceptionResnetV2):
    """timm's Inception-ResNet-v2 with pre-activation blocks; arguments as in timm, and ``drop_path_rate``.

    The final BN-ReLU is the last module of ``repeat``, ``repeat_1`` and ``block8``. So feature extraction returns
    activated maps, and the inherited methods work unchanged.

    Raises:
        ValueError: If ``output_stride`` is not 32.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        global_pool: str = "avg",
        norm_layer: str = "batchnorm2d",
        norm_eps: float = 1e-3,
        act_layer: str = "relu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if output_stride != 32:
            raise ValueError(
                f"output_stride={output_stride}: inception_resnet_pa has unpadded reductions and supports only 32; "
                "resneat50 supports 8, 16 and 32"
            )
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            global_pool=global_pool,
            norm_layer=norm_layer,
            norm_eps=norm_eps,
            act_layer=act_layer,
            device=device,
            dtype=dtype,
        )
        dd = {"device": device, "dtype": dtype}
        norm_act_layer = cast("Callable[..., nn.Module]", get_norm_act_layer(norm_layer, act_layer))
        norm_act = partial(norm_act_layer, eps=norm_eps, act_kwargs=dict(inplace=True), **dd)
        rates = iter(cast("list[float]", calculate_drop_path_rates(drop_path_rate, 40)))  # linear over all blocks

        def blocks(count: int, channels: int, branches: Branches, scale: float) -> list[PreActResidual]:
            return [
                PreActResidual(channels, branches, scale, norm_act, drop_path=next(rates), **dd) for _ in range(count)
            ]

        self.repeat = ResidualRun(*blocks(10, 320, BLOCK35, 0.17), norm_act(320))
        self.repeat_1 = ResidualRun(*blocks(20, 1088, BLOCK17, 0.10), norm_act(1088))
        self.repeat_2 = ResidualRun(*blocks(9, 2080, BLOCK8, 0.20))
        self.block8 = ResidualRun(*blocks(1, 2080, BLOCK8, 1.0), norm_act(2080))

    @torch.jit.ignore()
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enables or disables gradient checkpointing of the residual runs."""
        for module in self.modules():
            if isinstance(module, ResidualRun):
                module.grad_checkpointing = enable


default_cfgs = generate_default_cfgs(
    {
        "inception_resnet_pa.gld_1k": {
            "hf_hub_id": "timm-landmark/inception_resnet_pa.gld_1k",
            "hf_hub_filename": WEIGHTS,
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            # works from 75 pixels on; without padding, the maps of small images are well below H / reduction
            "min_input_size": (3, 160, 160),
            "pool_size": (5, 5),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": IMAGENET_DEFAULT_MEAN,  # the recipe uses the same for all seven models
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "conv2d_1a.conv",
            "classifier": "classif",
            "license": "apache-2.0",
        }
    }
)


@register_model
def inception_resnet_pa(pretrained: bool = False, **kwargs: Any) -> InceptionResnetPa:
    """Inception-Res-PA (section 3.1): Inception-ResNet-v2 with pre-activation."""
    return build_model(InceptionResnetPa, "inception_resnet_pa", pretrained, **kwargs)
