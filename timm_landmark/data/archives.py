"""What stands where in a tar or zip, without extracting it: raw walks over the headers, and the index that is kept.

Archives may hold millions of photos: an index is a text file in the user's cache, made and read line by line, so that
memory does not grow with it. It is made anew when the archive's size or time has changed.
"""

import hashlib
import os
import struct
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from timm_landmark.errors import UserError
from timm_landmark.files import atomic_path

ARCHIVES = (".tar", ".zip")
Member = tuple[str, tuple[int, ...]]
_BLOCK = 512
_BUFFER = 1 << 16


def archive_index(archive: Path) -> Iterator[Member]:
    """Reads, or makes, the index of an archive.

    Yields:
        Its files in order: (name, (offset, size)) of a tar, (name, (header offset, size, unpacked size, CRC-32)) of a
        zip.

    Raises:
        UserError: If the archive cannot be read.
    """
    index, stamp = cache_file(archive, ".index"), archive_stamp(archive) + "\n"
    try:
        if not _is_current(index, stamp):
            _keep(archive, index, stamp)
        file = open(index, encoding="utf-8", errors="surrogateescape", newline="\n")  # noqa: SIM115
    except OSError:  # the cache cannot be written: the archive is walked each time
        yield from _walk(archive)
        return
    with file:
        next(file)
        for line in file:
            numbers, _, name = line[:-1].partition("\t")
            yield name, tuple(map(int, numbers.split()))


def archive_stamp(archive: Path) -> str:
    """Size and time of an archive, by which a change of it is noticed."""
    state = archive.stat()
    return f"{state.st_size}:{state.st_mtime_ns}"


def cache_file(archive: Path, suffix: str) -> Path:
    """Where something about an archive is kept, in the user's cache."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "timm-landmark" / "archives"
    return folder / f"{hashlib.sha256(str(archive.resolve()).encode()).hexdigest()[:32]}{suffix}"


def _is_current(index: Path, stamp: str) -> bool:
    with suppress(OSError, UnicodeDecodeError), open(index, encoding="utf-8", errors="surrogateescape") as file:
        return next(file, "") == stamp
    return False


def _keep(archive: Path, index: Path, stamp: str) -> None:
    index.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(index) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        file.write(stamp)
        file.writelines(f"{' '.join(map(str, numbers))}\t{name}\n" for name, numbers in _walk(archive))


def _walk(archive: Path) -> Iterator[Member]:
    """The archive's files; names with a line break, which no photo of a release has, are left out."""
    members = walk_zip(archive) if archive.suffix == ".zip" else walk_tar(archive)
    try:
        for name, *numbers in members:
            if "\n" not in name and "\r" not in name:
                yield name.removeprefix("./"), tuple(numbers)
    except (OSError, tarfile.TarError, struct.error, ValueError) as error:
        raise UserError(f"--images {archive}: not a readable archive ({error}); fetch it again") from None


def walk_tar(archive: Path) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset, size) of a tar's files by its raw headers, many times faster than ``tarfile``.

    A header with an extension that changes names or sizes (GNU long names, pax, sparse files) hands the archive to
    ``tarfile`` from there on.

    Raises:
        ValueError: If a header is damaged or the archive ends inside a member.
    """
    end = archive.stat().st_size
    with open(archive, "rb", buffering=_BUFFER) as file:
        position = 0
        while True:
            file.seek(position)
            header = file.read(_BLOCK)
            if len(header) < _BLOCK or not header[0]:
                if position < end and len(header) < _BLOCK:
                    raise ValueError("it ends inside a header")
                return
            kind = header[156:157]
            if kind not in b"0\x005" or header[124] & 0x80:
                yield from _walk_slowly(archive, position)
                return
            size = int(header[124:136].strip(b" \0") or b"0", 8)
            if position + _BLOCK + size > end:
                raise ValueError("it ends inside a photo")
            if kind != b"5":
                name = header[:100].partition(b"\0")[0]
                prefix = header[345:500].partition(b"\0")[0] if header[257:262] == b"ustar" else b""
                full = (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")
                yield full, position + _BLOCK, size
            position += _BLOCK + (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _walk_slowly(archive: Path, position: int) -> Iterator[tuple[str, int, int]]:
    with open(archive, "rb") as file:
        file.seek(position)
        with tarfile.open(fileobj=file, mode="r:") as members:
            while member := members.next():
                if member.isreg():
                    yield member.name, member.offset_data, member.size
                members.members = []  # else it keeps every member that it has seen


def walk_zip(archive: Path) -> Iterator[tuple[str, int, int, int, int]]:
    """Yields (name, offset of the local header, size, unpacked size, CRC-32) of a zip's files, in archive order.

    ``zipfile`` would hold every entry in memory: about 1 GB for Kaggle's, in each worker.

    Raises:
        ValueError: If it is not a zip or its directory is damaged.
        struct.error: If the directory ends early.
    """
    with open(archive, "rb", buffering=_BUFFER) as file:
        entries, position = _zip_directory(file, archive.stat().st_size)
        file.seek(position)
        for _ in range(entries):
            head = struct.unpack("<4s4xH6xIIIHHH8xI", file.read(46))
            signature, flags, crc, size, length, name_size, extra_size, comment_size, offset = head
            if signature != b"PK\x01\x02":
                raise ValueError("its directory is damaged")
            name = file.read(name_size).decode("utf-8" if flags & 0x800 else "cp437", "replace")
            extra = file.read(extra_size)
            file.seek(comment_size, os.SEEK_CUR)
            if 0xFFFFFFFF in (size, length, offset):
                length, size, offset = _zip64_sizes(extra, length, size, offset)
            if not name.endswith("/"):
                yield name, offset, size, length, crc


def _zip_directory(file: BinaryIO, end: int) -> tuple[int, int]:
    """Number of entries and position of the central directory."""
    start = max(0, end - 22 - 0xFFFF)
    file.seek(start)
    tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    if found < 0:
        raise ValueError("it has no zip directory: cut short, or not a zip")
    entries, position = struct.unpack_from("<H4xI", tail, found + 10)
    locator = found - 20
    if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
        file.seek(struct.unpack_from("<Q", tail, locator + 8)[0])
        signature, entries, position = struct.unpack("<4s28xQ8xQ", file.read(56))
        if signature != b"PK\x06\x06":
            raise ValueError("its directory is damaged")
    return entries, position


def _zip64_sizes(extra: bytes, length: int, size: int, offset: int) -> tuple[int, int, int]:
    """Fields that do not fit 32 bits stand in an extra field, in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, held = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{held // 8}Q", extra, at + 4))
            return tuple(next(values) if value == 0xFFFFFFFF else value for value in (length, size, offset))
        at += 4 + held
    raise ValueError("its directory lacks a zip64 field")
