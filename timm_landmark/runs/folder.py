"""Run folders: what timm's train script writes, and ``run.json`` beside it.

RUN/args.yaml  RUN/summary.csv  RUN/last.pth.tar  RUN/checkpoint-N.pth.tar  RUN/model_best.pth.tar   (the trainer's)
RUN/run.json   model, recipe, seed, data digest, trainer, this project's commit, machine, wall time, parameters,
               evaluation (this package's)
RUN/predictions-SPLIT.csv  RUN/features-SPLIT.npz   what `evaluate` and its --keep-features write
RUN/classes.csv   the data set's classes in the order of the model's outputs (read_rows(RUN, ClassRow))
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
        UserError: If the folder or the file is missing, or the file is not JSON.
    """
    try:
        return json.loads((path / INFO).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is not a run (run.json is missing); make one with `timm-landmark train`") from None
    except ValueError as error:
        raise UserError(f"{path / INFO} is not JSON ({error}); restore it or train again") from None


def update_info(path: Path, **values: Any) -> dict[str, Any]:
    """Sets top-level ``values`` in ``run.json`` (made if missing) atomically; returns the whole."""
    info = read_run_info(path) if (path / INFO).exists() else {}
    info.update(values)
    write_json(path / INFO, info)
    return info


def read_args(path: Path) -> dict[str, Any]:
    """Reads ``args.yaml``, the trainer's full set of options.

    Raises:
        UserError: If it is missing or not a mapping with a model.
    """
    import yaml

    try:
        args = yaml.safe_load((path / ARGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not a run (args.yaml is missing); make one with `timm-landmark train`") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path / ARGS} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(args, dict) or not args.get("model"):
        raise UserError(f"{path / ARGS} names no model; it is not the file that timm's train script writes")
    return args


def read_summary(path: Path) -> list[dict[str, float]]:
    """Reads ``summary.csv``: one row an epoch, in order, values as numbers; empty where there is no file yet.

    Repeated header lines, which timm's train script writes on resume, and a last line torn by a kill are passed over;
    of an epoch trained twice the later row counts.
    """
    file = path / SUMMARY
    if not file.exists():
        return []
    header: list[str] = []
    rows: dict[int, dict[str, float]] = {}
    for line in csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")):
        if line and line[0] == "epoch":
            header = line
            continue
        try:
            row = {name: float(text) for name, text in zip(header, line, strict=True)}
        except ValueError:
            continue  # torn
        if row:
            rows[int(row["epoch"])] = row
    return [rows[epoch] for epoch in sorted(rows)]


def tidy_summary(path: Path, epochs: int) -> None:
    """Leaves in ``summary.csv`` one header and, once each, the rows of the first ``epochs`` epochs.

    The lines themselves are kept as the trainer wrote them, to the last digit.
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
    """The epoch with the best validation ``metric`` (the first of equals, as timm's saver ranks), None without rows."""
    if not rows:
        return None
    column, sign = (f"eval_{metric}", 1) if f"eval_{metric}" in rows[0] else ("train_loss", -1)
    if metric == "loss":
        sign = -1
    return int(max(rows, key=lambda row: sign * row[column])["epoch"])
