"""Run folders: the files written by timm's train script, and those of this package.

Written by the train script:
    args.yaml, summary.csv, last.pth.tar, checkpoint-N.pth.tar, model_best.pth.tar

Written by this package:
    run.json: model, recipe, seed, data digest, trainer, this project's commit, machine, wall time, parameters,
        evaluation, thresholds
    classes.csv: the data set's classes in the order of the model's outputs (``read_rows(RUN, ClassRow)``)
    predictions-SPLIT.csv, evaluation.html, features-SPLIT.npz: from ``evaluate``, the last with ``--keep-features``
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_atomic, write_json

INFO, ARGS, SUMMARY = "run.json", "args.yaml", "summary.csv"


def read_run_info(path: Path) -> dict[str, Any]:
    """Reads ``run.json``.

    Raises:
        UserError: If the folder or the file is missing, or the file is not a JSON object.
    """
    try:
        info = json.loads((path / INFO).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is not a run ({INFO} is missing); create one with `timm-landmark train`") from None
    except ValueError as error:
        raise UserError(f"{path / INFO} is not valid JSON ({error}); restore it or train again") from None
    if not isinstance(info, dict):
        raise UserError(f"{path / INFO} is not a JSON object; restore it or train again")
    return info


def update_info(path: Path, **values: Any) -> dict[str, Any]:
    """Sets top-level ``values`` in ``run.json`` (created if missing) atomically; returns its new content."""
    info = read_run_info(path) if (path / INFO).exists() else {}
    info.update(values)
    write_json(path / INFO, info)
    return info


def read_args(path: Path) -> dict[str, Any]:
    """Reads ``args.yaml``, all options of the train script.

    Raises:
        UserError: If it is missing, not valid YAML, or not a mapping with a model.
    """
    import yaml

    try:
        args = yaml.safe_load((path / ARGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not a run ({ARGS} is missing); create one with `timm-landmark train`") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path / ARGS} is not valid YAML ({reason}); restore it or train again") from None
    if not isinstance(args, dict) or not args.get("model"):
        raise UserError(
            f"{path / ARGS}: the model is missing; restore the file from timm's train script, or train again"
        )
    return args


def read_summary(path: Path) -> list[dict[str, float]]:
    """Reads ``summary.csv``: one row per epoch, in order, with numbers as values; empty if there is no file yet.

    Repeated header lines, which timm's train script writes on resume, and a last line truncated by a kill are skipped.
    If an epoch occurs twice, its later row is used.
    """
    file = path / SUMMARY
    if not file.exists():
        return []
    header: list[str] = []
    rows: dict[int, dict[str, float]] = {}
    for line in csv.reader(io.StringIO(file.read_text(encoding="utf-8", errors="replace"), newline="")):
        if line and line[0] == "epoch":
            header = line
            continue
        try:
            row = {name: float(text) for name, text in zip(header, line, strict=True)}
        except ValueError:
            continue  # truncated
        if row:
            rows[int(row["epoch"])] = row
    return [rows[epoch] for epoch in sorted(rows)]


def tidy_summary(path: Path, epochs: int) -> None:
    """Reduces ``summary.csv`` to one header and one row for each of the first ``epochs`` epochs.

    The lines are kept exactly as the train script wrote them.
    """
    file = path / SUMMARY
    if not file.exists():
        return
    text = file.read_bytes().decode()
    header, rows = "", {}
    for line in text.splitlines(keepends=True):
        first = line.split(",", 1)[0]
        if first == "epoch":
            header = header or line
        elif first.isdigit() and int(first) < epochs and line.endswith("\n") and line.count(",") == header.count(","):
            rows[int(first)] = line
    tidy = header + "".join(rows[epoch] for epoch in sorted(rows))
    if tidy != text:
        write_atomic(file, tidy)


def best_epoch(rows: list[dict[str, float]], metric: str = "top1") -> int | None:
    """The epoch with the best validation ``metric`` (the first of equals, as in timm), or None without rows."""
    if not rows:
        return None
    column, sign = (f"eval_{metric}", 1) if f"eval_{metric}" in rows[0] else ("train_loss", -1)
    if metric == "loss":
        sign = -1
    return int(max(rows, key=lambda row: sign * row[column])["epoch"])
