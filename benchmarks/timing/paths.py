"""Compares the two streamed paths of the attention unit: is the path that the count chooses also the faster one?"""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.timing.alternated import time_alternated
from timm_landmark.layers.attention_path import choose_path, force_path
from timm_landmark.layers.channel_attention import ChannelAttention2d

# Input channels, output channels and stride of the unit in each stage of ResNeAt-50.
UNITS = ((128, 256, 4), (256, 512, 8), (512, 1024, 16), (1024, 2048, 32))
PATHS = ("product", "gram")


def path_times(img_size: int, batch: int, mode: str, device: str) -> list[dict[str, Any]]:
    """Times each stage's unit on both paths, alternately.

    Args:
        img_size: Side of the network's input in pixels.
        batch: Number of images.
        mode: ``inference`` or ``training``; the latter includes the backward pass.
        device: cpu or cuda.

    Returns:
        A row for each stage with the median milliseconds of each path and the path that ``choose_path`` chooses.
    """
    rows = []
    for in_chs, out_chs, stride in UNITS:
        side = -(-img_size // stride)
        step = _step(in_chs, out_chs, side, batch, mode, device)
        steps = [force_path(path)(step) for path in PATHS]  # contextlib's context managers are decorators too
        times = time_alternated(steps, device, seconds=0, pause=0)
        row = {f"{path}_ms": 1e3 * statistics.median(taken) for path, taken in zip(PATHS, times, strict=True)}
        chosen = choose_path(in_chs, out_chs, 32, side, side)
        rows.append(dict(mode=mode, img_size=img_size, batch=batch, out_chs=out_chs, side=side, **row, chosen=chosen))
    return rows


def _step(in_chs: int, out_chs: int, side: int, batch: int, mode: str, device: str) -> Callable[[], None]:
    torch.manual_seed(0)
    unit = ChannelAttention2d(in_chs, out_chs).to(device).train(mode == "training")
    x = torch.randn(batch, in_chs, side, side, device=device, requires_grad=unit.training)

    def step() -> None:
        with torch.set_grad_enabled(unit.training):
            out = unit(x)
            if unit.training:
                out.sum().backward()

    return step


def is_faster(row: dict[str, Any]) -> bool:
    """Whether the chosen path is the faster one."""
    return row[f"{row['chosen']}_ms"] == min(row[f"{path}_ms"] for path in PATHS)
