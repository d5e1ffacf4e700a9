"""Finding and reading photos for inference: in threads with bounded memory, squashed like the training data."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from timm_landmark.data.images import SUFFIXES, RejectedImage, decode_rgb, resize
from timm_landmark.data.layout import FILES, SPLITS, ClassRow, read_rows
from timm_landmark.utils.errors import UserError

STORED = 256  # pixels per side in a prepared data set
THUMBNAIL = 160  # pixels
MOST_THUMBNAILS = 3000  # photos on a page, about 20 MB


@dataclass(frozen=True)
class Photo:
    """One file: its ``pixels`` as model input and a small ``thumbnail``, or the ``problem`` if it cannot be read.

    ``sha256`` is of the bytes that were decoded.
    """

    path: Path
    pixels: Any = None
    thumbnail: Image.Image | None = None
    problem: str | None = None
    sha256: str | None = None


def find_photos(places: Sequence[Path]) -> list[Path]:
    """Returns the given files, and the photos in the given folders and their subfolders, without duplicates.

    Raises:
        UserError: If a path does not exist or a folder contains no photo.
    """
    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            inside = [path for path in inside if not path.name.startswith(".")]
            if not inside:
                raise UserError(f"{place}: no photos in this folder ({', '.join(SUFFIXES)})")
            found.update(dict.fromkeys(inside))
        elif place.exists():
            found[place] = None
        else:
            raise UserError(f"{place}: no such file or folder")
    return list(found)


def squashed(image: Image.Image, side: int = STORED) -> Image.Image:
    """Resizes a photo that is not square to ``side`` x ``side``, like the training data (section 4.1).

    Square images, such as those of a prepared data set, are returned unchanged, so that their probabilities equal those
    of timm's inference.
    """
    return image if image.width == image.height else resize(image, side)


def read_photo(path: Path, transform: Callable[[Image.Image], Any], thumbnail: int = 0) -> Photo:
    """Decodes a photo as in ``prepare`` and keeps the output of ``transform``, not the photo itself.

    ``thumbnail`` is the longer side of the thumbnail in pixels, at most; with 0 there is none.
    """
    try:
        content = path.read_bytes()
        image = decode_rgb(content)
    except RejectedImage as error:
        return Photo(path, problem=str(error))
    except OSError as error:
        return Photo(path, problem=f"cannot be read: {error.strerror or error}")
    pixels = transform(image)
    if thumbnail:
        image.thumbnail((thumbnail, thumbnail))  # in place
    return Photo(path, pixels, image if thumbnail else None, sha256=hashlib.sha256(content).hexdigest())


def read_photos(
    paths: Iterable[Path],
    transform: Callable[[Image.Image], Any],
    thumbnails: int,
    workers: int,
    ahead: int,
    side: int = THUMBNAIL,
) -> Iterator[Photo]:
    """Reads photos in order, with ``workers`` threads and at most ``ahead`` photos in advance.

    Args:
        paths: The files.
        transform: As for :func:`read_photo`; called in several threads.
        thumbnails: Number of photos, from the first, that get a thumbnail.
        workers: Number of threads, and of full-size photos in memory.
        ahead: Number of results in memory.
        side: Pixels of the longer side of a thumbnail, at most.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Photo]] = deque()
        for number, path in enumerate(paths):
            waiting.append(pool.submit(read_photo, path, transform, side if number < thumbnails else 0))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def true_class(path: Path) -> ClassRow | None:
    """The class of an image in a prepared data set (DATA/split/class/image), else None."""
    folder = path.absolute().parent
    if folder.parent.name not in SPLITS:
        return None
    return _classes(folder.parent.parent).get(folder.name)


@cache
def _classes(data: Path) -> dict[str, ClassRow]:
    if not (data / FILES[ClassRow]).is_file():
        return {}
    try:
        return {row.folder: row for row in read_rows(data, ClassRow)}
    except UserError:
        return {}  # not a classes.csv of this package
