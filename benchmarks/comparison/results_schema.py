"""What a committed result file must hold: JSON schemas by place, and what a comparison's files must agree on.

Usage: python -m benchmarks.comparison.results_schema # every file under benchmarks/results; exit 1 names what is wrong
"""

import json
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePath
from typing import Any

import jsonschema

from benchmarks.comparison.sets import RESULTS, FinishedRun, load

NUMBER, COUNT, TEXT = {"type": "number"}, {"type": "integer", "minimum": 0}, {"type": "string", "minLength": 1}


def _object(**properties: Any) -> dict[str, Any]:
    """An object with all of these properties; more are allowed."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(**properties: Any) -> dict[str, Any]:
    """An array, not empty, of such objects."""
    return {"type": "array", "minItems": 1, "items": _object(**properties)}


SHARE = _object(value={"type": "number", "minimum": 0, "maximum": 1}, images=COUNT, correct=COUNT)
MACHINE = _object(cpu=TEXT, cores=COUNT, machine=TEXT, system=TEXT, python=TEXT, packages={"type": "object"})

WHERE = dict(model=TEXT, mode={"enum": ["inference", "training"]}, img_size=COUNT, batch=COUNT)
GOAL = dict(what=TEXT, model=TEXT, against=TEXT, ratio=NUMBER, low=NUMBER, high=NUMBER, at_least=NUMBER, aim=NUMBER)
SPEED = _object(
    machine=MACHINE,
    threads=COUNT,
    goals=_list(**GOAL, lower_is_better={"type": "boolean"}),
    throughput=_list(**WHERE, img_per_s=NUMBER, low=NUMBER, high=NUMBER),
    memory=_list(form=TEXT, model=TEXT, mode=TEXT, img_size=COUNT, batch=COUNT, peak_mib=NUMBER),
    breakdown=_list(**WHERE, parts=_list(stage=TEXT, part=TEXT, ms=NUMBER)),
    paths=_list(mode=TEXT, img_size=COUNT, out_chs=COUNT, side=COUNT, product_ms=NUMBER, gram_ms=NUMBER, chosen=TEXT),
)

UNITS = {
    "type": "array",
    "items": _object(unit=TEXT, channels=COUNT, mean=NUMBER, over_channels=NUMBER, over_photos=NUMBER),
}
SPREAD = dict(untrained=UNITS, trained=UNITS, epochs={"type": "object", "additionalProperties": UNITS})
SCALE = dict(model=TEXT, run=TEXT, data_digest=TEXT, split=TEXT, photos=COUNT, **SPREAD)

# By path under benchmarks/results, first match.
SCHEMAS = {
    "*/run.json": _object(
        model=TEXT,
        recipe=TEXT,
        seed=COUNT,
        img_size={"type": "integer", "minimum": 1},
        epochs={"type": "integer", "minimum": 1},
        finished={"const": True},
        rate_rule={"const": "paper"},
        data_digest={"type": "string", "pattern": "^[0-9a-f]{64}$"},
        global_batch=COUNT,
        trainer=_object(kind=TEXT, timm=TEXT),
        machine=MACHINE,
        wall_seconds=NUMBER,
        parameters=COUNT,
        evaluation=_object(test=_object(top1=SHARE, top5=SHARE)),
    ),
    "*/scale.json": _object(**SCALE, params=COUNT, macs=COUNT, macs_spent=COUNT, changed=NUMBER),
    "*/dataset.json": {"type": "object", "minProperties": 1},
    "speed.json": SPEED,
    "scale.json": _object(**SCALE),
    "*.json": _object(machine=MACHINE),
}


def check_file(path: Path, root: Path = RESULTS) -> None:
    """Holds one JSON file against its schema and looks for paths of a machine in it.

    Raises:
        ValueError: Naming the file, the place in it and what is wrong.
    """
    place = path.relative_to(root).as_posix()
    value = json.loads(path.read_text(encoding="utf-8"))
    schema = next(schema for pattern, schema in SCHEMAS.items() if fnmatch(place, pattern))
    try:
        jsonschema.validate(value, schema)
    except jsonschema.ValidationError as error:
        raise ValueError(
            f"{place}: {'.'.join(map(str, error.absolute_path)) or 'top level'}: {error.message}"
        ) from None
    _check_paths(place, value)


def check_comparison(folder: Path) -> None:
    """Holds a collected comparison's files against their schemas and against each other.

    Raises:
        ValueError: Naming the first disagreement: a path of a machine, a missing epoch, a metric that its own
            predictions do not give.
        FileNotFoundError: If a file is missing.
    """
    for path in sorted(folder.rglob("*.json")):
        check_file(path, folder.parent)
    comparison = load(folder)
    for runs in comparison.runs.values():
        for run in runs:
            _check_run(run, comparison.test_images)


def _check_run(run: FinishedRun, images: list[str]) -> None:
    name = f"{run.model}-s{run.seed}"
    _check_paths(f"{name}/args.yaml", run.args)
    if (run.info["model"], run.info["seed"]) != (run.model, run.seed):
        raise ValueError(f"{name}/run.json is of {run.info['model']}, seed {run.info['seed']}")
    epochs = [row["epoch"] for row in run.epochs]
    if epochs != list(range(run.info["epochs"])):
        raise ValueError(f"{name}/summary.csv has epochs {epochs}, run.json {run.info['epochs']} of them")
    for metric, k in (("top1", 1), ("top5", 5)):
        stated, counted = run.info["evaluation"]["test"][metric], sum(run.hits(k, images))
        if (stated["correct"], stated["images"]) != (counted, len(images)):
            raise ValueError(f"{name}: run.json states {metric} {stated}, its predictions give {counted} right")


def _check_paths(place: str, value: Any) -> None:
    for text in _strings(value):
        if PurePath(text).is_absolute() or text.startswith("~"):
            raise ValueError(f"{place}: {text!r} is a path of one machine")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def check_all(root: Path = RESULTS) -> None:
    """Checks every JSON file and every comparison under ``root``."""
    for path in sorted(root.rglob("*.json")):
        check_file(path, root)
    for images in sorted(root.rglob("images.csv")):
        check_comparison(images.parent)


if __name__ == "__main__":
    try:
        check_all()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"results_schema: {error}")
