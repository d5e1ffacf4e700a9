"""Speed and memory of the two models beside timm's own: ratios alternated in one process, medians and spread.

Usage:
    python -m benchmarks.speed                                 # everything, into benchmarks/results/speed.json
    python -m benchmarks.speed --only goals --only breakdown   # parts of it; the file keeps the rest
    python -m benchmarks.speed --list                          # the names that --only takes, by prefix
    python -m benchmarks.speed --device cuda --output gpu.json

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
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

import timm_landmark  # noqa: F401  registers the models
from benchmarks.timing.alternated import time_alternated
from benchmarks.timing.forms import GRAPHS, make_step, read_graph, write_graph
from benchmarks.timing.parts import breakdown
from benchmarks.timing.paths import is_faster, path_times
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_json
from timm_landmark.utils.machine import machine_info

OUTPUT = Path(__file__).parent / "results" / "speed.json"
AT, XT, PA, IR = "resneat50", "resnext50_32x4d", "inception_resnet_pa", "inception_resnet_v2"
PEERS = ("resnet50", "seresnet50", "skresnext50_32x4d", "resnest50d", "densenet121", IR, PA)

# (form, model, against, mode, image size, batch, at least, aim): ratios of img/s in the same form
GOALS = (
    ("eager", AT, XT, "inference", 224, 8, 0.90, 0.95),
    ("eager", AT, XT, "training", 224, 8, 0.85, 0.9),
    ("eager", AT, XT, "training", 96, 32, 0.50, 0.6),
    ("eager", PA, IR, "inference", 224, 8, 0.95, 1.0),
    ("onnxruntime", AT, XT, "inference", 224, 8, 0.70, 0.85),
    ("torch.export", AT, XT, "inference", 224, 8, 0.70, 0.85),
    ("bf16 autocast", AT, XT, "inference", 224, 8, 0.70, 0.85),
    ("bf16 autocast", AT, XT, "training", 224, 8, 0.65, 0.8),
    ("torch.compile", AT, XT, "inference", 224, 8, 0.85, 1.0),
    ("torch.compile", AT, XT, "training", 224, 8, 0.78, 0.9),
)
# (form, mode, image size, batch, at least, aim): ratios of peak memory
MEMORY = (
    ("eager", "training", 224, 16, 0.89, 0.8),
    ("onnxruntime", "inference", 224, 8, 1.5, 1.0),
    ("torch.export", "inference", 224, 8, 1.5, 1.0),
)
BREAKDOWNS = (("inference", 224, 8), ("training", 96, 32))
COMPILED = (1.0, 1.0)  # img/s of torch.compile to eager
SIZES, BATCHES, PATHS_BATCH = (96, 160, 224, 288), (1, 8, 32), 8

Measure = Callable[[dict[str, Any], argparse.Namespace], None]


def make_net(model: str, mode: str, device: str) -> torch.nn.Module:
    """A network with 1000 classes and seeded weights, in training or evaluation mode."""
    torch.manual_seed(0)
    return timm.create_model(model, num_classes=1000).to(device).train(mode == "training")


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
    steps = [make_step("eager", net, img_size, batch, args.device) for net in nets]
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


def _title(form: str, mode: str, img_size: int, batch: int) -> str:
    """What a goal is called; ``eager`` goes without saying."""
    kind = "inference" if mode == "inference" else "training step"
    return ", ".join([*([] if form == "eager" else [form]), kind, f"{img_size} pixels", f"batch {batch}"])


def _measure_goal(goal: tuple) -> Measure:
    form, model, against, mode, img_size, batch, *bounds = goal

    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        if form == "eager":
            times = measure_rates(result, args, (model, against), mode, img_size, batch)
        else:
            nets = [make_net(name, mode, args.device) for name in (model, against)]
            steps = [make_step(form, net, img_size, batch, args.device) for net in nets]
            times = time_alternated(steps, args.device, args.seconds, args.pause)
        ratios = [their / our for our, their in zip(*times, strict=True)]  # neighbours in time
        _goal(result, _title(form, mode, img_size, batch), (model, against), ratios, tuple(bounds))

    return measure


def _measure_compiled(mode: str, img_size: int, batch: int) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        net = make_net(AT, mode, args.device)
        steps = [make_step(form, net, img_size, batch, args.device) for form in ("torch.compile", "eager")]
        compiled, eager = time_alternated(steps, args.device, args.seconds, args.pause)
        ratios = [theirs / ours for ours, theirs in zip(compiled, eager, strict=True)]
        _goal(result, _title("eager", mode, img_size, batch), (f"{AT}, compiled", f"{AT}, eager"), ratios, COMPILED)

    return measure


def _measure_memory(form: str, mode: str, img_size: int, batch: int, *bounds: float) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        peaks = {}
        for name in (AT, XT):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "graph"
                if form in GRAPHS:
                    write_graph(form, make_net(name, mode, args.device), img_size, path)
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.speed",
                    "--peak",
                    form,
                    name,
                    mode,
                    str(img_size),
                    str(batch),
                    str(path),
                ]
                command += ["--device", args.device, "--threads", str(args.threads)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks[name] = float(output.split()[-1])
            row = dict(form=form, model=name, mode=mode, img_size=img_size, batch=batch, peak_mib=peaks[name])
            _replace(result, "memory", row, ("form", "model", "mode", "img_size", "batch"))
            print(f"  {name}: {peaks[name]:.0f} MiB", flush=True)
        what = f"peak memory, {_title(form, mode, img_size, batch)}"
        _goal(result, what, (AT, XT), [peaks[AT] / peaks[XT]], tuple(bounds))

    return measure


def print_peak(form: str, model: str, mode: str, img_size: int, batch: int, path: Path, device: str) -> None:
    """Prints in MiB what two steps take at their peak, the weights included, beyond the process without a network.

    Args:
        form: One of ``FORMS``.
        model: Its timm name.
        mode: ``inference`` or ``training``.
        img_size: Side of its images in pixels.
        batch: Number of images.
        path: Where ``write_graph`` has put a graph.
        device: cpu or cuda.
    """
    if form == "onnxruntime":
        import onnxruntime  # noqa: F401  (counts as the process without a network)
    before = _peak_mib()
    if form in GRAPHS:
        step = read_graph(form, path, img_size, batch)
    else:
        step = make_step(form, make_net(model, mode, device), img_size, batch, device)
    step()
    step()
    print(torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else _peak_mib() - before)


def _peak_mib() -> float:
    """This process's peak resident size so far; ru_maxrss would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10


def _measure_breakdown(mode: str, img_size: int, batch: int) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        for model in (AT, XT):
            net = make_net(model, mode, args.device)
            parts = breakdown(make_step("eager", net, img_size, batch, args.device), net)
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
        named[f"goals/{goal[0].replace(' ', '-')}-{goal[1]}-{goal[3]}-{goal[4]}"] = _measure_goal(goal)
    for goal in MEMORY:
        named[f"goals/memory-{goal[0].replace(' ', '-')}"] = _measure_memory(*goal)
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
    parser.add_argument("--peak", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.peak:
        form, model, mode, img_size, batch, path = args.peak
        print_peak(form, model, mode, int(img_size), int(batch), Path(path), args.device)
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
