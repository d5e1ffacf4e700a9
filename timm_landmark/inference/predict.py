"""``timm-landmark predict``: names the landmark in photos with a run, an exported folder or a Hub repository."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from PIL import Image

from timm_landmark.data.images import settle_process
from timm_landmark.data.layout import ClassRow, read_rows
from timm_landmark.hub.config import id_and_name
from timm_landmark.hub.exported import PREFIX, load_model
from timm_landmark.inference.answers import Answer, Guess, Label, probabilities
from timm_landmark.inference.gallery import check_page
from timm_landmark.inference.photos import STORED, Photo, find_photos, read_photos, squashed, true_class
from timm_landmark.runs.folder import INFO
from timm_landmark.runs.model import load_run, load_run_model
from timm_landmark.utils.device import check_device, default_device
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.hub_files import CONFIG
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import escaped, printable, say

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Namer:
    """A model with its labels and its preprocessing."""

    model: "nn.Module"
    labels: tuple[Label, ...]
    transform: Callable[[Image.Image], Any]
    mode: str
    side: int
    title: str

    def pixels(self, image: Image.Image) -> "torch.Tensor":
        """Returns the photo as model input, shape (channels, P, P)."""
        image = squashed(image, self.side)
        return self.transform(image if image.mode == self.mode else image.convert(self.mode))


def main(argv: list[str]) -> int:
    """Runs the verb.

    Returns:
        0, or 1 if a photo cannot be read (it is reported and the others are still named).

    Raises:
        UserError: If the model or a photo does not exist, the model's output is not finite, or the gallery cannot be
            written.
    """
    parser = Parser(
        prog="timm-landmark predict",
        description=(
            "Names the landmark in photos. A photo that is not square is first resized to a square, like the training "
            "data. Then the transform of the model's validation is applied."
        ),
        epilog="Exit code: 0 for success, 1 if a photo cannot be read (the others are named), 2 for a user error.",
    )
    parser.add_argument("model", metavar="RUN|FOLDER|hf-hub:ORG/NAME", help="output of train, export or push")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO|FOLDER", help="files or folders")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="guesses per photo (default: 5)")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: table")
    parser.add_argument("--gallery", type=Path, metavar="OUT.html", help="also write an HTML page with thumbnails")
    parser.add_argument("--device", help="default: cuda if available, else mps, else cpu")
    parser.add_argument("-b", "--batch-size", type=int, default=32, help="photos per batch (default: 32)")
    parser.add_argument("-j", "--workers", type=int, default=4, help="decoding threads (default: 4)")
    options = parser.parse_args(argv)
    for name in ("top", "batch_size", "workers"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    if options.gallery is not None:
        check_page(options.gallery)
    settle_process()
    paths = find_photos(options.photos)
    namer = load_namer(options.model, options.device)
    answers = name_photos(namer, paths, options.top, options.batch_size, options.workers, options.gallery is not None)
    return _report(namer, answers, len(paths), options.format, options.gallery)


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
    if source.startswith(PREFIX) or (Path(source) / CONFIG).is_file():
        model, config = load_model(source)
        if not config.num_classes:
            raise UserError(f"{source} has no classifier (num_classes 0); use a model with classes")
        title = f"{config.architecture} of {source}"
        labels = [Label(*pair) for pair in zip(config.landmark_ids, config.names, strict=True)]
        settings = config.transform
    elif (Path(source) / INFO).is_file():
        run = load_run(Path(source))
        labels = [class_label(row) for row in read_rows(run.path, ClassRow)]
        if len(labels) != run.num_classes:
            raise UserError(f"{source}: {len(labels)} classes in classes.csv, {run.num_classes} in the model")
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
    )


def class_label(row: ClassRow) -> Label:
    """The label of a class in classes.csv, the same as in the config.json of an exported model."""
    return Label(*id_and_name(row))


def name_photos(
    namer: Namer, paths: Iterable[Path], top: int = 5, batch_size: int = 32, workers: int = 4, thumbnails: bool = False
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

    Yields:
        One answer per photo, in order.

    Raises:
        UserError: If the model's output is not finite.
    """
    from timm_landmark.inference.gallery import MOST_SHOWN

    shown = MOST_SHOWN if thumbnails else 0
    photos = read_photos(paths, namer.pixels, shown, workers, 2 * batch_size)
    batch: list[Photo] = []
    for photo in photos:
        batch.append(photo)
        if len(batch) == batch_size:
            yield from _name_batch(namer, batch, top)
            batch = []
    yield from _name_batch(namer, batch, top)


def _name_batch(namer: Namer, batch: Sequence[Photo], top: int) -> Iterator[Answer]:
    import torch

    good = [photo for photo in batch if photo.pixels is not None]
    ranked: dict[Path, tuple[Guess, ...]] = {}
    if good:
        device = next(namer.model.parameters()).device
        images = torch.stack([photo.pixels for photo in good]).to(device)
        with torch.inference_mode():
            shares = probabilities(namer.model(images), namer.title).cpu()  # (B, classes)
        values, indices = shares.topk(min(top, shares.shape[-1]))
        for photo, row, order in zip(good, values.tolist(), indices.tolist(), strict=True):
            ranked[photo.path] = tuple(Guess(index, value) for index, value in zip(order, row, strict=True))
    known = set(namer.labels)
    for photo in batch:
        row = true_class(photo.path)
        truth = class_label(row) if row else None
        small = Photo(photo.path, None, photo.thumbnail, photo.problem)  # without the pixels
        yield Answer(small, ranked.get(photo.path, ()), truth, truth is None or truth in known)


def _report(namer: Namer, answers: Iterable[Answer], total: int, output: str, gallery: Path | None) -> int:
    """Prints each answer when it is ready; problems go to stderr, with their number at the end."""
    from tqdm import tqdm

    from timm_landmark.inference.gallery import Gallery

    page = Gallery(namer.title, namer.labels) if gallery else None
    render = {"table": render_table, "csv": render_csv, "json": render_json}[output]
    head = {"table": [], "csv": ["photo,rank,landmark_id,name,probability"], "json": ["["]}[output]
    bad = 0
    with tqdm(total=total, desc="predict", unit=" photos", disable=None) as progress:

        def write(*lines: str, file: TextIO | None = None) -> None:
            if lines:
                with progress.external_write_mode(file):
                    say(*lines, file=file)

        write(*head)
        try:
            for number, answer in enumerate(answers):
                if answer.photo.problem:
                    bad += 1
                    write(f"{escaped(answer.photo.path)}: {printable(answer.photo.problem)}", file=sys.stderr)
                lines = render(answer, namer.labels)
                write(*(f"{',' if number else ' '}{line}" for line in lines) if output == "json" else lines)
                if page is not None:
                    page.add(answer)
                progress.update()
        finally:  # after an error or Ctrl-C, the output is still valid JSON
            if output == "json":
                write("]")
    if page is not None and gallery is not None:
        page.write(gallery)
        say(f"{gallery}: {page.summary()}", file=sys.stderr)
    if bad:
        say(f"{bad} of {total} photos cannot be read", file=sys.stderr)
    return 1 if bad else 0


def render_table(answer: Answer, labels: Sequence[Label]) -> list[str]:
    """Renders the photo's path and a line per guess; empty for an unreadable photo."""
    if not answer.guesses:
        return []
    lines = [f"  {100 * each.probability:6.2f} %  {printable(labels[each.index].name, 80)}" for each in answer.guesses]
    return [escaped(answer.photo.path), *lines]


def render_csv(answer: Answer, labels: Sequence[Label]) -> list[str]:
    """Renders a line per guess (photo, rank, landmark_id, name, probability); empty for an unreadable photo."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for rank, each in enumerate(answer.guesses, 1):
        label = labels[each.index]
        name = printable(label.name)
        writer.writerow(
            [escaped(answer.photo.path), rank, printable(label.landmark_id), name, f"{each.probability:.6f}"]
        )
    return buffer.getvalue().splitlines()


def render_json(answer: Answer, labels: Sequence[Label]) -> list[str]:
    """Renders one object: photo and guesses, or photo and problem; ASCII, so that it cannot control a terminal."""
    found: dict[str, Any] = {"photo": os.fsencode(answer.photo.path).decode("utf-8", "backslashreplace")}
    if answer.photo.problem:
        found["problem"] = answer.photo.problem
    else:
        found["guesses"] = [
            {**vars(labels[each.index]), "class": each.index, "probability": each.probability}
            for each in answer.guesses
        ]
    if answer.truth:
        found["truth"] = vars(answer.truth)
    return [json.dumps(found, allow_nan=False)]
