r"""Fine-tunes networks of one data set on another, trains them from scratch for as many epochs, and compares the two.

Usage::

    python -m benchmarks.compare --data TEN --output OUT --epochs 10 --img-size 112 \
        --models resnext50_32x4d resneat50 -- --workers 0 --channels-last      # the networks to start from: OUT/runs
    timm-landmark prepare --metadata GLDV2/train.csv --images GLDV2/train --output DATA \
        --size 128 --join-names --classes 12 --split 2 1 1
    python -m benchmarks.finetune --data DATA --sources OUT/runs --output FT --epochs 4 --img-size 112 \
        --results benchmarks/results/finetune -- --workers 0 --channels-last
    python -m benchmarks.report                                                # the table in docs/benchmarks.md

For each model there are two runs with the same seed, photos, image size and number of epochs (by default the 15 of the
recipe; 4 in the committed results, where resnext50_32x4d starts from seed 1):

* finetune: ``train --recipe finetune --init-from SOURCES/MODEL-sN``, N the lowest seed there
* scratch: ``train --recipe paper``. The fine-tuning recipe needs a trained network, so this is the paper's recipe with
  its own optimizer, learning rate and rule, trained for fewer epochs than the paper's 25.

The best epoch of each run on validation is evaluated once on the test split. FT/runs contains the runs; the results
folder has one JSON file per model, which is rewritten after each finished run. Finished runs are skipped and an
interrupted one is resumed, so the same command continues after any interruption. Options after ``--`` are passed to
``timm-landmark train`` for all runs.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.comparison.collect import finished, without_paths
from benchmarks.comparison.intervals import paired_difference
from benchmarks.comparison.sets import read_csv
from timm_landmark.data.layout import SPLITS, ClassRow, data_digest, read_dataset_info, read_rows
from timm_landmark.runs.folder import best_epoch, read_args, read_run_info, read_summary
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_json

MODELS = ("resnext50_32x4d", "resneat50")
KINDS = ("finetune", "scratch")
EPOCHS = 15  # of recipes/finetune.yaml
KEPT = ("recipe", "rate_rule", "epochs", "img_size", "global_batch", "trainer", "project", "machine", "wall_seconds")
ALIKE = ("seed", "epochs", "img_size", "global_batch", "data_digest")


@dataclass(frozen=True)
class Plan:
    """What to train, from what, with which options, and where to put it."""

    data: Path
    sources: Path
    output: Path
    models: tuple[str, ...]
    options: tuple[str, ...]
    seed: int = 0

    def run(self, model: str, kind: str) -> Path:
        """The folder of one run."""
        return self.output / "runs" / f"{model}-{kind}"

    def source(self, model: str) -> Path:
        """The run that the fine-tuned network starts from: that of the lowest seed there is."""
        found = (path.name.removeprefix(f"{model}-s") for path in self.sources.glob(f"{model}-s*"))
        return self.sources / f"{model}-s{min((int(seed) for seed in found if seed.isdecimal()), default=0)}"


def main(argv: list[str] | None = None) -> int:
    """Trains, evaluates and collects; returns the exit code of the first command that fails, otherwise 0."""
    parser = argparse.ArgumentParser(prog="finetune.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared data set to fine-tune on")
    parser.add_argument(
        "--sources", type=Path, required=True, metavar="RUNS", help="folder with the runs MODEL-sSEED to start from"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FT", help="output folder")
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder for the results; default: FT/results")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of every run (default: {EPOCHS})")
    parser.add_argument("--img-size", type=int, default=224, metavar="P", help="default: 224")
    parser.add_argument("--collect-only", action="store_true", help="collect the finished runs, train nothing")
    parser.add_argument("train_options", nargs="*", metavar="-- OPTION", help="options for timm-landmark train")
    args = parser.parse_args(argv)
    options = ("--epochs", str(args.epochs), "--img-size", str(args.img_size), *args.train_options)
    plan = Plan(args.data, args.sources, args.output, tuple(args.models), options)
    results = args.results or args.output / "results"
    try:
        _check(plan)
        for model in plan.models:
            for kind in KINDS:
                if not args.collect_only and (code := _train(plan, model, kind)):
                    return code
                collect(plan, model, results)
    except UserError as error:
        parser.error(str(error))
    return 0


def _check(plan: Plan) -> None:
    """Checks all sources before the first run starts."""
    digest = data_digest(plan.data)
    for model in plan.models:
        info = read_run_info(plan.source(model))
        if info["model"] != model:
            _refuse(plan, model, f"it is a run of {info['model']}")
        if not info.get("finished"):
            _refuse(plan, model, "it is not finished")
        if info["data_digest"] == digest:
            _refuse(plan, model, f"it was trained on --data {plan.data} itself")


def _refuse(plan: Plan, model: str, reason: str) -> NoReturn:
    raise UserError(f"--sources {plan.sources}: {plan.source(model).name} cannot be the start: {reason}")


def _train(plan: Plan, model: str, kind: str) -> int:
    folder = plan.run(model, kind)
    if finished(folder):
        print(f"{folder.name}: already finished", flush=True)
        return 0
    print(f"{folder.name}:", flush=True)
    start = ["--recipe", "finetune", "--init-from", str(plan.source(model))]
    recipe = start if kind == "finetune" else ["--recipe", "paper"]
    resume = ["--resume"] * (folder / "run.json").exists()
    words = ["--data", str(plan.data), "--output", str(folder), "--seed", str(plan.seed), *recipe, *resume]
    code = _verb("train", model, *words, *plan.options) or _verb("evaluate", str(folder), "--data", str(plan.data))
    if code:
        print(f"{folder.name} failed (exit code {code}); repeat the command to continue from here", file=sys.stderr)
    return code


def _verb(*words: str) -> int:
    return subprocess.run([sys.executable, "-m", "timm_landmark.cli", *words], check=False).returncode


def collect(plan: Plan, model: str, results: Path) -> None:
    """Writes ``results/MODEL.json`` from the finished runs of a model, if there are any.

    Raises:
        UserError: If its two runs differ in more than the recipe.
    """
    runs = {kind: plan.run(model, kind) for kind in KINDS if finished(plan.run(model, kind))}
    if not runs:
        return
    infos = {kind: read_run_info(run) for kind, run in runs.items()}
    for key in ALIKE:
        if len(values := {info[key] for info in infos.values()}) > 1:
            found = " and ".join(map(str, sorted(values)))
            raise UserError(f"--output {plan.output}: the runs of {model} have {key} {found}; use another folder")
    classes = read_rows(plan.data, ClassRow)
    source = read_run_info(plan.source(model))
    result: dict[str, Any] = {
        "model": model,
        "seed": plan.seed,
        "dataset": {
            "release": read_dataset_info(plan.data).get("release"),
            "digest": infos[next(iter(infos))]["data_digest"],
            "classes": len(classes),
            "images": {split: sum(getattr(row, split) for row in classes) for split in SPLITS},
        },
        "source": {key: source[key] for key in ("model", "num_classes", "data_digest", "epochs", "img_size")},
        "runs": {kind: _record(runs[kind], infos[kind]) for kind in runs},
    }
    if len(runs) == len(KINDS):
        result |= _difference(*(_hits(run) for run in runs.values()))
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / f"{model}.json", without_paths(result, {}))


def _record(run: Path, info: dict[str, Any]) -> dict[str, Any]:
    rows, args = read_summary(run), read_args(run)
    return {
        **{key: info.get(key) for key in KEPT},
        "init_from": info.get("init_from"),
        "channels_last": args.get("channels_last", False),
        "best_epoch": best_epoch(rows),
        "validation_top1": [row["eval_top1"] for row in rows],
        "test_top1": info["evaluation"]["test"]["top1"],
    }


def _hits(run: Path) -> dict[str, bool]:
    return {row["image_id"]: row["prediction"] == row["class"] for row in read_csv(run / "predictions-test.csv")}


def _difference(finetune: dict[str, bool], scratch: dict[str, bool]) -> dict[str, Any]:
    """How many photos each of the two runs gets right, and the difference of their test top-1."""
    if finetune.keys() != scratch.keys():
        raise UserError("the two runs were tested on different photos; evaluate them again on the same data set")
    pairs = [(finetune[image], scratch[image]) for image in sorted(finetune)]
    found = paired_difference([[tuned for tuned, _ in pairs]], [[other for _, other in pairs]])
    names = {"both": (True, True), "only_finetune": (True, False), "only_scratch": (False, True)}
    return {
        "pairs": {**{name: pairs.count(pair) for name, pair in names.items()}, "neither": pairs.count((False, False))},
        "difference": {"value": found.estimate, "interval": list(found.runs), "images": found.n},
    }


if __name__ == "__main__":
    sys.exit(main())
