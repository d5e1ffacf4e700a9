"""From a photo's bytes to its stored picture: hashed, decoded, scaled and written by id; runs in worker processes."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from timm_landmark.data.grouping import perceptual_hash
from timm_landmark.data.images import RejectedImage, decode_rgb, encode_jpeg, resize
from timm_landmark.data.sources import Location, Reader, SourceChanged
from timm_landmark.data.workfolder import append

_reader = Reader()


@dataclass(frozen=True)
class StorePhoto:
    """Stores one photo when called; the options of a run.

    Attributes:
        images: Folder that gets ``<id>.jpg``.
        journal: File that gets a line a photo.
        size: Pixels.
        mode: ``squash`` or ``short``.
        max_pixels: Limit against decompression bombs.
    """

    images: Path
    journal: Path
    size: int
    mode: str
    max_pixels: int

    def __call__(self, job: tuple[str, Location]) -> dict[str, Any]:
        """Reads, decodes and stores.

        The journal's line is written before the picture gets its name: a named picture always has its line.

        Returns:
            The journal's record, or ``{"id", "fatal"}`` where the run cannot go on: the source is gone, the disk full.
        """
        key, location = job
        try:
            content = _reader.read(location)
        except OSError as error:
            if not os.path.exists(location.root):
                return {"id": key, "fatal": f"--images {location.root}: it is gone; bring it back"}
            if isinstance(error, SourceChanged):
                return {"id": key, "fatal": f"--images {location.root}: {error}; restore it or leave it as it is now,"}
            return self._reject(key, f"unreadable: {error.strerror or error}")
        try:
            scaled = resize(decode_rgb(content, self.max_pixels), self.size, self.mode)
        except RejectedImage as rejected:
            return self._reject(key, str(rejected))
        except MemoryError:
            return self._reject(key, "undecodable: it needs more memory than there is")
        try:
            return self._keep(key, location, content, scaled)
        except OSError as error:
            return {"id": key, "fatal": f"cannot write the data set ({error.strerror}); make room or give rights"}

    def _keep(self, key: str, location: Location, content: bytes, scaled: Image.Image) -> dict[str, Any]:
        stored = encode_jpeg(scaled)
        record = {
            "id": key,
            "sha256": hashlib.sha256(content).hexdigest(),
            "stored": hashlib.sha256(stored).hexdigest(),
            "hash": perceptual_hash(scaled),
            "source": location.name,
        }
        temporary = self.images / f"{key}.{os.getpid()}.tmp"  # a killed run's last worker may still write its own
        temporary.write_bytes(stored)
        append(self.journal, record)
        os.replace(temporary, self.images / f"{key}.jpg")
        return record

    def _reject(self, key: str, reason: str) -> dict[str, Any]:
        record = {"id": key, "reason": reason}
        try:
            append(self.journal, record)
        except OSError as error:
            return {"id": key, "fatal": f"cannot write the data set ({error.strerror}); make room or give rights"}
        return record
