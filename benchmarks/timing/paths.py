"""The two streamed forms of the attention unit against each other: does the choice by count hold when measured?"""

import statistics
from collections.abc import Callable

import torch

from benchmarks.timing.alternated import time_alternated
from timm_landmark.layers.attention_path import choose_path, force_path
from timm_landmark.layers.channel_attention import ChannelAttention2d

# Of ResNeAt-50 by stage: channels that enter the unit, channels that leave it, the map's side as a part of the image's.
UNITS = ((128, 256, 4), (256, 512, 8), (512, 1024, 16), (1024, 2048, 32))
FORMS = ("product", "gram")


def path_times(img_size: int, batch: int, mode: str, device: str) -> list[dict[str, float | str | int]]:
    """Milliseconds of each stage's unit in both forms, alternated, medians; and the form that ``choose_path`` takes.

    Args:
        img_size: Side of the network's input in pixels.
        batch: Number of images.
        mode: ``inference`` or ``training``; the latter with the backward pass.
        device: cpu or cuda.
    """
    rows = []
    for in_chs, out_chs, stride in UNITS:
        side = -(-img_size // stride)
        step = _step(in_chs, out_chs, side, batch, mode, device)
        steps = [force_path(form)(step) for form in FORMS]  # a context manager of contextlib decorates, too
        times = time_alternated(steps, device, seconds=0, pause=0)
        row = {f"{form}_ms": 1e3 * statistics.median(taken) for form, taken in zip(FORMS, times, strict=True)}
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


def is_faster(row: dict[str, float | str | int]) -> bool:
    """Whether the chosen form took the least time."""
    return row[f"{row['chosen']}_ms"] == min(row[f"{form}_ms"] for form in FORMS)
