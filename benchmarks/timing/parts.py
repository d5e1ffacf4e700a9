"""Where the time of a step goes, from torch's profiler: by stage of the network, and by kind of work."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile, record_function

# Operators by what they do in these networks; an operator counts its own time only, not that of those it calls.
PARTS = {
    "convolutions": ("conv",),
    "batched products": ("aten::bmm", "aten::baddbmm"),
    "exponentials": ("aten::exp2",),
    "BatchNorm": ("batch_norm",),
    "passes over logits and maps": (
        "aten::add_", "aten::add", "aten::sub", "aten::mul", "aten::div", "aten::amax", "aten::sum", "aten::copy_",
        "aten::fill_", "aten::clamp_min_", "aten::threshold_backward", "aten::mean", "aten::cat",
    ),
}  # fmt: skip
OTHER = "everything else"
STAGES = ("layer1", "layer2", "layer3", "layer4")
OUTSIDE = "stem, head"
_MARK = "stage "


def part_of(operator: str) -> str:
    """The part that an operator's own time belongs to."""
    for part, patterns in PARTS.items():
        for pattern in patterns:
            exact = pattern.startswith("aten::")
            if operator in (pattern, pattern + "_") if exact else pattern in operator:
                return part
    return OTHER


def breakdown(step: Callable[[], None], net: torch.nn.Module) -> list[dict[str, float | str]]:
    """Milliseconds by stage and part of one step, after a warm-up.

    The profiler adds to what many small operators take, so the sum is somewhat more than an unobserved step.

    Args:
        step: Runs the network once.
        net: A network with timm's ResNet as host.
    """
    step()
    with _marked_stages(net):
        step()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            step()
    times: Counter[tuple[str, str]] = Counter()
    for event in profiled.events():
        times[_stage_of(event), part_of(event.name)] += event.self_cpu_time_total / 1e3
    stages, parts = (OUTSIDE, *STAGES), (*PARTS, OTHER)
    return [{"stage": stage, "part": part, "ms": times[stage, part]} for stage in stages for part in parts]


def _stage_of(event: torch.autograd.profiler_util.FunctionEvent | None) -> str:
    while event is not None:
        if event.name.startswith(_MARK):
            return event.name.removeprefix(_MARK)
        event = event.cpu_parent
    return OUTSIDE


@contextmanager
def _marked_stages(net: torch.nn.Module) -> Iterator[None]:
    """Within this context the profiler sees in which stage an operator runs, in the backward pass too."""
    handles = []
    for name in STAGES:
        open_ranges: list[record_function] = []

        def enter(*_: object, name: str = name, open_ranges: list[record_function] = open_ranges) -> None:
            open_ranges.append(record_function(_MARK + name))
            open_ranges[-1].__enter__()

        def leave(*_: object, open_ranges: list[record_function] = open_ranges) -> None:
            open_ranges.pop().__exit__(None, None, None)

        stage = net.get_submodule(name)
        handles += [stage.register_forward_pre_hook(enter), stage.register_forward_hook(leave)]
        handles += [stage.register_full_backward_pre_hook(enter), stage.register_full_backward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
