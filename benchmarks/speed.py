"""Measures speed and memory of the two models and of timm's own; writes benchmarks/results/speed.json.

Usage::

    python -m benchmarks.speed                              # everything
    python -m benchmarks.speed --only ratios --only peers   # some measurements; the file keeps the others
    python -m benchmarks.speed --list                       # the names of the measurements
    python -m benchmarks.speed --device cuda --output gpu.json

The models of a ratio are timed alternately in one process; results are medians and quartiles. Each measurement is
written as soon as it is done, so a long run can be made in pieces. A file contains the timings of one machine only:
a file measured with another processor, CPU capability or number of threads is an error.
"""

import argparse
import gc
import json
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
from benchmarks.timing.paths import is_faster, path_times
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_json
from timm_landmark.utils.machine import machine_info

OUTPUT = Path(__file__).parent / "results" / "speed.json"
AT, XT, PA, IR = "resneat50", "resnext50_32x4d", "inception_resnet_pa", "inception_resnet_v2"
PEERS = ("resnet50", "seresnet50", "skresnext50_32x4d", "resnest50d", "densenet121", IR, PA)

# (form, model, against, mode, image size, batch): ratios of img/s, both models in the same form
RATIOS = (
    ("eager", AT, XT, "inference", 224, 8),
    ("eager", AT, XT, "training", 224, 8),
    ("eager", AT, XT, "training", 96, 32),
    ("eager", PA, IR, "inference", 224, 8),
    ("onnxruntime", AT, XT, "inference", 224, 8),
    ("torch.export", AT, XT, "inference", 224, 8),
    ("bf16 autocast", AT, XT, "inference", 224, 8),
    ("bf16 autocast", AT, XT, "training", 224, 8),
    ("torch.compile", AT, XT, "inference", 224, 8),
    ("torch.compile", AT, XT, "training", 224, 8),
)
COMPILED = (("inference", 224, 8), ("training", 96, 32))  # ratios of img/s of resneat50, compiled to eager
# (form, mode, image size, batch): ratios of peak memory
MEMORY = (
    ("eager", "training", 224, 16),
    ("onnxruntime", "inference", 224, 8),
    ("torch.export", "inference", 224, 8),
)
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
    if key != "ratios":
        rows.sort(key=lambda r: tuple(str(r.get(k, "")).zfill(8) for k in order))
    result[key] = rows


def measure_rates(
    result: dict[str, Any], args: argparse.Namespace, models: Sequence[str], mode: str, img_size: int, batch: int
) -> list[list[float]]:
    """Times models alternately and stores their img/s (median and quartiles); returns the seconds of each step."""
    nets = [make_net(model, mode, args.device) for model in models]
    steps = [make_step("eager", net, img_size, batch, args.device) for net in nets]
    times = time_alternated(steps, args.device, args.seconds, args.pause)
    for model, taken in zip(models, times, strict=True):
        rate, low, high = _quartiles([batch / t for t in taken])
        row = dict(model=model, mode=mode, img_size=img_size, batch=batch, img_per_s=rate, low=low, high=high)
        _replace(result, "throughput", row, ("model", "mode", "img_size", "batch"))
        print(f"  {model}: {rate:.2f} img/s [{low:.2f}, {high:.2f}]", flush=True)
    return times


def _add_ratio(result: dict[str, Any], what: str, pair: tuple[str, str], ratios: Sequence[float]) -> None:
    ratio, low, high = _quartiles(ratios) if len(ratios) > 1 else (ratios[0],) * 3
    row = dict(what=what, model=pair[0], against=pair[1], ratio=ratio, low=low, high=high)
    row["lower_is_better"] = "memory" in what
    _replace(result, "ratios", row, ("what", "model"))
    print(f"  {pair[0]} to {pair[1]}: {ratio:.3f} [{low:.3f}, {high:.3f}]", flush=True)


def _title(form: str, mode: str, img_size: int, batch: int) -> str:
    """What a ratio is called; ``eager`` is not named."""
    kind = "inference" if mode == "inference" else "training step"
    return ", ".join([*([] if form == "eager" else [form]), kind, f"{img_size} pixels", f"batch {batch}"])


def _measure_ratio(form: str, model: str, against: str, mode: str, img_size: int, batch: int) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        if form == "eager":
            times = measure_rates(result, args, (model, against), mode, img_size, batch)
        else:
            nets = [make_net(name, mode, args.device) for name in (model, against)]
            steps = [make_step(form, net, img_size, batch, args.device) for net in nets]
            times = time_alternated(steps, args.device, args.seconds, args.pause)
        ratios = [their / our for our, their in zip(*times, strict=True)]  # neighbours in time
        _add_ratio(result, _title(form, mode, img_size, batch), (model, against), ratios)

    return measure


def _measure_compiled(mode: str, img_size: int, batch: int) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        net = make_net(AT, mode, args.device)
        steps = [make_step(form, net, img_size, batch, args.device) for form in ("torch.compile", "eager")]
        compiled, eager = time_alternated(steps, args.device, args.seconds, args.pause)
        ratios = [theirs / ours for ours, theirs in zip(compiled, eager, strict=True)]
        _add_ratio(result, _title("eager", mode, img_size, batch), (f"{AT}, compiled", f"{AT}, eager"), ratios)

    return measure


def _measure_memory(form: str, mode: str, img_size: int, batch: int) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        peaks = {}
        for name in (AT, XT):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "graph"
                if form in GRAPHS:
                    write_graph(form, make_net(name, mode, args.device), img_size, path)
                command = [sys.executable, "-m", "benchmarks.speed", "--device", args.device]
                command += ["--threads", str(args.threads), "--peak", form, name, mode]
                command += [str(img_size), str(batch), str(path)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks[name] = float(output.split()[-1])
            row = dict(form=form, model=name, mode=mode, img_size=img_size, batch=batch, peak_mib=peaks[name])
            _replace(result, "memory", row, ("form", "model", "mode", "img_size", "batch"))
            print(f"  {name}: {peaks[name]:.0f} MiB", flush=True)
        what = f"peak memory, {_title(form, mode, img_size, batch)}"
        _add_ratio(result, what, (AT, XT), [peaks[AT] / peaks[XT]])

    return measure


def print_peak(form: str, model: str, mode: str, img_size: int, batch: int, path: Path, device: str) -> None:
    """Prints the peak memory of two steps in MiB, with the weights, less that of the process without a network.

    Args:
        form: One of ``FORMS``.
        model: Its timm name.
        mode: ``inference`` or ``training``.
        img_size: Side of its images in pixels.
        batch: Number of images.
        path: The file of ``write_graph``, for the forms that have one.
        device: cpu or cuda.
    """
    if form == "onnxruntime":
        import onnxruntime  # noqa: F401  (part of the process without a network)
    before = _peak_mib()
    if form in GRAPHS:
        step = read_graph(form, path, img_size, batch)
    else:
        step = make_step(form, make_net(model, mode, device), img_size, batch, device)
    step()
    step()
    print(torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else _peak_mib() - before)


def _peak_mib() -> float:
    """Peak resident size of this process; ru_maxrss would include that of the parent process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def _measure_rates(models: Sequence[str], mode: str, img_size: int, batch: int) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        measure_rates(result, args, models, mode, img_size, batch)

    return measure


def _measure_paths(mode: str) -> Measure:
    def measure(result: dict[str, Any], args: argparse.Namespace) -> None:
        for img_size in SIZES:
            for row in path_times(img_size, PATHS_BATCH, mode, args.device):
                _replace(result, "paths", row, ("mode", "img_size", "batch", "out_chs"))
        rows = result["paths"]
        print(f"  {sum(map(is_faster, rows))} of {len(rows)} chosen paths are the faster one", flush=True)

    return measure


def measurements() -> dict[str, Measure]:
    """All measurements by name."""
    named: dict[str, Measure] = {}
    for form, model, against, mode, img_size, batch in RATIOS:
        name = f"ratios/{form.replace(' ', '-')}-{model}-{mode}-{img_size}"
        named[name] = _measure_ratio(form, model, against, mode, img_size, batch)
    for mode, img_size, batch in COMPILED:
        named[f"ratios/compiled-{mode}-{img_size}-{batch}"] = _measure_compiled(mode, img_size, batch)
    for form, mode, img_size, batch in MEMORY:
        named[f"ratios/memory-{form}"] = _measure_memory(form, mode, img_size, batch)
    for peer in PEERS:
        named[f"peers/{peer}"] = _measure_rates((peer,), "inference", 224, 8)
    for mode in ("inference", "training"):
        for img_size in SIZES:
            for batch in BATCHES:
                named[f"sizes/{mode}-{img_size}-{batch}"] = _measure_rates((AT, XT), mode, img_size, batch)
        named[f"paths/{mode}"] = _measure_paths(mode)
    return named


def _head(device: str, threads: int) -> dict[str, Any]:
    """The facts that all timings in a file have in common."""
    capability = torch.backends.cpu.get_cpu_capability()  # what ATEN_CPU_CAPABILITY or the processor allows
    return dict(machine=machine_info(), cpu_capability=capability, device=device, threads=threads)


def _load(path: Path, head: dict[str, Any]) -> dict[str, Any]:
    if not path.exists():
        return dict(head, ratios=[], throughput=[], memory=[], paths=[])
    result = json.loads(path.read_text(encoding="utf-8"))
    for key, here in head.items():
        there = result.get(key, "unknown")
        if there != here:
            raise UserError(
                f"--output {path}: {key} of its timings is {there}, here it is {here}; timings of the two must not be "
                "mixed: use another --output, or delete the file to measure everything again"
            )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the chosen measurements and merges them into the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=2, help="threads of this process (default: 2)")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement (default: 10)")
    parser.add_argument("--pause", type=float, default=0.0, help="pause in seconds before each step (default: 0)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="prefix of names; repeatable")
    parser.add_argument("--list", action="store_true", help="print the names of the measurements and exit")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: benchmarks/results/speed.json")
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
            raise UserError(f"--only {' '.join(args.only)}: no measurement has such a name; see --list")
        if args.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"--device {args.device}: no GPU is available to torch; use --device cpu")
        result = _load(args.output, _head(args.device, args.threads))
    except UserError as error:
        print(f"speed.py: error: {error}", file=sys.stderr)
        return 2
    for name, measure in chosen.items():
        print(name, flush=True)
        measure(result, args)
        write_json(args.output, result)
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
