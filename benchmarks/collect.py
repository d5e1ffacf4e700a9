"""Gathers what is worth keeping of finished runs: no checkpoint, no photo, no path of the machine."""

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml
from comparison import read_csv

from timm_landmark.data.address import Place
from timm_landmark.data.layout import data_digest
from timm_landmark.files import write_json

IMAGE_COLUMNS = ("image_id", "landmark_id", "class", "split")
PREDICTION_COLUMNS = ("image_id", "prediction", "confidence", "rank")


def collect(data: Place, runs: Sequence[Path], results: Path) -> None:
    """Writes a comparison's folder as ``comparison.load`` reads it.

    Args:
        data: The prepared data set that the runs were trained on, in folders or in shards.
        runs: Run folders named ``<model>-s<seed>``; those that do not belong in it are left out, with the reason.
        results: The comparison's folder, made if missing; a run that is there already is replaced.

    Raises:
        FileNotFoundError: If the data set or a finished run lacks a file.
    """
    results.mkdir(parents=True, exist_ok=True)
    (results / "classes.csv").write_bytes((data / "classes.csv").read_bytes())
    dataset = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    write_json(results / "dataset.json", without_paths(dataset, {}))
    _write_csv(results / "images.csv", IMAGE_COLUMNS, read_csv(data / "manifest.csv"))
    digest = data_digest(data)
    for run in runs:
        if reason := _left_out(run, digest):
            print(f"{run.name} {reason}: left out")
        else:
            _collect_run(run, results / run.name)


def finished(run: Path) -> bool:
    """Whether a run was trained to its end and evaluated on the test split."""
    try:
        info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(info.get("finished")) and "test" in info.get("evaluation", {})


def _left_out(run: Path, digest: str) -> str:
    """Why a run cannot stand beside the others; empty when it can."""
    if not finished(run):
        return "is not finished"
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    if info["data_digest"] != digest:
        return "was trained on another data set"
    return "did not start from random weights (--init-from)" if "init_from" in info else ""


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
    """The value with known folders under a name and every other absolute path cut to its last part.

    Args:
        value: JSON-like.
        names: Folder as the run was given it -> what to call it.
    """
    if isinstance(value, dict):
        return {key: without_paths(inner, names) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner, names) for inner in value]
    if not isinstance(value, str):
        return value
    for folder, name in names.items():
        if value == folder or value.startswith(f"{folder}/"):
            return name + value[len(folder) :]
    return PurePath(value).name if PurePath(value).is_absolute() else value


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(buffer.getvalue(), encoding="utf-8")
