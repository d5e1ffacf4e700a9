"""Collects the results of finished runs: no checkpoints, no photos, no paths of the machine."""

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import yaml

from benchmarks.comparison.sets import read_csv
from timm_landmark.data.address import Place
from timm_landmark.utils.files import write_atomic, write_json

IMAGE_COLUMNS = ("image_id", "landmark_id", "class", "split")
PREDICTION_COLUMNS = ("image_id", "prediction", "confidence", "rank")
Images: TypeAlias = set[tuple[str, str, str]]  # id, class, split
Counts: TypeAlias = list[tuple[str, ...]]  # of each class: folder, landmark, images in each split


def collect(data: Place, runs: Sequence[Path], results: Path) -> None:
    """Writes the folder of a comparison as ``sets.load`` reads it.

    Args:
        data: The prepared data set that the runs were trained on, in folders or in shards.
        runs: Run folders named ``<model>-s<seed>``. Runs that cannot be compared are skipped with a message.
        results: Folder of the comparison, created if missing; :func:`same_images` must hold. Runs that it already has
            are replaced, its record of the data set is kept.

    Raises:
        FileNotFoundError: If a file of the data set or of a finished run is missing.
    """
    results.mkdir(parents=True, exist_ok=True)
    if not (results / "images.csv").exists():
        write_atomic(results / "classes.csv", (data / "classes.csv").read_bytes())
        dataset = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
        write_json(results / "dataset.json", without_paths(dataset, {}))
        _write_csv(results / "images.csv", IMAGE_COLUMNS, read_csv(data / "manifest.csv"))
    counts, images = _counts(data), _images(data / "manifest.csv")
    for run in runs:
        if reason := _skip_reason(run, counts, images):
            print(f"skipped {run.name}: {reason}")
        else:
            _collect_run(run, results / run.name)


def same_images(data: Place, results: Path) -> bool:
    """Whether the results, if any, are of the same images, classes and splits as the data set."""
    if not (results / "images.csv").exists():
        return True
    return _images(results / "images.csv") == _images(data / "manifest.csv")


def _images(path: Place) -> Images:
    return {(row["image_id"], row["class"], row["split"]) for row in read_csv(path)}


def finished(run: Path) -> bool:
    """Whether a run was trained to its end and evaluated on the test split."""
    try:
        info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(info.get("finished")) and "test" in info.get("evaluation", {})


def _skip_reason(run: Path, counts: Counts, images: Images) -> str:
    """Returns why a run cannot be compared with the others; empty if it can.

    The images are compared, not the digest, which changes when the same photos are packed again: the run must have
    been trained with the data set's classes and number of images, and tested on its test images.
    """
    if not finished(run):
        return "not finished"
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    if info["evaluation"]["test"]["data_digest"] != info["data_digest"]:
        return "tested on another data set than it was trained on"
    tested = {(row["image_id"], row["class"], "test") for row in read_csv(run / "predictions-test.csv")}
    if _counts(run) != counts or tested != {row for row in images if row[2] == "test"}:
        return "trained on another data set"
    return "started from existing weights (--init-from)" if "init_from" in info else ""


def _counts(folder: Place) -> Counts:
    columns = ("class", "landmark_id", "train", "validation", "test")
    return [tuple(row[column] for column in columns) for row in read_csv(folder / "classes.csv")]


def _collect_run(run: Path, target: Path) -> None:
    args = yaml.safe_load((run / "args.yaml").read_text(encoding="utf-8"))
    names = {args["data_dir"]: "DATA", args["output"]: "RUNS"}
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    target.mkdir(exist_ok=True)
    shutil.copyfile(run / "summary.csv", target / "summary.csv")
    (target / "args.yaml").write_text(yaml.safe_dump(without_paths(args, names)), encoding="utf-8")
    write_json(target / "run.json", without_paths(info, names))
    predictions = read_csv(run / "predictions-test.csv")
    for row in predictions:
        guesses = row["top5"].split()
        row["rank"] = str(guesses.index(row["class"]) + 1 if row["class"] in guesses else 0)
    _write_csv(target / "predictions-test.csv", PREDICTION_COLUMNS, predictions)


def without_paths(value: Any, names: dict[str, str]) -> Any:
    """Replaces known folders by names and cuts every other absolute path to its last part.

    Args:
        value: A JSON-like value.
        names: Folder, as it was given to the run -> its name in the results.
    """
    if isinstance(value, dict):
        return {key: without_paths(inner, names) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner, names) for inner in value]
    if not isinstance(value, str):
        return value
    for folder, name in names.items():
        if value == folder or value.startswith((f"{folder}/", f"{folder}\\")):
            return name + value[len(folder) :].replace("\\", "/")  # the same on every system
    return PurePath(value).name if PurePath(value).is_absolute() else value


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue())
