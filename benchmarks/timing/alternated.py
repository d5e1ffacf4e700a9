"""Times several steps in turn, so that a change in the machine's speed affects all of them alike."""

import time
from collections.abc import Callable, Sequence

import torch


def time_alternated(
    steps: Sequence[Callable[[], object]], device: str, seconds: float, pause: float
) -> list[list[float]]:
    """Times each step in turn, for at least five rounds.

    Args:
        steps: The steps; each is run twice first, to warm up.
        device: cpu or cuda.
        seconds: Total duration of the rounds, about.
        pause: Pause before each timed step, in seconds.

    Returns:
        The seconds of each step, round by round.
    """
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
