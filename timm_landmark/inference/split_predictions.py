"""Predictions of a run for a whole split of a prepared data set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timm_landmark.data.address import Place
from timm_landmark.data.layout import ManifestRow
from timm_landmark.data.split_reader import SplitReader
from timm_landmark.inference.answers import probabilities
from timm_landmark.runs.model import Run, load_run_model
from timm_landmark.training.loaders import validation_loader
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
) -> list[Prediction]:
    """Predicts every image of a split with the run's best checkpoint, preprocessed as in validation.

    Args:
        run: The run, from :func:`timm_landmark.runs.model.load_run`.
        data: A prepared data set with the run's classes.
        split: ``train``, ``validation`` or ``test``.
        device: The device to compute on.
        batch_size: Images per batch.
        workers: Loader processes; 0 loads in this process.
        features: File for the logits and pooled features, written by :func:`write_features`.

    Returns:
        One prediction per image, ordered by image id.

    Raises:
        UserError: If an image cannot be read, or is not read exactly once.
    """
    import torch
    from tqdm import tqdm

    model: Any = load_run_model(run, device)  # timm's models have more methods than nn.Module
    folders = (data / "class_map.txt").read_text(encoding="utf-8").split()
    loader, rows = photo_loader(run, data, split, device, batch_size, workers)
    predictions: dict[int, Prediction] = {}
    read, kept = 0, []
    try:
        with torch.inference_mode():
            for images, numbers in tqdm(loader, desc=escaped(f"{run.path.name} {split}"), unit="batch"):
                maps = model.forward_features(images)
                logits = model.forward_head(maps)
                top = probabilities(logits, run.checkpoint).topk(min(5, len(folders)))
                if features is not None:
                    pooled = model.forward_head(maps, pre_logits=True)
                    kept.append([values.to("cpu", torch.float16).numpy() for values in (logits, pooled)])
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
    if features is not None:  # the predictions are in the order of the batches
        ids = [prediction.image_id for prediction in predictions.values()]
        write_features(features, ids, *map(np.concatenate, zip(*kept, strict=True)))
    return sorted(predictions.values(), key=lambda prediction: prediction.image_id)


def write_features(path: Path, image_ids: Sequence[str], logits: np.ndarray, pooled: np.ndarray) -> None:
    """Writes ``image_id``, ``logits`` and ``pooled``, ordered by image id, as an npz file without pickles.

    Args:
        path: The file, which is written atomically.
        image_ids: n ids.
        logits: Shape (n, classes), float16.
        pooled: The input of the classifier, shape (n, features), float16.

    Raises:
        UserError: If a value is not finite, or too large for float16.
    """
    for name, values in (("logits", logits), ("pooled features", pooled)):
        if not np.isfinite(values).all():
            raise UserError(f"--keep-features: some {name} are not finite in float16; evaluate without this option")
    ids = np.array(image_ids)
    order = np.argsort(ids)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, image_id=ids[order], logits=logits[order], pooled=pooled[order])
