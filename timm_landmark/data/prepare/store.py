"""Turns a photo's bytes into its stored picture: hashed, decoded, resized and written; runs in worker processes."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from timm_landmark.data.images import RejectedImage, decode_rgb, encode_jpeg, resize
from timm_landmark.data.prepare.grouping import perceptual_hash
from timm_landmark.data.prepare.sources import Location, Reader, SourceChanged

_reader = Reader()
_number = itertools.count()


@dataclass(frozen=True)
class Stored:
    """A photo whose picture is stored.

    Attributes:
        id: Image id.
        sha256: Hex SHA-256 of the source bytes.
        stored: Hex SHA-256 of the stored JPEG.
        hash: Perceptual hash, 64 bits.
        source: Path inside the folder or archive.
        temporary: File name of the picture until the journal has its line; not part of that line.
    """

    id: str
    sha256: str
    stored: str
    hash: int
    source: str
    temporary: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A photo that cannot be used.

    Attributes:
        id: Image id.
        reason: One line; the part before the colon is the category that summaries count.
        archive: File name of the folder or archive it was read from, or None if its id alone rules it out.
    """

    id: str
    reason: str
    archive: str | None = None


@dataclass(frozen=True)
class Fatal:
    """A failure that is not the photo's: the run cannot continue. ``message`` names the option and the remedy."""

    message: str


Records: TypeAlias = dict[str, Stored | Rejected]


@dataclass(frozen=True)
class StorePhoto:
    """Stores one photo per call, with the options of a run.

    Attributes:
        images: Folder for the picture, which is written under a temporary name.
        size: Pixels.
        mode: ``squash`` or ``short``.
        max_pixels: Limit on width * height, against decompression bombs.
    """

    images: Path
    size: int
    mode: str
    max_pixels: int

    def __call__(self, job: tuple[str, Location]) -> Iterator[bool | Stored | Rejected | Fatal]:
        """Reads, decodes and stores a photo.

        Yields:
            True before decoding, when a delay or a crash can only be the photo's fault; False after it; and last the
            photo's record.
        """
        key, location = job
        try:
            content = _reader.read(location)
        except OSError as error:
            if not os.path.exists(location.root):
                yield Fatal(f"--images {location.root}: no longer exists; restore it")
            elif isinstance(error, SourceChanged):
                yield Fatal(f"--images {location.root}: {error}; restore it, do not change it during the run,")
            else:
                yield Rejected(key, f"unreadable: {error.strerror or error}")
            return
        yield True
        try:
            scaled = resize(decode_rgb(content, self.max_pixels), self.size, self.mode)
            stored = encode_jpeg(scaled)
        except RejectedImage as rejected:
            yield Rejected(key, str(rejected))
            return
        except MemoryError:
            yield Rejected(key, "undecodable: not enough memory")
            return
        yield False
        temporary = f"{os.getpid()}-{next(_number)}.tmp"  # unique: a killed run's last worker may still be writing
        try:
            (self.images / temporary).write_bytes(stored)
        except OSError as error:
            yield Fatal(f"cannot write the data set ({error.strerror}); free space or fix the permissions")
            return
        yield Stored(
            id=key,
            sha256=hashlib.sha256(content).hexdigest(),
            stored=hashlib.sha256(stored).hexdigest(),
            hash=perceptual_hash(scaled),
            source=location.name,
            temporary=temporary,
        )
