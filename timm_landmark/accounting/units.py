"""The counts in the paper (units of section 3.2.4, Table 1, whole networks), from modules and from closed formulas."""

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models.resnet import Bottleneck
from torch import nn

from timm_landmark.accounting.claims import SEVEN
from timm_landmark.accounting.macs import build, convolution_weights, count_model
from timm_landmark.layers import ChannelAttention2d
from timm_landmark.models.resneat import ChannelAttentionBottleneck

IMG_SIZE = 224  # Table 1's
COUNTED = (*SEVEN, "resneat101")
LAYERS = {
    "resnet50": (3, 4, 6, 3),
    "resnext50_32x4d": (3, 4, 6, 3),
    "resneat50": (3, 4, 6, 3),
    "resneat101": (3, 4, 23, 3),
}


def paper_counts() -> dict[str, Any]:
    """All counts behind claims and tables, ready for JSON; takes about ten seconds on one core."""
    counts = {name: count_model(name, IMG_SIZE).as_dict() for name in COUNTED}
    return {
        "img_size": IMG_SIZE,
        "units": unit_weights(),
        "models": counts,
        "table_1": {name: table_1(name) for name in ("resnet50", "resnext50_32x4d", "resneat50")},
        "depths": {name: depth(name) for name in LAYERS},
    }


def unit_weights() -> dict[str, int]:
    """Convolution weights of the three units of section 3.2.4: 256 input and output channels, width 128, 32 groups."""
    units = {
        "resnet": Bottleneck(256, 64, base_width=128),
        "resnext": Bottleneck(256, 64, cardinality=32, base_width=4),
        "resneat": ChannelAttentionBottleneck(256, 64, cardinality=32, base_width=4),
    }
    return {name: convolution_weights(unit) for name, unit in units.items()}


def table_1(name: str) -> dict[str, str]:
    """One column of Table 1, from forward hooks on the model: output shape and blocks of each stage."""
    model, x = build(name, IMG_SIZE)
    stages = {"act1": "conv1", "layer1": "conv2", "layer2": "conv3", "layer3": "conv4", "layer4": "conv5", "fc": "fc"}
    shapes: dict[str, str] = {}

    def record(stage: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        return lambda module, inputs, output: shapes.update({stage: "x".join(map(str, output.shape[1:]))})

    for member, stage in stages.items():
        model.get_submodule(member).register_forward_hook(record(stage))
    with torch.no_grad():
        model(x)
    for member, stage in stages.items():
        if member.startswith("layer"):
            shapes[stage] += f" {_blocks(model.get_submodule(member))}"
    return shapes


def _blocks(stage: nn.Module) -> str:
    texts = [_block(block) for block in stage.children()]
    if len(set(texts)) != 1:
        return "; ".join(texts)
    return f"[{texts[0]}] x{len(texts)}"


def _block(block: nn.Module) -> str:
    parts = []
    for member in block.children():
        if isinstance(member, nn.Conv2d):
            groups = f",C={member.groups}" if member.groups > 1 else ""
            parts.append(f"{member.kernel_size[0]}x{member.kernel_size[1]},{member.out_channels}{groups}")
        elif isinstance(member, ChannelAttention2d):
            parts.append(f"AU,{member.output.out_channels},C={member.groups}")
    return "; ".join(parts)


def depth(name: str) -> int:
    """Weight layers on the longest path; an attention unit counts as one, like the 1x1 convolution that it replaces."""
    model = timm.create_model(name)
    stages = [model.get_submodule(f"layer{number}") for number in range(1, 5)]
    members = [member for stage in stages for block in stage.children() for member in block.children()]
    return 1 + sum(isinstance(member, nn.Conv2d | ChannelAttention2d) for member in members) + 1


def closed_form(
    name: str, img_size: int = IMG_SIZE, num_classes: int = 1000, groups: int = 32, base_width: int = 4
) -> tuple[int, int]:
    """Parameters and MACs of a network of Table 1 by the paper's formulas, without building a module.

    For a stage of area s = H*W and a block of width w with c output channels, the last 1x1 convolution costs w*c*s. The
    attention unit instead costs four grouped 1x1 convolutions (4*w*c/C*s), QK^T (c*c*s) and the product with V (c*c).

    Args:
        name: ``resnet50``, ``resnext50_32x4d``, ``resneat50`` or ``resneat101``.
        img_size: Side of the square input in pixels.
        num_classes: Number of classes.
        groups: Cardinality C, except of ``resnet50``.
        base_width: Width of a group in the first stage, unless there is only one group.

    Returns:
        Parameters and MACs.

    Raises:
        KeyError: For another name.
    """
    cardinality = 1 if name == "resnet50" else groups
    attention = name.startswith("resneat")
    side = _halved(img_size)
    params, macs = 3 * 64 * 49 + 2 * 64, 3 * 64 * 49 * side**2
    side, channels = _halved(side), 64
    for i, blocks in enumerate(LAYERS[name]):
        width = (64 << i) if cardinality == 1 else (base_width * cardinality << i)
        out = 256 << i
        for block in range(blocks):
            before, side = side, _halved(side) if i and not block else side
            area, reduce, spatial = side**2, channels * width, 9 * width * width // cardinality
            restore = 4 * width * out // cardinality if attention else width * out
            params += reduce + spatial + restore + 2 * (width + width + out)  # and each BatchNorm's weight and bias
            macs += reduce * before**2 + (spatial + restore) * area + attention * (out * out * area + out * out)
            if not block:
                params += channels * out + 2 * out
                macs += channels * out * area
            channels = out
    return params + (channels + 1) * num_classes, macs + channels * num_classes


def _halved(side: int) -> int:
    return (side + 1) // 2
