"""Finds and reads photos in folders, tars and zips; nothing is extracted, and only selected photos are read.

A photo's file is ``<id>.jpg``: in a folder either directly or under ``a/b/c/`` (the id's first three characters), in an
archive under any folder.
"""

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from timm_landmark.data.prepare.archives import ARCHIVES, archive_index, archive_stamp, cache_file
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_atomic

MAX_BYTES = 1 << 29  # largest file of a photo, which is read into memory


class SourceChanged(OSError):
    """A photo is no longer where it was found: its source was removed or rewritten during the run."""


@dataclass(frozen=True)
class Location:
    """Where a photo is.

    Attributes:
        root: The folder or archive.
        name: Path inside it, with forward slashes.
        offset: Position of the content in a tar, of the local header in a zip; -1 in a folder.
        size: Bytes in the archive; -1 in a folder.
        length: Unpacked bytes in a zip; -1 elsewhere.
        crc: CRC-32 of the unpacked bytes in a zip; -1 elsewhere.
    """

    root: str
    name: str
    offset: int = -1
    size: int = -1
    length: int = -1
    crc: int = -1


class Reader:
    """Reads photos by location; it keeps the last archive open, because locations come in archive order."""

    def __init__(self) -> None:
        self._root = ""
        self._file: BinaryIO | None = None

    def read(self, location: Location) -> bytes:
        """The photo's bytes.

        Raises:
            SourceChanged: If the photo is no longer where it was found.
            OSError: If it cannot be read.
        """
        if max(location.size, location.length) > MAX_BYTES:
            raise OSError(f"larger than {MAX_BYTES >> 20} MiB")
        if location.offset < 0:
            return _read_file(Path(location.root) / location.name)
        file = self._open(location.root)
        file.seek(location.offset)
        if location.length >= 0:
            return _read_zipped(file, location)
        content = file.read(location.size)
        if len(content) < location.size:
            raise SourceChanged("the archive was truncated during the run")
        return content

    def _open(self, root: str) -> BinaryIO:
        if self._file is None or self._root != root:
            if self._file is not None:
                self._file.close()
            self._file = open(root, "rb")  # noqa: SIM115
            self._root = root
        return self._file


def _read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise OSError(f"larger than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise OSError("a broken link") from None
        raise SourceChanged(f"{path.name} was removed during the run") from None


def _read_zipped(file: BinaryIO, location: Location) -> bytes:
    header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise SourceChanged("the archive was changed during the run")
    flags, method, name_size, extra_size = struct.unpack("<6xHH16xHH", header)
    file.seek(name_size + extra_size, os.SEEK_CUR)
    content = file.read(location.size)
    if flags & 1 or method not in (0, 8):
        raise OSError("encrypted in the archive" if flags & 1 else f"compressed with unsupported method {method}")
    if method == 8:
        try:
            content = zlib.decompressobj(-15).decompress(content, location.length + 1)
        except zlib.error as error:
            raise OSError(f"damaged in the archive ({error})") from None
    if len(content) != location.length or zlib.crc32(content) != location.crc:
        raise OSError("damaged in the archive (its CRC differs)")
    return content


def find_sources(paths: Iterable[Path]) -> list[Path]:
    """The folders and archives to search: a folder's archives come before its loose photos.

    Raises:
        UserError: If a path does not exist, or is neither a folder nor a tar or zip.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(entry for entry in path.iterdir() if entry.suffix in ARCHIVES and entry.is_file())
            found.append(path)
        elif path.suffix in ARCHIVES and path.is_file():
            found.append(path)
        else:
            what = "is neither a folder nor a .tar or .zip" if path.exists() else "no such folder or archive"
            raise UserError(f"--images {path}: {what}")
    return found


def locate(source: Path, wanted: Set[str], paths: Mapping[str, str] | None = None) -> dict[str, Location]:
    """Finds photos in one source.

    Args:
        source: A folder or an archive.
        wanted: Image ids.
        paths: Image id -> path inside the source, for your own photos; by default photos are found by id.

    Returns:
        Image id -> location, for the photos found.
    """
    if source.is_file():
        return _find_in_archive(source, wanted, paths)
    if paths is not None:
        return {key: Location(str(source), paths[key]) for key in wanted if (source / paths[key]).is_file()}
    return dict(_find_in_folder(source, wanted))


def _find_in_archive(archive: Path, wanted: Set[str], paths: Mapping[str, str] | None) -> dict[str, Location]:
    keys = {paths[key]: key for key in wanted} if paths is not None else None
    found: dict[str, Location] = {}
    for name, numbers in archive_index(archive):
        key = keys.get(name, "") if keys is not None else name.rpartition("/")[2].removesuffix(".jpg")
        if key in wanted and key not in found and (keys is not None or name.endswith(".jpg")):
            found[key] = Location(str(archive), name, *numbers)
    return found


def _find_in_folder(folder: Path, wanted: Set[str]) -> Iterator[tuple[str, Location]]:
    flat = {stem for entry in os.scandir(folder) if (stem := entry.name.removesuffix(".jpg")) in wanted}
    nested = [prefix for prefix in ("", "train/") if any((folder / prefix).glob("?/?/?"))]
    for key in wanted:
        if key in flat and (folder / f"{key}.jpg").is_file():
            yield key, Location(str(folder), f"{key}.jpg")
            continue
        for prefix in nested if len(key) >= 3 and "/" not in key else ():  # a "/" could escape the folder
            name = f"{prefix}{key[0]}/{key[1]}/{key[2]}/{key}.jpg"
            if (folder / name).is_file():
                yield key, Location(str(folder), name)
                break


def verify_md5(archive: Path) -> bool:
    """Compares a shard ``images_NNN.tar`` with ``md5.images_NNN.txt`` next to it, once until the archive changes.

    Returns:
        Whether such a file exists.

    Raises:
        UserError: If the md5 differs.
    """
    listed = archive.with_name(f"md5.{archive.stem}.txt")
    if not listed.is_file():
        return False
    match = re.match(r"\s*([0-9a-fA-F]{32})\b", listed.read_text(encoding="utf-8", errors="replace"))
    if not match:
        raise UserError(f"{listed}: does not contain an md5; download it again or remove it")
    stamp, mark = f"{archive_stamp(archive)}:{match[1].lower()}", cache_file(archive, ".md5")
    with suppress(OSError):
        if mark.read_text(encoding="utf-8") == stamp:
            return True
    with open(archive, "rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while piece := file.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != match[1].lower():
        raise UserError(
            f"--images {archive}: its md5 is {digest.hexdigest()}, {listed.name} has {match[1]}; download it again"
        )
    with suppress(OSError):  # without a writable cache the run is only slower
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(mark, stamp)
    return True
