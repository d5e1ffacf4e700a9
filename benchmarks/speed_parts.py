"""Where the time of a step goes, from torch's profiler: exponentials, products, convolutions, BatchNorm, the rest."""

from collections.abc import Callable

import torch

# Operators by what they do in these networks; an operator counts its own time only, not that of those it calls.
PARTS = {
    "convolutions": ("conv",),
    "batched products (attention unit)": ("aten::bmm", "aten::baddbmm", "aten::addmv", "aten::mv"),
    "exponentials": ("aten::exp2",),
    "BatchNorm": ("batch_norm",),
    "passes over logits and maps": (
        "aten::add_", "aten::add", "aten::sub", "aten::mul", "aten::div", "aten::amax", "aten::sum", "aten::copy_",
        "aten::fill_", "aten::clamp_min_", "aten::threshold_backward", "aten::mean", "aten::cat",
    ),
    "pooling": ("pool",),
}  # fmt: skip
OTHER = "everything else (Python, dispatch, small operators)"


def part_of(operator: str) -> str:
    """The part that an operator's own time belongs to."""
    for part, patterns in PARTS.items():
        for pattern in patterns:
            exact = pattern.startswith("aten::")
            if operator in (pattern, pattern + "_") if exact else pattern in operator:
                return part
    return OTHER


def breakdown(step: Callable[[], None]) -> list[dict[str, float | str]]:
    """Milliseconds by part of one step, after a warm-up; the profiler adds to what many small operators take."""
    step()
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    total = dict.fromkeys([*PARTS, OTHER], 0.0)
    for event in profile.key_averages():
        total[part_of(event.key)] += event.self_cpu_time_total / 1e3
    return [{"part": part, "ms": ms} for part, ms in total.items()]
