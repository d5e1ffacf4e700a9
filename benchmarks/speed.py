"""Speed and memory of the two models beside timm's own: ratios alternated in one process, medians and spread.

Usage:
    python benchmarks/speed.py                                 # everything, into benchmarks/results/speed.json
    python benchmarks/speed.py --only goals --only breakdown   # parts of it; the file keeps the rest
    python benchmarks/speed.py --list                          # the names that --only takes, by prefix
    python benchmarks/speed.py --device cuda --output gpu.json

Every measurement is written as soon as it is taken, so a long run can be made in pieces. Timings belong to a machine:
a file of another machine or number of threads is refused, not mixed.
"""

import argparse
import gc
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from speed_parts import breakdown
from speed_paths import is_faster, path_times
from speed_timing import time_alternated

import timm_landmark  # noqa: F401  registers the models
from timm_landmark.errors import UserError
from timm_landmark.files import write_json
from timm_landmark.machine import machine_info

OUTPUT = Path(__file__).parent / "results" / "speed.json"
AT, XT, PA, IR = "resneat50", "resnext50_32x4d", "inception_resnet_pa", "inception_resnet_v2"
PEERS = ("resnet50", "seresnet50", "skresnext50_32x4d", "resnest50d", "densenet121", IR, PA)

# (name, model, against, mode, image size, batch, at least, aim)
GOALS = (
    ("inference, 224 pixels, batch 8", AT, XT, "inference", 224, 8, 0.80, 1.0),
    ("training step, 224 pixels, batch 8", AT, XT, "training", 224, 8, 0.70, 0.85),
    ("training step, 96 pixels, batch 32", AT, XT, "training", 96, 32, 0.35, 0.5),
    ("inference, 224 pixels, batch 8", PA, IR, "inference", 224, 8, 0.95, 1.0),
)
MEMORY = ("peak memory of a training step, 224 pixels, batch 16", AT, XT, 224, 16, 1.0, 0.8)
BREAKDOWNS = (("inference", 224, 8), ("training", 96, 32))
COMPILED = (1.0, 1.0)  # img/s of torch.compile to eager
SIZES, BATCHES, PATHS_BATCH = (96, 160, 224, 288), (1, 8, 32), 8

Measure = Callable[[dict[str, Any], argparse.Namespace], None]


def make_net(model: str, mode: str, device: str) -> torch.nn.Module:
    """A network with 1000 classes and seeded weights, in training or evaluation mode."""
    torch.manual_seed(0)
    return timm.create_model(model, num_classes=1000).to(device).train(mode == "training")


def make_step(net: torch.nn.Module, img_size: int, batch: int, device: str) -> Callable[[], None]:
    """One step: forward, backward and the gradients' release in training mode, else forward without gradients."""
    x = torch.randn(batch, 3, img_size, img_size, device=device)
    y = torch.randint(0, 1000, (batch,), device=device)

    def train() -> None:
        torch.nn.functional.cross_entropy(net(x), y).backward()
        net.zero_grad(set_to_none=True)

    def infer() -> None:
        with torch.inference_mode():
            net(x)

    return train if net.training else infer


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def _replace(result: dict[str, Any], key: str, row: dict[str, Any], identity: Sequence[str]) -> None:
    kept = [old for old in result.get(key, []) if any(old[name] != row[name] for name in identity)]
    order = ("model", "mode", "img_size", "batch", "out_chs")
    rows = [*kept, row]
    result[key] = (
        rows if key == "goals" else sorted(rows, key=lambda r: tuple(str(r.get(k, "")).zfill(8) for k in order))
    )


def measure_rates(
    result: dict[str, Any], args: argparse.Namespace, models: Sequence[str], mode: str, img_size: int, batch: int
) -> list[list[float]]:
    """Times models alternated and enters their img/s (median and quartiles); returns the times."""
    nets = [make_net(model, mode, args.device) for model in models]
    steps = [make_step(net, img_size, batch, args.device) for net in nets]
    times = time_alternated(steps, args.device, args.seconds, args.pause)
    for model, taken in zip(models, times, strict=True):
        rate, low, high = _quartiles([batch / t for t in taken])
        row = dict(model=model, mode=mode, img_size=img_size, batch=batch, img_per_s=rate, low=low, high=high)
        _replace(result, "throughput", row, ("model", "mode", "img_size", "batch"))
        print(f"  {model}: {rate:.2f} img/s [{low:.2f}, {high:.2f}]", flush=True)
    return times


def _goal(result: dict[str, Any], what: str, pair: tuple[str, str], ratios: Sequence[float], bounds: tuple) -> None:
    ratio, low, high = _quartiles(ratios) if len(ratios) > 1 else (ratios[0],) * 3
    row = dict(what=what, model=pair[0], against=pair[1], ratio=ratio, low=low, high=high)
    row.update(at_least=bounds[0], aim=bounds[1], lower_is_better="memory" in what)
    _replace(result, "goals", row, ("what", "model"))
    print(f"  {pair[0]} to {pair[1]}: {ratio:.3f} [{low:.3f}, {high:.3f}]", flush=True)


def _measure_goal(goal: tuple) -> Measure:
    what, model, against, mode, img_size, batch, *bounds = goal

    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        ours, theirs = measure_rates(result, args, (model, against), mode, img_size, batch)
        ratios = [their / our for our, their in zip(ours, theirs, strict=True)]  # neighbours in time
        _goal(result, what, (model, against), ratios, tuple(bounds))

    return measure


def _measure_compiled(mode: str, img_size: int, batch: int) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        net = make_net(AT, mode, args.device)
        steps = [make_step(form, img_size, batch, args.device) for form in (torch.compile(net), net)]
        compiled, eager = time_alternated(steps, args.device, args.seconds, args.pause)
        ratios = [theirs / ours for ours, theirs in zip(compiled, eager, strict=True)]
        kind = "inference" if mode == "inference" else "training step"
        _goal(
            result, f"{kind}, {img_size} pixels, batch {batch}", (f"{AT}, compiled", f"{AT}, eager"), ratios, COMPILED
        )

    return measure


def _measure_memory(result: dict[str, Any], args: argparse.Namespace) -> None:
    what, model, against, img_size, batch, *bounds = MEMORY
    peaks = {}
    for name in (model, against):
        command = [sys.executable, __file__, "--peak", name, str(img_size), str(batch), "--device", args.device]
        command += ["--threads", str(args.threads)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[name] = float(output.split()[-1])
        row = dict(model=name, img_size=img_size, batch=batch, peak_mib=peaks[name])
        _replace(result, "memory", row, ("model", "img_size", "batch"))
        print(f"  {name}: {peaks[name]:.0f} MiB", flush=True)
    _goal(result, what, (model, against), [peaks[model] / peaks[against]], tuple(bounds))


def print_peak(model: str, img_size: int, batch: int, device: str) -> None:
    """Prints in MiB what two training steps take at their peak beyond the process with torch and timm loaded."""
    before = _peak_mib()
    step = make_step(make_net(model, "training", device), img_size, batch, device)
    step()
    step()
    if device.startswith("cuda"):
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(_peak_mib() - before)


def _peak_mib() -> float:
    """This process's peak resident size so far; ru_maxrss would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10


def _measure_breakdown(mode: str, img_size: int, batch: int) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        for model in (AT, XT):
            net = make_net(model, mode, args.device)
            parts = breakdown(make_step(net, img_size, batch, args.device), net)
            row = dict(model=model, mode=mode, img_size=img_size, batch=batch, parts=parts)
            _replace(result, "breakdown", row, ("model", "mode", "img_size", "batch"))
            print(f"  {model}: {sum(part['ms'] for part in parts):.0f} ms", flush=True)

    return measure


def _measure_rates(models: Sequence[str], mode: str, img_size: int, batch: int) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        measure_rates(result, args, models, mode, img_size, batch)

    return measure


def _measure_paths(mode: str) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        for img_size in SIZES:
            for row in path_times(img_size, PATHS_BATCH, mode, args.device):
                _replace(result, "paths", row, ("mode", "img_size", "batch", "out_chs"))
        print(f"  {sum(map(is_faster, result['paths']))} of {len(result['paths'])} choices the faster", flush=True)

    return measure


def measurements() -> dict[str, Measure]:
    """All measurements by name."""
    named: dict[str, Measure] = {}
    for goal in GOALS:
        named[f"goals/{goal[1]}-{goal[3]}-{goal[4]}"] = _measure_goal(goal)
    named["goals/memory"] = _measure_memory
    for peer in PEERS:
        named[f"peers/{peer}"] = _measure_rates((peer,), "inference", 224, 8)
    for mode in ("inference", "training"):
        for img_size in SIZES:
            for batch in BATCHES:
                named[f"sizes/{mode}-{img_size}-{batch}"] = _measure_rates((AT, XT), mode, img_size, batch)
        named[f"paths/{mode}"] = _measure_paths(mode)
    for mode, img_size, batch in BREAKDOWNS:
        named[f"breakdown/{mode}-{img_size}-{batch}"] = _measure_breakdown(mode, img_size, batch)
        named[f"goals/compiled-{mode}-{img_size}-{batch}"] = _measure_compiled(mode, img_size, batch)
    return named


def _load(path: Path, head: dict[str, Any]) -> dict[str, Any]:
    if not path.exists():
        return dict(head, goals=[], throughput=[], memory=[], breakdown=[], paths=[])
    result = json.loads(path.read_text(encoding="utf-8"))
    for key in head:
        if result[key] != head[key]:
            raise UserError(
                f"--output {path}: measured with another {key} ({result[key]} there, {head[key]} here); "
                "give another --output, or remove the file to measure everything anew"
            )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what is asked for and merges it into the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=2, help="threads of this process (default: 2)")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each measurement (default: 10)")
    parser.add_argument("--pause", type=float, default=0.0, help="rest before each timed step, in seconds (default: 0)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="names that begin so; repeatable")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--peak", nargs=3, metavar=("MODEL", "SIZE", "BATCH"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.peak:
        print_peak(args.peak[0], int(args.peak[1]), int(args.peak[2]), args.device)
        return 0
    named = measurements()
    chosen = {n: m for n, m in named.items() if not args.only or any(n.startswith(prefix) for prefix in args.only)}
    if args.list:
        print("\n".join(named))
        return 0
    try:
        if not chosen:
            raise UserError(f"--only {' '.join(args.only)}: no measurement begins so; --list shows the names")
        if args.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"--device {args.device}: this torch sees no GPU; take --device cpu")
        head = dict(machine=machine_info(), device=args.device, threads=args.threads)
        result = _load(args.output, head)
    except UserError as error:
        print(f"speed.py: {error}", file=sys.stderr)
        return 2
    for name, measure in chosen.items():
        print(name, flush=True)
        measure(result, args)
        write_json(args.output, result)
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
