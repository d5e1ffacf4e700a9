"""Trains several models with several seeds through the command line of timm-landmark, and collects the results.

Usage::

    python -m benchmarks.compare --quick --output out                          # what `make compare` runs
    python -m benchmarks.compare --data DATA --output out [--models ...] [--seeds 0 1 2] [--epochs E] [--img-size P]
    python -m benchmarks.compare --data DATA --output out --collect-only --results benchmarks/results/NAME

Finished runs are skipped and an interrupted one is resumed, so the same command continues after any interruption. A
model may also be a variant from ``ablations.py``. Options after ``--`` are passed to ``timm-landmark train``. OUT/runs
contains the runs, OUT/results the results to keep, and OUT/report.md and OUT/report.html the tables.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.comparison.collect import collect, finished, same_images
from benchmarks.comparison.sets import claims
from timm_landmark.data.address import Place, place
from timm_landmark.utils.errors import UserError

# Small enough for about ten minutes on two slow cores, large enough to exercise every part of the pipeline.
QUICK_DATA = ["--classes", "6", "--images", "32", "--size", "110", "--seed", "0"]
QUICK_EPOCHS, QUICK_IMG_SIZE = 4, 96  # Inception needs 75 pixels
QUICK_OPTIONS = ["-b", "16", "--workers", "0"]  # with batches of 64 an epoch would have two steps
EVALUATED = ("validation", "test")  # logits and features of both are kept beside the checkpoint


@dataclass(frozen=True)
class Plan:
    """What to train, on which data, with which options, and where to put it."""

    data: Place
    output: Path
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    options: tuple[str, ...]

    @property
    def runs(self) -> list[tuple[str, int, Path]]:
        """Model, seed and folder of each run; all models with one seed come before the next seed."""
        return [(m, s, self.output / "runs" / f"{m}-s{s}") for s in self.seeds for m in self.models]


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit code of the first command that fails, otherwise 0."""
    try:
        return _compare(_parser().parse_args(argv))
    except UserError as error:
        _parser().error(str(error))


def _compare(args: argparse.Namespace) -> int:
    if find_spec("matplotlib") is None:  # known now, not after hours of training
        _parser().error("the figures need matplotlib; run: pip install 'timm-landmark[bench]'")
    plan = _plan(args)
    results = args.results or plan.output / "results"
    if args.quick and not args.collect_only and (code := _synthesize(plan.data)):
        return code
    if not same_images(plan.data, results):
        _parser().error(f"--results {results}: contains runs on other images than {plan.data}; use another folder")
    if not args.collect_only and (code := _train_all(plan)):
        return code
    if not any(finished(folder) for *_, folder in plan.runs):
        _parser().error(
            f"--output {plan.output}: contains no finished run of {', '.join(plan.models)}; train them first"
        )
    collect(plan.data, [folder for *_, folder in plan.runs], results)
    return _report(results, plan.output, args.quick)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compare.py", description="Train models alike, evaluate and compare them.")
    parser.add_argument("--data", type=place, help="prepared data set; default with --quick: a synthetic one")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT", help="output folder")
    parser.add_argument(
        "--models", nargs="+", default=list(claims.SEVEN), help="timm names; default: the paper's seven"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--epochs", type=int, help="default: the recipe's 25")
    parser.add_argument("--img-size", type=int, metavar="P", help="default: the recipe's 224")
    parser.add_argument("--quick", action="store_true", help="minutes instead of days; the accuracies mean nothing")
    parser.add_argument("--collect-only", action="store_true", help="collect the finished runs, train nothing")
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder for the results; default: OUT/results")
    parser.add_argument("train_options", nargs="*", metavar="-- OPTION", help="options for timm-landmark train")
    return parser


def _plan(args: argparse.Namespace) -> Plan:
    if args.data is None and not args.quick:
        _parser().error("--data is missing: give a prepared data set, or use --quick to make a synthetic one")
    if args.data is not None and not (args.data / "manifest.csv").exists():
        _parser().error(f"--data {args.data}: not a prepared data set; see timm-landmark prepare and synthesize")
    epochs = args.epochs or (QUICK_EPOCHS if args.quick else None)
    img_size = args.img_size or (QUICK_IMG_SIZE if args.quick else None)
    options = ["--epochs", str(epochs)] * bool(epochs) + ["--img-size", str(img_size)] * bool(img_size)
    return Plan(
        data=args.data or args.output / "data",
        output=args.output,
        models=tuple(args.models),
        seeds=tuple(args.seeds),
        options=(*options, *QUICK_OPTIONS * args.quick, *args.train_options),
    )


def _synthesize(data: Place) -> int:
    if (data / "dataset.json").exists():
        return 0
    print(f"making a synthetic data set in {data}", flush=True)
    return _verb("synthesize", "--output", str(data), *QUICK_DATA)


def _train_all(plan: Plan) -> int:
    begun = time.monotonic()
    runs = plan.runs
    waiting = [folder for *_, folder in runs if not _complete(folder)]
    for number, (model, seed, folder) in enumerate(runs, start=1):
        if _complete(folder):
            print(f"[{number}/{len(runs)}] {folder.name}: already finished", flush=True)
            continue
        done = len(waiting) - len([folder for *_, folder in runs[number - 1 :] if not _complete(folder)])
        elapsed = time.monotonic() - begun
        left = f", about {elapsed / done * (len(waiting) - done) / 60:.0f} min remaining" if done else ""
        print(f"[{number}/{len(runs)}] {folder.name} ({elapsed / 60:.1f} min elapsed{left})", flush=True)
        resume = ["--resume"] * (folder / "run.json").exists()
        data = ["--data", str(plan.data)]
        code = _verb("train", model, *data, "--output", str(folder), "--seed", str(seed), *resume, *plan.options)
        for split in EVALUATED:
            code = code or _verb("evaluate", str(folder), *data, "--split", split, "--keep-features")
        if code:
            print(f"{folder.name} failed (exit code {code}); repeat the command to continue from here", file=sys.stderr)
            return code
    return 0


def _complete(run: Path) -> bool:
    return finished(run) and all((run / f"features-{split}.npz").exists() for split in EVALUATED)


def _verb(*words: str) -> int:
    # benchmarks.ablations is the same command line with the variants of the attention unit as models
    program = "benchmarks.ablations" if words[0] in ("train", "evaluate") else "timm_landmark.cli"
    return subprocess.run([sys.executable, "-m", program, *words], check=False).returncode


def _report(results: Path, output: Path, quick: bool) -> int:
    from benchmarks.report import write_report

    code = write_report([results], output, quick)
    print((output / "report.md").read_text(encoding="utf-8").split("## The paper's claims")[0])
    print(f"Report: {output / 'report.md'}, for a browser: {output / 'report.html'}")
    print(f"Figures: {output / 'figures'}\nRuns: {output / 'runs'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
