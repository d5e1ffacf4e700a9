"""Timing of several steps against each other: in turn, so that a change of the machine's pace meets all of them."""

import time
from collections.abc import Callable, Sequence

import torch


def time_alternated(
    steps: Sequence[Callable[[], None]], device: str, seconds: float, pause: float
) -> list[list[float]]:
    """Times each step in turn, after a warm-up and a pause each, for about ``seconds`` and at least five rounds."""
    for step in steps:
        step()
        step()
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds
    while len(times[0]) < 5 or time.perf_counter() < end:
        for step, taken in zip(steps, times, strict=True):
            _wait(device)
            time.sleep(pause)
            start = time.perf_counter()
            step()
            _wait(device)
            taken.append(time.perf_counter() - start)
    return times


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
