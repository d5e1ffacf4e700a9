"""Checks that collected results agree with each other and contain no path of the machine that made them."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from benchmarks.comparison.intervals import bootstrap
from benchmarks.comparison.sets import RESULTS, FinishedRun, load

# Options that runs of one comparison may differ in.
OF_ONE_RUN = {"model", "seed", "experiment", "checkpoint_hist", "resume", "device", "workers"}


def check_all(root: Path = RESULTS) -> None:
    """Checks every JSON file and every comparison below ``root``; errors as of :func:`check_comparison`."""
    for path in sorted(root.rglob("*.json")):
        check_paths(path.relative_to(root), json.loads(path.read_text(encoding="utf-8")))
    for path in sorted(root.glob("finetune/*.json")):
        check_finetune(path.relative_to(root), json.loads(path.read_text(encoding="utf-8")))
    for images in sorted(root.rglob("images.csv")):
        check_comparison(images.parent)


def check_comparison(folder: Path) -> None:
    """Checks a collected comparison.

    Raises:
        ValueError: At the first problem: a path of a machine, a run with other options than the first one, an
            unfinished run, a missing epoch, an accuracy that does not follow from the run's predictions.
        FileNotFoundError: If a file is missing.
    """
    for path in sorted(folder.rglob("*.json")):
        check_paths(path.relative_to(folder), json.loads(path.read_text(encoding="utf-8")))
    comparison = load(folder)
    _check_recipe([run for runs in comparison.runs.values() for run in runs])
    for runs in comparison.runs.values():
        for run in runs:
            name = f"{run.model}-s{run.seed}"
            check_paths(Path(name, "args.yaml"), run.args)
            try:
                _check_run(name, run, comparison.test_images)
            except KeyError as error:
                raise ValueError(f"{name}/run.json: {error} is missing") from None


def _check_recipe(runs: list[FinishedRun]) -> None:
    """All runs must have been trained with the same options, apart from those that name or place a run."""
    recipes = [{key: value for key, value in run.args.items() if key not in OF_ONE_RUN} for run in runs]
    for run, recipe in zip(runs, recipes, strict=True):
        if other := {key for key in recipe | recipes[0] if recipe.get(key) != recipes[0].get(key)}:
            first = f"{runs[0].model}-s{runs[0].seed}"
            raise ValueError(f"{run.model}-s{run.seed}/args.yaml: not trained as {first}: {', '.join(sorted(other))}")


def _check_run(name: str, run: FinishedRun, images: list[str]) -> None:
    info = run.info
    if (info["model"], info["seed"]) != (run.model, run.seed):
        raise ValueError(f"{name}/run.json is of {info['model']}, seed {info['seed']!r}")
    if not info["finished"]:
        raise ValueError(f"{name}/run.json: the run is not finished")
    if info["rate_rule"] != "paper":
        raise ValueError(f"{name}/run.json: rate_rule is {info['rate_rule']!r}, not 'paper'")
    epochs = [row["epoch"] for row in run.epochs]
    if epochs != list(range(info["epochs"])):
        raise ValueError(f"{name}: summary.csv has the epochs {epochs}, but run.json states {info['epochs']}")
    for metric, k in (("top1", 1), ("top5", 5)):
        stated, counted = info["evaluation"]["test"][metric], sum(run.hits(k, images))
        if (stated["correct"], stated["images"]) != (counted, len(images)):
            raise ValueError(f"{name}: run.json states {metric} {stated}, but its predictions give {counted} right")


def check_finetune(place: Path, result: dict[str, Any]) -> None:
    """Checks a result of ``finetune.py``: accuracies and difference follow from the photos that each run got right.

    Raises:
        ValueError: Naming ``place`` and what differs.
    """
    if "pairs" not in result:  # only one of the two runs is finished
        return
    pairs, gain = result["pairs"], result["difference"]
    images = sum(pairs.values())
    for kind, run in result["runs"].items():
        top1 = run["test_top1"]
        if (top1["correct"], top1["images"]) != (pairs["both"] + pairs[f"only_{kind}"], images):
            raise ValueError(f"{place.as_posix()}: test_top1 of {kind} is {top1}, but the pairs are {pairs}")
    signs = [1] * pairs["only_finetune"] + [-1] * pairs["only_scratch"] + [0] * (pairs["both"] + pairs["neither"])
    if gain["images"] != images or list(bootstrap(signs)) != gain["interval"]:
        raise ValueError(f"{place.as_posix()}: the difference is {gain}, but the pairs are {pairs}")


def check_paths(place: Path, value: Any) -> None:
    """Checks that a JSON-like value contains no absolute path.

    Raises:
        ValueError: Naming ``place`` and the path.
    """
    for text in _strings(value):
        if PurePath(text).is_absolute() or text.startswith("~"):
            raise ValueError(f"{place.as_posix()}: {text!r} is a path of one machine")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
