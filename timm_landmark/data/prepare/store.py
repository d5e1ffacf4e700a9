"""From a photo's bytes to its stored picture: hashed, decoded, scaled and written; runs in worker processes."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm_landmark.data.images import RejectedImage, decode_rgb, encode_jpeg, resize
from timm_landmark.data.prepare.grouping import perceptual_hash
from timm_landmark.data.prepare.sources import Location, Reader, SourceChanged

_reader = Reader()
_number = itertools.count()


@dataclass(frozen=True)
class StorePhoto:
    """Stores one photo when called; the options of a run.

    Attributes:
        images: Folder that gets the picture, under a temporary name.
        size: Pixels.
        mode: ``squash`` or ``short``.
        max_pixels: Limit against decompression bombs.
    """

    images: Path
    size: int
    mode: str
    max_pixels: int

    def __call__(self, job: tuple[str, Location]) -> Iterator[bool | dict[str, Any]]:
        """Reads, decodes and stores.

        Yields:
            True when the photo alone is to blame for how long it takes or for a crash (while it is decoded), False
            when it is not any more, and last its record for the journal, with the picture's ``temporary`` name; or
            ``{"id", "fatal"}`` where the run cannot go on: the source is gone, the disk full.
        """
        key, location = job
        try:
            content = _reader.read(location)
        except OSError as error:
            if not os.path.exists(location.root):
                yield {"id": key, "fatal": f"--images {location.root}: it is gone; bring it back"}
            elif isinstance(error, SourceChanged):
                yield {"id": key, "fatal": f"--images {location.root}: {error}; restore it or leave it as it is now,"}
            else:
                yield {"id": key, "reason": f"unreadable: {error.strerror or error}"}
            return
        yield True
        try:
            scaled = resize(decode_rgb(content, self.max_pixels), self.size, self.mode)
            stored = encode_jpeg(scaled)
        except RejectedImage as rejected:
            yield {"id": key, "reason": str(rejected)}
            return
        except MemoryError:
            yield {"id": key, "reason": "undecodable: it needs more memory than there is"}
            return
        yield False
        temporary = f"{os.getpid()}-{next(_number)}.tmp"  # a killed run's last worker may still write its own
        try:
            (self.images / temporary).write_bytes(stored)
        except OSError as error:
            yield {"id": key, "fatal": f"cannot write the data set ({error.strerror}); make room or give rights"}
            return
        yield {
            "id": key,
            "sha256": hashlib.sha256(content).hexdigest(),
            "stored": hashlib.sha256(stored).hexdigest(),
            "hash": perceptual_hash(scaled),
            "source": location.name,
            "temporary": temporary,
        }
