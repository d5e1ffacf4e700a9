"""``timm-landmark evaluate``: how often a run's best checkpoint is right on a split, and when it should not answer."""

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from timm_landmark.data.address import Place, place
from timm_landmark.data.check import SUMS, read_sums
from timm_landmark.data.images import settle_process
from timm_landmark.data.layout import SPLITS, ManifestRow, data_digest, read_rows
from timm_landmark.inference.metrics.summary import (
    choose_thresholds,
    retrieval,
    selective,
    summarise,
    summarise_unknown,
)
from timm_landmark.inference.namer import load_namer, name_photos
from timm_landmark.inference.pages.evaluation import write_evaluation_page
from timm_landmark.inference.photos import find_photos
from timm_landmark.inference.rendering import render_results
from timm_landmark.inference.split_predictions import (
    Prediction,
    predict_split,
    read_features,
    read_predictions,
    render_predictions,
)
from timm_landmark.runs.checkpoints import checkpoint_epoch
from timm_landmark.runs.folder import update_info
from timm_landmark.runs.model import Run, load_run
from timm_landmark.runs.thresholds import KEY, read_thresholds
from timm_landmark.training import checks
from timm_landmark.utils.device import check_device, default_device
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import sha256_file, write_atomic
from timm_landmark.utils.parser import Parser, check_least
from timm_landmark.utils.text import escaped, printable, say

TARGET = 0.95  # of right answers
PAGE = "evaluation.html"


@dataclass(frozen=True)
class Evaluated:
    """A split: its predictions, their pooled features if the model has them, and the results for run.json."""

    predictions: list[Prediction]
    pooled: np.ndarray | None
    result: dict[str, Any]


@dataclass(frozen=True)
class Unknown:
    """The photos of ``--unknown``: SHA-256 and confidence of each that can be read, and the number of the others."""

    folder: Path
    confidences: list[tuple[str, float]]
    unreadable: int


def main(argv: list[str]) -> int:
    """Runs the verb: prints the metrics, writes them to ``run.json``, and writes the predictions to a csv file.

    Returns:
        0, or 1 if a photo of ``--unknown`` cannot be read (it is reported and left out).

    Raises:
        UserError: If the run, its checkpoint or the data set is missing, or they do not fit together.
    """
    options = _parser().parse_args(argv)
    _check(options)
    device = options.device or default_device()
    check_device(device)
    run = load_run(options.run)
    if not os.access(run.path, os.W_OK):
        raise UserError(
            f"RUN {run.path}: no permission to write the results into this folder; copy it and evaluate that"
        )
    data = options.data or run.data
    if data is None:
        raise UserError(f"the data set of {run.path}, {run.args.get('data_dir')}, does not exist; pass it with --data")
    classes = checks.check_data(data)
    checks.check_classes(run.path, classes, f"--data {data}")
    tested = options.split == "test"
    checks.check_splits(data, [options.split, *["validation"] * tested], classes)
    photos = unknown_photos(options.unknown, data) if options.unknown else {}
    source = {"epoch": checkpoint_epoch(run.checkpoint), "data_digest": data_digest(data)}

    def evaluated(split: str, features: Path | None = None) -> Evaluated:
        pool = tested or features is not None
        found, pooled = predict_split(run, data, split, device, options.batch_size, options.workers, features, pool)
        head = {"split": split, "checkpoint": run.checkpoint.name, **source}
        return Evaluated(found, pooled, {**head, **summarise(found, classes)})

    validation = (saved_validation(run, source) or evaluated("validation")) if tested else None
    now = evaluated(options.split, run.path / f"features-{options.split}.npz" if options.keep_features else None)
    named, unknown, entries = None, None, {}
    if validation is not None:
        named = _name_unknown(run, photos, device, options) if photos else None
        entries[KEY], unknown = _when_to_answer(run, now, validation, named, options.target_accuracy or TARGET)
    run = _record(run, [each for each in (validation, now) if each is not None], unknown, entries)
    page = run.path / (PAGE if tested else f"evaluation-{options.split}.html")
    write_evaluation_page(run, data, options.split, now.predictions, classes, page, device)
    say(*render_results(run, now.result, entries.get(KEY), unknown), f"{page}: the same with pictures")
    return 1 if named and named.unreadable else 0


def _when_to_answer(
    run: Run, test: Evaluated, validation: Evaluated, named: Unknown | None, target: float
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Chooses the thresholds on validation and measures them, and retrieval, on test, in ``test.result``.

    Args:
        run: The run.
        test: The test split.
        validation: The validation split.
        named: The unknown photos; None without ``--unknown``.
        target: Share of the certain answers that are right.

    Returns:
        The thresholds, and the results with unknown photos: these ones, earlier ones that still hold, or None.
    """
    source = {name: test.result[name] for name in ("epoch", "data_digest")}
    test.result["retrieval"] = retrieval(test.predictions, test.pooled, validation.predictions, validation.pooled)
    thresholds = {**choose_thresholds(validation.predictions, target), **source}
    test.result["selective"] = selective(test.predictions, thresholds["certain"])
    if named is None:
        if unknown := _earlier_unknown(run, thresholds):
            thresholds["none"] = (unknown["none"] or {}).get("threshold")
        return thresholds, unknown
    thresholds["none"], unknown = summarise_unknown(
        test.predictions, validation.predictions, named.confidences, read_thresholds(thresholds)
    )
    folder = printable(named.folder.resolve().name)
    head = {"folder": folder, "unreadable": named.unreadable, "target_accuracy": target}
    return thresholds, {**head, **source, **unknown}


def _record(run: Run, evaluated: list[Evaluated], unknown: dict[str, Any] | None, entries: dict[str, Any]) -> Run:
    """Writes the predictions and run.json, and returns the run with its new run.json."""
    results = dict(run.info.get("evaluation") or {})
    if entries:
        results["unknown"] = unknown
    for each in evaluated:
        split = each.result["split"]
        results[split] = each.result
        write_atomic(run.path / f"predictions-{split}.csv", render_predictions(each.predictions))
    kept = {name: result for name, result in results.items() if result is not None}
    return replace(run, info=update_info(run.path, evaluation=kept, **entries))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="timm-landmark evaluate",
        description=(
            "Computes top-1, top-5, GAP and top-1 per class, each with a 95 % interval, for the checkpoint that is "
            "best on validation. Writes them to RUN/run.json, and one line per image to RUN/predictions-SPLIT.csv. "
            "With the split test, it also chooses on validation the confidence from which an answer is certain, and "
            "measures it and the retrieval with pooled features on test."
        ),
        epilog="Exit code: 0 for success, 1 if a photo of --unknown cannot be read, 2 for a user error.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder (train --output)")
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    parser.add_argument("--data", type=place, help="prepared data set (default: that of the training)")
    parser.add_argument("--device", help="default: cuda if available, else mps, else cpu")
    parser.add_argument("-b", "--batch-size", type=int, default=64, help="images per batch (default: 64)")
    parser.add_argument("-j", "--workers", type=int, default=0, help="loader processes (default: 0)")
    parser.add_argument(
        "--keep-features",
        action="store_true",
        help="also write the logits and pooled features of each image, in float16, to RUN/features-SPLIT.npz",
    )
    parser.add_argument(
        "--target-accuracy",
        type=float,
        metavar="P",
        help=f"share of the certain answers that are right on validation (default: {TARGET})",
    )
    parser.add_argument(
        "--unknown",
        type=Path,
        metavar="FOLDER",
        help="photos of none of the classes: measures how well they are told apart from the others, and chooses the "
        "confidence below which a photo shows none of the landmarks",
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.split not in SPLITS:
        raise UserError(f"--split {options.split}: must be one of {', '.join(SPLITS)}")
    check_least(options, batch_size=1, workers=0)
    for name in ("target_accuracy", "unknown"):
        if (value := getattr(options, name)) is not None and options.split != "test":
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {value}: is for the split test only, not for --split {options.split}")
    if options.target_accuracy is not None and not 0 < options.target_accuracy < 1:
        raise UserError(f"--target-accuracy {options.target_accuracy}: must be between 0 and 1, such as {TARGET}")


def saved_validation(run: Run, source: dict[str, Any]) -> Evaluated | None:
    """Reads an earlier evaluation of validation, with ``--keep-features``, from the run folder.

    Returns:
        None if it is missing or incomplete, or of another epoch or data set than ``source``.
    """
    result = (run.info.get("evaluation") or {}).get("validation") or {}
    if any(result.get(name) != value for name, value in source.items()) or "risk_coverage" not in result:
        return None
    found = read_predictions(run.path / "predictions-validation.csv") or []
    if (len(found), sum(each.correct for each in found)) != (result["images"], result["top1"]["correct"]):
        return None
    ids = [each.image_id for each in found]
    pooled = read_features(run.path / "features-validation.npz", ids, source["epoch"], source["data_digest"])
    return None if pooled is None else Evaluated(found, pooled, result)


def unknown_photos(folder: Path, data: Place) -> dict[Path, str]:
    """Finds the photos of ``--unknown``.

    Returns:
        Path -> hex SHA-256 of the file; empty for a file that cannot be read.

    Raises:
        UserError: If the folder does not exist, has no photos, or has photos of the data set.
    """
    if not folder.is_dir():
        raise UserError(f"--unknown {folder}: no such folder; pass a folder with photos of none of the classes")
    known = {row.sha256 for row in read_rows(data, ManifestRow)}
    if isinstance(data, Path):
        inner, outer = folder.resolve(), data.resolve()
        if inner.is_relative_to(outer) or outer.is_relative_to(inner):
            raise UserError(
                f"--unknown {folder}: is in the data set {data} or contains it; pass a folder with photos of none of "
                "the classes"
            )
        known |= set(read_sums(data).values()) if (data / SUMS).is_file() else set()
    try:
        paths = find_photos([folder])
    except UserError as error:
        raise UserError(f"--unknown {error}") from None
    found: dict[Path, str] = {}
    for path in paths:
        try:
            found[path] = sha256_file(path)
        except OSError:
            found[path] = ""
        if found[path] in known:
            raise UserError(
                f"--unknown {folder}: {path} is also in the data set {data}; remove it from the folder, which must "
                "show none of the classes"
            )
    return found


def _name_unknown(run: Run, photos: dict[Path, str], device: str, options: argparse.Namespace) -> Unknown:
    """Names the photos of ``--unknown``, and reports those that cannot be read."""
    from tqdm import tqdm

    settle_process()
    answers = name_photos(load_namer(str(run.path), device), photos, 1, options.batch_size)
    named = []
    for answer in tqdm(
        answers, total=len(photos), desc=escaped(f"{run.path.name} unknown"), unit="photo", disable=None
    ):
        if answer.photo.problem:
            say(f"{answer.photo.path}: {printable(answer.photo.problem)}", file=sys.stderr)
        else:
            named.append((photos[answer.photo.path], answer.guesses[0].probability))
    bad = len(photos) - len(named)
    if not named:
        raise UserError(f"--unknown {options.unknown}: none of its {bad} photos can be read; pass other photos")
    if bad:
        say(f"{bad} of {len(photos)} unknown photos cannot be read and are left out", file=sys.stderr)
    return Unknown(options.unknown, named, bad)


def _earlier_unknown(run: Run, thresholds: dict[str, Any]) -> dict[str, Any] | None:
    """The results of an earlier ``--unknown`` if they still hold, else None, with a message if there are some."""
    earlier = (run.info.get("evaluation") or {}).get("unknown")
    if not earlier or all(
        earlier.get(name) == thresholds[name] for name in ("epoch", "data_digest", "target_accuracy")
    ):
        return earlier
    say(
        "the results with unknown photos were of another epoch, data set or --target-accuracy and are removed; "
        f"measure them again with --unknown (before: {earlier.get('folder')})",
        file=sys.stderr,
    )
    return None
