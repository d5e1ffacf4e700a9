"""Loading a model with its labels and its transform, and naming photos with it."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from timm_landmark.data.layout import ClassRow, read_rows
from timm_landmark.hub.config import id_and_name
from timm_landmark.hub.exported import PREFIX, load_model
from timm_landmark.inference.answers import Answer, Guess, Label, probabilities
from timm_landmark.inference.heat_maps import Explainer, load_explainer, overlay, uncropped
from timm_landmark.inference.photos import MOST_THUMBNAILS, STORED, THUMBNAIL, Photo, read_photos, squashed, true_class
from timm_landmark.runs.folder import INFO
from timm_landmark.runs.model import load_run, load_run_model
from timm_landmark.runs.thresholds import Thresholds, run_thresholds
from timm_landmark.utils.device import check_device, default_device
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.hub_files import CONFIG
from timm_landmark.utils.text import printable, say

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Namer:
    """A model with its labels, its preprocessing and its thresholds; ``note`` says why thresholds are not used."""

    model: "nn.Module"
    labels: tuple[Label, ...]
    transform: Callable[[Image.Image], Any]
    mode: str
    side: int
    title: str
    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = 1.0
    thresholds: Thresholds = field(default_factory=Thresholds)
    note: str | None = None

    @cached_property
    def explainer(self) -> Explainer:
        """The heat maps of the model; raises the errors of :func:`load_explainer`."""
        return load_explainer(self.model, self.input_size)

    def pixels(self, image: Image.Image) -> "torch.Tensor":
        """Returns the photo as model input, shape (channels, P, P)."""
        image = squashed(image, self.side)
        return self.transform(image if image.mode == self.mode else image.convert(self.mode))


def load_namer(source: str, device: str | None = None) -> Namer:
    """Loads a model with its labels and its transform.

    Args:
        source: A run folder, an exported folder, or ``hf-hub:ORG/NAME[@REVISION]``.
        device: The device to compute on; the best available by default.

    Raises:
        UserError: If the model does not exist or cannot be loaded.
    """
    from timm.data import create_transform

    device = device or default_device()
    check_device(device)
    note = None
    if source.startswith(PREFIX) or (Path(source) / CONFIG).is_file():
        model, config = load_model(source)
        if not config.num_classes:
            raise UserError(f"{source} has no classifier (num_classes 0); use a model with classes")
        title = f"{config.architecture} of {source}"
        labels = [Label(*pair) for pair in zip(config.landmark_ids, config.names, strict=True)]
        settings, thresholds = config.transform, config.thresholds
    elif (Path(source) / INFO).is_file():
        run = load_run(Path(source))
        labels = [class_label(row) for row in read_rows(run.path, ClassRow)]
        if len(labels) != run.num_classes:
            raise UserError(f"{source}: {len(labels)} classes in classes.csv, {run.num_classes} in the model")
        thresholds, note = run_thresholds(run)
        model, title = load_run_model(run), f"{run.model} of {run.path.absolute().name}"
        names = ("input_size", "interpolation", "mean", "std", "crop_pct")
        settings = {name: getattr(run, name) for name in names}
    else:
        raise UserError(
            f"{source} is neither a run ({INFO}) nor an exported model ({CONFIG}); write a repository on the "
            f"Hub as {PREFIX}ORG/NAME"
        )
    _, *sides = settings["input_size"]
    return Namer(
        model=model.to(device).eval(),
        labels=tuple(labels),
        # one transform, because it is not separated into parts
        transform=cast("Callable[[Image.Image], Any]", create_transform(**settings, is_training=False)),
        mode="RGB" if settings["input_size"][0] == 3 else "L",
        side=max(STORED, int(max(sides) / settings["crop_pct"])),
        title=printable(title),
        input_size=settings["input_size"],
        crop_pct=settings["crop_pct"],
        thresholds=thresholds,
        note=note,
    )


def add_threshold_options(parser: ArgumentParser) -> None:
    """Adds ``--threshold`` and ``--no-threshold``, which :func:`with_thresholds` applies."""
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="smallest probability of a certain guess (default: the model's)"
    )
    parser.add_argument("--no-threshold", action="store_true", help="name every photo, however uncertain")


def check_threshold_options(options: Namespace) -> None:
    """Checks the options of :func:`add_threshold_options`.

    Raises:
        UserError: If both are given, or the threshold is not a probability.
    """
    if options.threshold is not None:
        if options.no_threshold:
            raise UserError(f"--threshold {options.threshold} and --no-threshold contradict each other; give one")
        if not 0 <= options.threshold <= 1:
            raise UserError(f"--threshold {options.threshold}: must be a probability from 0 to 1, such as 0.8")


def with_thresholds(namer: Namer, options: Namespace) -> Namer:
    """The model with the thresholds of the options; a note on thresholds that are not used goes to stderr."""
    if options.no_threshold:
        return replace(namer, thresholds=Thresholds())
    if namer.note:
        say(namer.note, file=sys.stderr)
    if options.threshold is not None:
        return replace(namer, thresholds=replace(namer.thresholds, certain=options.threshold))
    return namer


def class_label(row: ClassRow) -> Label:
    """The label of a class in classes.csv, the same as in the config.json of an exported model."""
    return Label(*id_and_name(row))


def name_photos(
    namer: Namer,
    paths: Iterable[Path],
    top: int = 5,
    batch_size: int = 32,
    workers: int = 4,
    thumbnails: bool = False,
    explain: bool = False,
    side: int = THUMBNAIL,
) -> Iterator[Answer]:
    """Predicts photos batch by batch.

    Only ``workers`` full-size photos and a few batches of model inputs are in memory, however many photos there are.

    Args:
        namer: From :func:`load_namer`.
        paths: The photos.
        top: Guesses per photo, at most the number of classes.
        batch_size: Photos per batch.
        workers: Decoding threads.
        thumbnails: Whether to add thumbnails, for as many photos as a gallery shows.
        explain: Whether to add heat maps of the first guess over the thumbnails.
        side: Pixels of the longer side of a thumbnail, at most.

    Yields:
        One answer per photo, in order.

    Raises:
        UserError: If the model's output is not finite, or :func:`load_explainer` cannot explain the model.
    """
    shown = MOST_THUMBNAILS if thumbnails else 0
    photos = read_photos(paths, namer.pixels, shown, workers, 2 * batch_size, side)
    batch: list[Photo] = []
    for photo in photos:
        batch.append(photo)
        if len(batch) == batch_size:
            yield from _name_batch(namer, batch, top, explain)
            batch = []
    yield from _name_batch(namer, batch, top, explain)


def _name_batch(namer: Namer, batch: Sequence[Photo], top: int, explain: bool) -> Iterator[Answer]:
    import torch

    good = [photo for photo in batch if photo.pixels is not None]
    ranked: dict[Path, tuple[Guess, ...]] = {}
    heats: dict[Path, Image.Image] = {}
    if good:
        device = next(namer.model.parameters()).device
        images = torch.stack([photo.pixels for photo in good]).to(device)
        with torch.inference_mode():
            shares = probabilities(namer.model(images), namer.title).cpu()  # (B, classes)
        values, indices = shares.topk(min(top, shares.shape[-1]))
        for photo, row, order in zip(good, values.tolist(), indices.tolist(), strict=True):
            ranked[photo.path] = tuple(Guess(index, value) for index, value in zip(order, row, strict=True))
        if explain:
            heats = _heats(namer, good, images, indices[:, 0])
    known = set(namer.labels)
    for photo in batch:
        row = true_class(photo.path)
        truth = class_label(row) if row else None
        small = Photo(photo.path, None, photo.thumbnail, photo.problem)  # without the pixels
        guesses = ranked.get(photo.path, ())
        decision = namer.thresholds.decide(guesses[0].probability) if guesses else "landmark"
        heat = heats.get(photo.path)
        layer = namer.explainer.layer if heat else None
        yield Answer(small, guesses, truth, truth is None or truth in known, decision, heat, layer)


def _heats(
    namer: Namer, photos: Sequence[Photo], images: "torch.Tensor", classes: "torch.Tensor"
) -> dict[Path, Image.Image]:
    """Heat maps over the thumbnails, for the photos that have one; images (B, C, P, P) and classes (B,) are theirs."""
    rows = [row for row, photo in enumerate(photos) if photo.thumbnail is not None]
    found = namer.explainer.heat(images[rows], classes[rows])
    return {
        photos[row].path: overlay(thumbnail, uncropped(heat, namer.crop_pct))
        for row, heat in zip(rows, found, strict=True)
        if (thumbnail := photos[row].thumbnail) is not None
    }
