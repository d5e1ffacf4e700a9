"""Predictions of a run for a whole split of a prepared data set, and the files with predictions and features."""

import csv
import inspect
import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timm_landmark.data.address import Place
from timm_landmark.data.layout import ManifestRow, data_digest
from timm_landmark.data.split_reader import SplitReader
from timm_landmark.inference.answers import probabilities
from timm_landmark.runs.checkpoints import checkpoint_epoch
from timm_landmark.runs.loaders import validation_loader
from timm_landmark.runs.model import Run, load_run_model
from timm_landmark.runs.thresholds import DIGITS
from timm_landmark.utils.errors import UserError, without_traceback
from timm_landmark.utils.files import atomic_path
from timm_landmark.utils.text import escaped

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image; ``top`` has the (at most) five most likely class folders, the best first."""

    image_id: str
    folder: str
    top: tuple[str, ...]
    confidence: float

    @property
    def correct(self) -> bool:
        """Whether the most likely class is the true one."""
        return self.top[0] == self.folder


def photo_loader(
    run: Run, data: Place, split: str, device: str = "cpu", batch_size: int = 64, workers: int = 0
) -> tuple[Iterable[tuple["torch.Tensor", "torch.Tensor"]], list[ManifestRow]]:
    """Creates a loader of a split's images, preprocessed as in the run's validation.

    Arguments and errors are those of :func:`predict_split`.

    Returns:
        The loader, which yields images (n, channels, P, P) and their indices (n,) in the list of rows; and the rows of
        the manifest.
    """
    import torch
    from timm.data import IterableImageDataset

    reader = SplitReader(data, split, batch_size, "RGB" if run.input_size[0] == 3 else "L")
    dataset = IterableImageDataset(None, reader=reader)
    return validation_loader(dataset, vars(run), batch_size, workers, torch.device(device)), reader.rows


def predict_split(
    run: Run,
    data: Place,
    split: str,
    device: str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    features: Path | None = None,
    pool: bool = True,
) -> tuple[list[Prediction], np.ndarray | None]:
    """Predicts every image of a split with the run's best checkpoint, preprocessed as in validation.

    Args:
        run: The run, from :func:`timm_landmark.runs.model.load_run`.
        data: A prepared data set with the run's classes.
        split: ``train``, ``validation`` or ``test``.
        device: The device to compute on.
        batch_size: Images per batch.
        workers: Loader processes; 0 loads in this process.
        features: File for the logits and pooled features, written by :func:`write_features`.
        pool: Whether to return the pooled features.

    Returns:
        One prediction per image, ordered by image id; and their pooled features, the input of the classifier, shape
        (images, features), float16, or None if they are not wanted or the model has none.

    Raises:
        UserError: If an image cannot be read, or is not read exactly once; or the model has no pooled features to
            write to ``features``.
    """
    import torch
    from tqdm import tqdm

    model: Any = load_run_model(run, device)  # timm's models have more methods than nn.Module
    pool = (pool or features is not None) and "pre_logits" in inspect.signature(model.forward_head).parameters
    folders = (data / "class_map.txt").read_text(encoding="utf-8").split()
    loader, rows = photo_loader(run, data, split, device, batch_size, workers)
    predictions: dict[int, Prediction] = {}
    read, logits_kept, pooled_kept = 0, [], []
    try:
        with torch.inference_mode():
            for images, numbers in tqdm(loader, desc=escaped(f"{run.path.name} {split}"), unit="batch", disable=None):
                maps = model.forward_features(images)
                logits = model.forward_head(maps)
                top = probabilities(logits, run.checkpoint).topk(min(5, len(folders)))
                if pool:
                    pooled = model.forward_head(maps, pre_logits=True)
                    pool = pooled.ndim == 2
                    pooled_kept.append(pooled.to("cpu", torch.float16).numpy())
                if features is not None:
                    if not pool:
                        raise UserError(f"--keep-features: {run.model} has no pooled features; omit this option")
                    logits_kept.append(logits.to("cpu", torch.float16).numpy())
                answers = zip(numbers.tolist(), top.values[:, 0].tolist(), top.indices.tolist(), strict=True)
                for number, confidence, indices in answers:
                    names = tuple(folders[index] for index in indices)
                    predictions[number] = Prediction(rows[number].image_id, rows[number].folder, names, confidence)
                read += len(images)
    except UserError as error:
        raise without_traceback(error) from None
    if not read == len(predictions) == len(rows):
        raise UserError(
            f"--data {data}: read {read} images of {split} ({len(predictions)} different ones), but manifest.csv has "
            f"{len(rows)}; prepare the data set again"
        )
    found = list(predictions.values())  # in the order of the batches
    order = sorted(range(len(found)), key=lambda place: found[place].image_id)
    found = [found[place] for place in order]
    pooled = np.concatenate(pooled_kept)[order] if pool else None
    if features is not None and pooled is not None:
        ids = [prediction.image_id for prediction in found]
        source = (checkpoint_epoch(run.checkpoint), data_digest(data))
        write_features(features, ids, np.concatenate(logits_kept)[order], pooled, *source)
    return found, pooled


def write_features(
    path: Path, image_ids: Sequence[str], logits: np.ndarray, pooled: np.ndarray, epoch: int | None, digest: str
) -> None:
    """Writes ``image_id``, ``logits``, ``pooled``, ``epoch`` and ``data_digest`` as an npz file without pickles.

    Args:
        path: The file, which is written atomically.
        image_ids: n ids.
        logits: Shape (n, classes), float16.
        pooled: The input of the classifier, shape (n, features), float16.
        epoch: The epoch of the checkpoint.
        digest: The digest of the data set.

    Raises:
        UserError: If a value is not finite, or too large for float16.
    """
    for name, values in (("logits", logits), ("pooled features", pooled)):
        if not np.isfinite(values).all():
            raise UserError(f"--keep-features: some {name} are not finite in float16; evaluate without this option")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            image_id=np.array(image_ids),
            logits=logits,
            pooled=pooled,
            epoch=np.array(-1 if epoch is None else epoch),
            data_digest=np.array(digest),
        )


def read_features(path: Path, image_ids: Sequence[str], epoch: int | None, digest: str) -> np.ndarray | None:
    """Reads the pooled features that :func:`write_features` wrote; ``image_ids`` are those of the csv file.

    Returns:
        Shape (n, features), float16; or None if there is no such file, or it cannot be read, or it is of other images,
        another epoch or another data set.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            same = (file["epoch"].item(), file["data_digest"].item()) == (epoch, digest)
            return file["pooled"] if same and list(map(escaped, file["image_id"])) == list(image_ids) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def render_predictions(predictions: Sequence[Prediction]) -> str:
    """Renders csv text: image_id, class, prediction, confidence, top5 (class folders separated by spaces)."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image_id", "class", "prediction", "confidence", "top5"])
    for row in predictions:
        confidence = f"{row.confidence:.{DIGITS}f}"
        writer.writerow([escaped(row.image_id), row.folder, row.top[0], confidence, " ".join(row.top)])
    return buffer.getvalue()


def read_predictions(path: Path) -> list[Prediction] | None:
    """Reads a file of :func:`render_predictions`; None if there is none, or it is damaged."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                Prediction(row["image_id"], row["class"], tuple(row["top5"].split()), float(row["confidence"]))
                for row in csv.DictReader(file)
                if row["top5"]
            ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
        return None
