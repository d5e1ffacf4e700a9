"""The page of ``evaluate``: figures, confusions, accuracy per class, training curves and the worst mistakes."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from timm_landmark.data.address import Place
from timm_landmark.data.check import read_sums, stored_name
from timm_landmark.data.layout import ClassRow, ManifestRow, read_rows
from timm_landmark.data.shards import in_shards, read_samples, read_shard_info, sample_key
from timm_landmark.hub.config import class_names
from timm_landmark.inference.heat_maps import INSTALL, is_available, overlay, uncropped
from timm_landmark.inference.namer import load_namer
from timm_landmark.inference.pages.charts import MOST_LABELLED, Axis, Line, confusion_matrix, line_chart
from timm_landmark.inference.pages.templates import data_uri, template
from timm_landmark.inference.photos import THUMBNAIL
from timm_landmark.inference.split_predictions import Prediction
from timm_landmark.runs.folder import read_summary
from timm_landmark.runs.model import Run
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import atomic_path
from timm_landmark.utils.text import printable

MOST_MISTAKES, MOST_PAIRS, OPEN_ROWS = 24, 15, 40  # photos, confused pairs, rows of classes that are not folded
OPTIONAL = ("risk_coverage", "selective", "retrieval")  # of the results; only those of test have all of them


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction; ``picture`` and ``heat`` are data URIs, empty if there is none."""

    prediction: Prediction
    truth: str
    guess: str
    picture: str = ""
    heat: str = ""

    @property
    def file(self) -> str:
        """The image's id, harmless in a page."""
        return printable(self.prediction.image_id)


def write_evaluation_page(
    run: Run,
    data: Place | None,
    split: str,
    predictions: Sequence[Prediction],
    classes: Sequence[ClassRow],
    path: Path,
    device: str = "cpu",
) -> None:
    """Writes a self-contained HTML page about one split.

    Args:
        run: The run; ``run.info["evaluation"][split]`` is what ``evaluate`` found; parts may be missing.
        data: The data set, for the photos of the mistakes. If they cannot be read, the page says so.
        split: ``train``, ``validation`` or ``test``.
        predictions: The predictions for the split.
        classes: The classes of the model, in the order of its outputs.
        path: The page, written atomically.
        device: The device for heat maps.

    Raises:
        UserError: If the page cannot be written.
    """
    labels = dict(zip((row.folder for row in classes), class_names(classes)["label_names"], strict=True))
    evaluation = run.info["evaluation"]
    result, tested = {**dict.fromkeys(OPTIONAL), **evaluation[split]}, split == "test"
    counts = _counts(predictions, list(labels))
    mistakes, notes = _mistakes(run, data, split, predictions, labels, device)
    heading = f"{run.model} of {run.path.absolute().name}"
    context: dict[str, Any] = {
        "title": printable(f"{heading}, {split}"),
        "run": {
            "epoch": result["epoch"] + 1,
            "epochs": len(read_summary(run.path)),
            "pixels": run.input_size[-1],
            "trainer": printable(str((run.info.get("trainer") or {}).get("kind", "an unknown trainer"))),
        },
        "result": result,
        "labels": labels,
        "unknown": evaluation.get("unknown") if tested else None,
        "thresholds": (run.info.get("thresholds") or {}) if tested else {},
        "rows": sorted(result["per_class"], key=lambda row: (row["value"] is None, row["value"], -row["images"])),
        "open_rows": OPEN_ROWS,
        "matrix": confusion_matrix(counts, list(labels.values())),
        "labelled": len(labels) <= MOST_LABELLED,
        "pairs": _pairs(counts, list(labels.values())),
        "risk": _risk_chart(result),
        "curves": _training_charts(run),
        "mistakes": mistakes,
        "wrong": sum(not each.correct for each in predictions),
        "notes": notes,
    }
    try:
        with atomic_path(path) as temporary:
            template("evaluation.html.jinja").stream(context).dump(str(temporary), encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; free space or make the folder writable") from None


def _counts(predictions: Sequence[Prediction], folders: Sequence[str]) -> np.ndarray:
    """Images by true and predicted class, shape (classes, classes)."""
    index = {folder: number for number, folder in enumerate(folders)}
    counts = np.zeros((len(folders), len(folders)), np.int64)
    for each in predictions:
        counts[index[each.folder], index[each.top[0]]] += 1
    return counts


def _pairs(counts: np.ndarray, labels: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """The most frequent confusions: true class, predicted class, images, images of the true class."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    cells = [(int(cell) // len(labels), int(cell) % len(labels)) for cell in order]
    images = counts.sum(1)
    return [(labels[a], labels[b], int(wrong[a, b]), int(images[a])) for a, b in cells if wrong[a, b]]


def _risk_chart(result: dict[str, Any]) -> str:
    curve, chosen = result["risk_coverage"], result["selective"]
    if curve is None:
        return ""
    points = [(100 * share, 100 * risk) for share, risk in zip(curve["coverage"], curve["risk"], strict=True)]
    mark = None
    if chosen and chosen["answered"]:
        label = f"confidence {chosen['threshold']:.2f}"
        mark = (100 * chosen["answered"] / chosen["images"], 100 * (1 - chosen["value"]), label)
    top = max(10.0, *(risk for _, risk in points))
    title = "Share of wrong answers by share of photos that are answered"
    return line_chart(
        title, [Line("risk", points)], Axis("answered photos, %", 0, 100), Axis("wrong answers, %", 0, top), mark
    )


def _training_charts(run: Run) -> list[tuple[str, list[str], str]]:
    """Heading, names of the lines and chart for each quantity in ``summary.csv``."""
    rows = read_summary(run.path)
    charts = []
    for heading, columns, top in (
        ("Loss", {"train_loss": "training", "eval_loss": "validation"}, None),
        ("Validation accuracy", {"eval_top1": "top-1", "eval_top5": "top-5"}, 100.0),
        ("Learning rate", {"lr": "learning rate"}, None),
    ):
        lines = [
            Line(name, [(row["epoch"] + 1, row[column]) for row in rows if np.isfinite(row.get(column, np.nan))], style)
            for style, (column, name) in enumerate(columns.items())
        ]
        lines = [line for line in lines if line.points]
        if lines:
            high = top or 1.05 * max(value for line in lines for _, value in line.points) or 1.0
            x = Axis("epoch", 1 if len(rows) > 1 else 0, max(len(rows), 2))
            y = Axis("%" if top else "", 0, high)
            charts.append((heading, [line.name for line in lines], line_chart(f"{heading} by epoch", lines, x, y)))
    return charts


def _mistakes(
    run: Run, data: Place | None, split: str, predictions: Sequence[Prediction], labels: dict[str, str], device: str
) -> tuple[list[Mistake], list[str]]:
    """The most confident mistakes, with their photos and heat maps if these can be had, and notes if they cannot."""
    worst = sorted((each for each in predictions if not each.correct), key=lambda each: -each.confidence)
    worst = worst[:MOST_MISTAKES]
    pictures: dict[str, Image.Image] = {}
    heats: dict[str, Image.Image] = {}
    notes = []
    if worst:
        pictures, problem = _pictures(data, split, {each.image_id for each in worst})
        if problem:
            some = f"{len(worst) - len(pictures)} of the" if pictures else "The"
            notes.append(f"{some} photos cannot be shown: {problem}")
    if pictures and is_available():
        try:
            heats = _heats(run, worst, pictures, list(labels), device)
        except UserError as error:
            notes.append(f"There are no heat maps: {printable(str(error), 300)}")
    elif pictures:
        notes.append(f"For heat maps of where the network looked, {INSTALL} and evaluate again.")
    shown = [
        Mistake(
            each,
            labels[each.folder],
            labels[each.top[0]],
            *(data_uri(_small(found[each.image_id])) if each.image_id in found else "" for found in (pictures, heats)),
        )
        for each in worst
    ]
    return shown, notes


def _pictures(data: Place | None, split: str, ids: set[str]) -> tuple[dict[str, Image.Image], str]:
    """The images with these ids, as far as they can be read, and the first reason why one cannot; empty if all can."""
    if data is None:
        return {}, "the data set of the run does not exist; evaluate with --data"
    found: dict[str, Image.Image] = {}
    problem = ""
    try:
        for key, content in _contents(data, split, ids):
            try:
                with Image.open(io.BytesIO(content)) as image:
                    found[key] = image.convert("RGB")
            except OSError:
                problem = problem or f"{key} is missing or damaged; prepare the data set again"
    except (UserError, OSError) as error:
        problem = problem or str(error)
    if len(found) < len(ids):
        problem = problem or f"{data} does not have them"
    return found, printable(problem, 300)


def _contents(data: Place, split: str, ids: set[str]) -> Iterator[tuple[str, bytes]]:
    """Id and file of these images, from a folder or shards. Nothing else is decoded: a split may have many images.

    Raises:
        UserError: If a table or a shard of the data set cannot be read.
    """
    if not in_shards(data):
        for row in read_rows(data, ManifestRow):
            if row.split == split and row.image_id in ids:
                try:
                    yield row.image_id, (data / stored_name(row)).read_bytes()
                except OSError:
                    yield row.image_id, b""  # no image, so it is reported as damaged
        return
    keys = {sample_key(each): each for each in ids}
    sums = read_sums(data)
    for name, images in read_shard_info(data)[split].items():
        for key, (_, content) in read_samples(data, name, images, sums).items():
            if key in keys:
                yield keys[key], content


def _heats(
    run: Run, worst: Sequence[Prediction], pictures: dict[str, Image.Image], folders: Sequence[str], device: str
) -> dict[str, Image.Image]:
    """Heat maps of the predicted classes over the pictures.

    Raises:
        UserError: If the model has no map that can be shown.
    """
    import torch

    namer = load_namer(str(run.path), device)
    shown = [each for each in worst if each.image_id in pictures]
    images = torch.stack([namer.pixels(pictures[each.image_id]) for each in shown]).to(device)
    heats = namer.explainer.heat(images, torch.tensor([folders.index(each.top[0]) for each in shown]))
    return {
        each.image_id: overlay(_small(pictures[each.image_id]), uncropped(heat, namer.crop_pct))
        for each, heat in zip(shown, heats, strict=True)
    }


def _small(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small
