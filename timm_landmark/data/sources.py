"""Where photos are: a folder, tars, zips, or a mixture; nothing is extracted, only selected photos are read.

A photo is known by its id: ``<id>.jpg``, flat or under ``a/b/c/`` (the first three characters), in whatever folder of
an archive. An archive's index is kept in the user's cache and made anew when the archive's size or time has changed.
"""

import hashlib
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from timm_landmark.errors import UserError
from timm_landmark.files import write_atomic

ARCHIVES = (".tar", ".zip")
_BLOCK = 512


@dataclass(frozen=True)
class Location:
    """A photo's place.

    Attributes:
        root: The folder or archive.
        name: Path inside it, with forward slashes.
        offset: First byte of the content inside a tar; -1 elsewhere.
        size: Bytes in a tar; -1 elsewhere.
    """

    root: str
    name: str
    offset: int = -1
    size: int = -1

    def source(self) -> str:
        """What the manifest says: relative, never a path of this machine."""
        return self.name if Path(self.root).suffix not in ARCHIVES else f"{Path(self.root).name}/{self.name}"


class Reader:
    """Reads photos by location; keeps the last archive open, since locations come in archive order."""

    def __init__(self) -> None:
        self._root = ""
        self._open: BinaryIO | zipfile.ZipFile | None = None

    def read(self, location: Location) -> bytes:
        """The photo's bytes.

        Raises:
            OSError: If it cannot be read.
        """
        if not location.root.endswith(ARCHIVES):
            return (Path(location.root) / location.name).read_bytes()
        if self._root != location.root:
            if self._open is not None:
                self._open.close()
            self._open = zipfile.ZipFile(location.root) if location.root.endswith(".zip") else open(location.root, "rb")  # noqa: SIM115
            self._root = location.root
        if isinstance(self._open, zipfile.ZipFile):
            try:
                return self._open.read(location.name)
            except (zipfile.BadZipFile, KeyError, ValueError) as error:
                raise OSError(f"damaged in the archive ({error})") from None
        self._open.seek(location.offset)
        content = self._open.read(location.size)
        if len(content) < location.size:
            raise OSError("the archive ends inside it")
        return content


def find_sources(paths: Iterable[Path]) -> list[Path]:
    """The folders and archives to look into: a folder's archives come before its loose photos.

    Raises:
        UserError: If a path does not exist or is neither folder, tar nor zip.
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


def locate(source: Path, wanted: Collection[str], paths: Mapping[str, str] | None = None) -> dict[str, Location]:
    """Finds photos in one source.

    Args:
        source: A folder or an archive.
        wanted: Image ids.
        paths: Own photos: image id -> path inside the source; without it photos are found by id.

    Returns:
        Image id -> location, of those that are there.
    """
    if source.suffix in ARCHIVES:
        index = archive_index(source)
        if paths is not None:
            by_name = {name: (name, offset, size) for name, offset, size in index.values()}
            index = {key: by_name[paths[key]] for key in wanted if paths[key] in by_name}
        return {key: Location(str(source), *index[key]) for key in wanted if key in index}
    if paths is not None:
        return {key: Location(str(source), paths[key]) for key in wanted if (source / paths[key]).is_file()}
    return dict(_find_in_folder(source, wanted))


def _find_in_folder(folder: Path, wanted: Collection[str]) -> Iterator[tuple[str, Location]]:
    flat = {entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(".jpg")}
    nested = [prefix for prefix in ("", "train/") if any((folder / prefix).glob("?/?/?"))]
    for key in wanted:
        if f"{key}.jpg" in flat:
            yield key, Location(str(folder), f"{key}.jpg")
            continue
        for prefix in nested if len(key) >= 3 else ():
            name = f"{prefix}{key[0]}/{key[1]}/{key[2]}/{key}.jpg"
            if (folder / name).is_file():
                yield key, Location(str(folder), name)
                break


def archive_index(archive: Path) -> dict[str, tuple[str, int, int]]:
    """Image id (a member's name without folders and ending) -> (member name, offset, size); kept in the cache.

    Raises:
        UserError: If the archive cannot be read.
    """
    state = archive.stat()
    stamp = f"{state.st_size}:{state.st_mtime_ns}"
    cache = _cache_folder() / f"{hashlib.sha256(str(archive.resolve()).encode()).hexdigest()[:32]}.json"
    try:
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["stamp"] == stamp:
            return {key: tuple(entry) for key, entry in kept["index"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or damaged: it is made anew
    try:
        members = _walk_zip(archive) if archive.suffix == ".zip" else walk_tar(archive)
        index = {Path(name).stem: (name, offset, size) for name, offset, size in members}
    except (OSError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"--images {archive}: not a readable archive ({error}); fetch it again") from None
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(cache, json.dumps({"stamp": stamp, "index": index}))
    return index


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "timm-landmark" / "archives"


def _walk_zip(archive: Path) -> Iterator[tuple[str, int, int]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if not member.is_dir() and not Path(member.filename).name.startswith("."):
                yield member.filename, -1, -1


def walk_tar(archive: Path) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset, size) of a tar's files by its raw headers, many times faster than ``tarfile``.

    A header with an extension that changes names or sizes (GNU long names, pax, sparse files) hands the whole archive
    to ``tarfile``.

    Raises:
        ValueError: If a header is damaged or the archive ends inside a member.
    """
    end = archive.stat().st_size
    with open(archive, "rb", buffering=1 << 16) as file:
        position, found = 0, []
        while True:
            file.seek(position)
            header = file.read(_BLOCK)
            if len(header) < _BLOCK or not header[0]:
                if position < end and len(header) < _BLOCK:
                    raise ValueError("it ends inside a header")
                break
            kind = header[156:157]
            if kind not in b"0\x005" or header[124] & 0x80:
                yield from _walk_slowly(archive)
                return
            size = int(header[124:136].strip(b" \0") or b"0", 8)
            if position + _BLOCK + size > end:
                raise ValueError("it ends inside a photo")
            if kind != b"5":
                name = header[:100].partition(b"\0")[0]
                prefix = header[345:500].partition(b"\0")[0] if header[257:262] == b"ustar" else b""
                full = (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")
                found.append((full, position + _BLOCK, size))
            position += _BLOCK + (size + _BLOCK - 1) // _BLOCK * _BLOCK
    yield from found


def _walk_slowly(archive: Path) -> Iterator[tuple[str, int, int]]:
    with tarfile.open(archive, "r:") as file:
        for member in file:
            if member.isreg():
                yield member.name, member.offset_data, member.size


def verify_md5(archive: Path) -> bool:
    """Compares a shard ``images_NNN.tar`` with ``md5.images_NNN.txt`` beside it, once for each state of the archive.

    Returns:
        Whether there was such a file to compare with.

    Raises:
        UserError: If the md5 differs.
    """
    listed = archive.with_name(f"md5.{archive.stem}.txt")
    if not listed.is_file():
        return False
    match = re.match(r"\s*([0-9a-fA-F]{32})\b", listed.read_text(encoding="utf-8", errors="replace"))
    if not match:
        raise UserError(f"{listed}: holds no md5; fetch it again or remove it")
    state = archive.stat()
    stamp = f"{state.st_size}:{state.st_mtime_ns}:{match[1].lower()}"
    mark = _cache_folder() / f"{hashlib.sha256(str(archive.resolve()).encode()).hexdigest()[:32]}.md5"
    if mark.exists() and mark.read_text(encoding="utf-8") == stamp:
        return True
    with open(archive, "rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while piece := file.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != match[1].lower():
        raise UserError(
            f"--images {archive}: its md5 is {digest.hexdigest()}, {listed.name} says {match[1]}; fetch it again"
        )
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(mark, stamp)
    return True
