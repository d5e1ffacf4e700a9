"""Photos on the way to a model: found, read in threads with bounded look-ahead, squashed as the training data was."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from timm_landmark.data.images import RejectedImage, decode_rgb, resize
from timm_landmark.data.layout import FILES, SPLITS, ClassRow, read_rows
from timm_landmark.utils.errors import UserError

# what a folder is searched for; a file that is named itself is tried whatever its name, as its bytes decide
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
STORED = 256  # pixels a side of a prepared data set
THUMBNAIL = 160


@dataclass(frozen=True)
class Photo:
    """One file: its ``pixels`` as the model takes them and a small ``thumbnail``, or the ``problem``."""

    path: Path
    pixels: Any = None
    thumbnail: Image.Image | None = None
    problem: str | None = None


def find_photos(places: Sequence[Path]) -> list[Path]:
    """The files named, and those with a photo's ending in the folders named and below, each once.

    Raises:
        UserError: If a place does not exist or a folder holds no photo.
    """
    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            inside = [path for path in inside if not path.name.startswith(".")]
            if not inside:
                raise UserError(f"{place}: no photo in this folder (endings {', '.join(sorted(SUFFIXES))})")
            found.update(dict.fromkeys(inside))
        elif place.exists():
            found[place] = None
        else:
            raise UserError(f"{place}: no such file or folder")
    return list(found)


def squashed(image: Image.Image, side: int = STORED) -> Image.Image:
    """A photo that is not square at ``side`` x ``side``, because the training data was squashed (section 4.1).

    A square one, such as an image of a prepared data set, is left to the model's own transform alone, so its
    probabilities are those of timm's inference.
    """
    return image if image.width == image.height else resize(image, side)


def read_photo(path: Path, transform: Callable[[Image.Image], Any], thumbnail: bool = False) -> Photo:
    """Decodes a photo by the rules of ``prepare`` and keeps what ``transform`` makes of it, not the photo itself."""
    try:
        image = decode_rgb(path.read_bytes())
    except RejectedImage as error:
        return Photo(path, problem=str(error))
    except OSError as error:
        return Photo(path, problem=f"cannot be read: {error.strerror or error}")
    pixels = transform(image)
    if thumbnail:
        image.thumbnail((THUMBNAIL, THUMBNAIL))  # in place
    return Photo(path, pixels, image if thumbnail else None)


def read_photos(
    paths: Iterable[Path], transform: Callable[[Image.Image], Any], thumbnails: int, workers: int, ahead: int
) -> Iterator[Photo]:
    """Reads photos in order, ``workers`` at a time and at most ``ahead`` before they are asked for.

    Args:
        paths: The files.
        transform: See :func:`read_photo`; called in several threads.
        thumbnails: How many of the first photos get one.
        workers: Threads, and photos at full size in memory.
        ahead: Results in memory.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        for number, path in enumerate(paths):
            waiting.append(pool.submit(read_photo, path, transform, number < thumbnails))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def true_class(path: Path) -> ClassRow | None:
    """The class of an image that lies in a prepared data set as DATA/split/class/image, else None."""
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
        return {}  # a classes.csv of someone else's
