"""Locates files in a tar or zip without extracting it: fast walks over the raw headers, and a cached index.

Names are decoded as UTF-8; bytes that are not UTF-8 become surrogate escapes, as Python does for file names.

Archives may have millions of photos. The index is therefore a text file in the user's cache, written and read line by
line, so that memory use does not grow with it. It is rebuilt when the archive's size or modification time changes.
"""

import hashlib
import os
import struct
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import atomic_path

ARCHIVES = (".tar", ".zip")
Member = tuple[str, tuple[int, ...]]
_BLOCK = 512
_BUFFER = 1 << 16
_END = bytes(_BLOCK)  # the block that closes a tar
_EXTENSIONS = {*tarfile.GNU_TYPES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
_WITHOUT_CONTENT = set(tarfile.SUPPORTED_TYPES) - {*tarfile.REGULAR_TYPES, *_EXTENSIONS}  # links, folders, devices


def archive_index(archive: Path) -> Iterator[Member]:
    """Reads the index of an archive, or builds it.

    Yields:
        The archive's files in order: (name, (offset, size)) for a tar, (name, (header offset, size, unpacked size,
        CRC-32)) for a zip.

    Raises:
        UserError: If the archive cannot be read.
    """
    index, stamp = cache_file(archive, ".index"), archive_stamp(archive) + "\n"
    try:
        if not _is_current(index, stamp):
            _write_index(archive, index, stamp)
        file = open(index, encoding="utf-8", errors="surrogateescape", newline="\n")  # noqa: SIM115
    except OSError:  # the cache is not writable: walk the archive each time
        yield from _walk(archive)
        return
    with file:
        next(file)
        for line in file:
            numbers, _, name = line[:-1].partition("\t")
            yield name, tuple(map(int, numbers.split()))


def archive_stamp(archive: Path) -> str:
    """Size and modification time of an archive, to detect changes."""
    state = archive.stat()
    return f"{state.st_size}:{state.st_mtime_ns}"


def cache_file(archive: Path, suffix: str) -> Path:
    """Path in the user's cache for data about an archive."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "timm-landmark" / "archives"
    return folder / f"{hashlib.sha256(os.fsencode(archive.resolve())).hexdigest()[:32]}{suffix}"


def _is_current(index: Path, stamp: str) -> bool:
    with suppress(OSError, UnicodeDecodeError), open(index, encoding="utf-8", errors="surrogateescape") as file:
        return next(file, "") == stamp
    return False


def _write_index(archive: Path, index: Path, stamp: str) -> None:
    index.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(index) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        file.write(stamp)
        file.writelines(f"{' '.join(map(str, numbers))}\t{name}\n" for name, numbers in _walk(archive))


def _walk(archive: Path) -> Iterator[Member]:
    """The archive's files, except names with a line break, which no photo of a release has."""
    members = walk_zip(archive) if archive.suffix == ".zip" else walk_tar(archive)
    try:
        for name, *numbers in members:
            if "\n" not in name and "\r" not in name:
                yield name.removeprefix("./"), tuple(numbers)
    except (OSError, tarfile.TarError, struct.error, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise UserError(f"--images {archive}: not a readable archive ({error}); download it again") from None


def walk_tar(archive: Path) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset, size) of a tar's files from its raw headers, many times faster than ``tarfile``.

    ``tarfile`` reads only members with a header extension that changes their name or size (GNU long names, pax).
    Checksums of headers are verified, and no member may point backwards or beyond the end: a damaged or hostile
    archive ends the walk.

    Raises:
        ValueError: If a header is damaged or the archive ends inside a member.
        tarfile.TarError: If an extension is damaged.
    """
    end = archive.stat().st_size
    with open(archive, "rb", buffering=_BUFFER) as file:
        position = 0
        while True:
            file.seek(position)
            header = file.read(_BLOCK)
            if header == _END or (not header and position):
                return
            if len(header) < _BLOCK:
                raise ValueError("it ends in the middle of a header")
            _check_sum(header)
            flag, start, size = header[156:157], position + _BLOCK, _number(header[124:136])  # flag: type of member
            if flag in _EXTENSIONS:
                _check_fits(size, end - start)
                name, start, size, flag = _read_extended(file, position)
            else:
                name = _tar_name(header)
            if flag == tarfile.AREGTYPE and name.endswith("/"):
                flag = tarfile.DIRTYPE  # how the oldest tars mark a folder
            size = 0 if flag in _WITHOUT_CONTENT else size
            _check_fits(size, end - start)
            if flag in tarfile.REGULAR_TYPES:
                yield name, start, size
            position = start + (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _number(field: bytes) -> int:
    """A header's number as ``tarfile`` reads it: octal digits, or base 256 if the first byte indicates it."""
    if field[0] in (0o200, 0o377):
        return int.from_bytes(field[1:], "big") - (field[0] == 0o377) * 256 ** (len(field) - 1)
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _check_fits(size: int, room: int) -> None:
    if not 0 <= size <= room:
        raise ValueError(f"a member claims {size} bytes, but only {room} are left")


def _check_sum(header: bytes) -> None:
    """Verifies the sum of all bytes, with its own field as spaces; some old tars summed signed bytes."""
    stated, total = _number(header[148:156]), sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if stated != total:
        rest = header[:148] + header[156:]
        if stated != total - 256 * sum(byte > 127 for byte in rest):
            raise ValueError("a header has a wrong checksum")


def _tar_name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:262] == b"ustar" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _read_extended(file: BinaryIO, position: int) -> tuple[str, int, int, bytes]:
    """Name, offset, size and type flag of the member whose extensions begin at ``position``."""
    file.seek(position)
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as members:
        member = members.next()
    if member is None or member.offset_data <= position:
        raise ValueError("a header is damaged")
    if member.issparse():
        raise ValueError("sparse files are not supported; pack it without --sparse")
    return member.name, member.offset_data, member.size, member.type


def walk_zip(archive: Path) -> Iterator[tuple[str, int, int, int, int]]:
    """Yields (name, offset of the local header, size, unpacked size, CRC-32) of a zip's files, in archive order.

    ``zipfile`` would keep every entry in memory: about 1 GB for Kaggle's zip, in each worker.

    Raises:
        ValueError: If the file is not a zip or its directory is damaged.
        struct.error: If the directory ends early.
    """
    with open(archive, "rb", buffering=_BUFFER) as file:
        end = archive.stat().st_size
        entries, position = _zip_directory(file, end)
        file.seek(position)
        for _ in range(entries):
            head = struct.unpack("<4s4xH6xIIIHHH8xI", file.read(46))
            signature, flags, crc, size, length, name_size, extra_size, comment_size, offset = head
            if signature != b"PK\x01\x02":
                raise ValueError("its directory is damaged")
            name = _zip_name(file.read(name_size), bool(flags & 0x800))
            extra = file.read(extra_size)
            file.seek(comment_size, os.SEEK_CUR)
            if 0xFFFFFFFF in (size, length, offset):
                length, size, offset = _zip64_sizes(extra, length, size, offset)
            if offset + size > end:
                raise ValueError("its directory is damaged")
            if not name.endswith("/"):
                yield name, offset, size, length, crc


def _zip_name(raw: bytes, flagged: bool) -> str:
    """Decodes valid UTF-8 even without the UTF-8 flag (macOS does not set it), other names according to the flag."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape") if flagged else raw.decode("cp437")


def _zip_directory(file: BinaryIO, end: int) -> tuple[int, int]:
    """Number of entries and position of the central directory."""
    start = max(0, end - 22 - 0xFFFF)
    file.seek(start)
    tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    if found < 0:
        raise ValueError("no zip directory: truncated, or not a zip")
    entries, position = struct.unpack_from("<H4xI", tail, found + 10)
    locator = found - 20
    if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
        file.seek(struct.unpack_from("<Q", tail, locator + 8)[0])
        signature, entries, position = struct.unpack("<4s28xQ8xQ", file.read(56))
        if signature != b"PK\x06\x06":
            raise ValueError("its directory is damaged")
    return entries, position


def _zip64_sizes(extra: bytes, length: int, size: int, offset: int) -> tuple[int, int, int]:
    """Replaces fields that do not fit 32 bits by those of the zip64 extra field, which keeps this order."""
    fields = [length, size, offset]
    wide = [index for index, value in enumerate(fields) if value == 0xFFFFFFFF]
    at = 0
    while at + 4 <= len(extra):
        tag, held = struct.unpack_from("<HH", extra, at)
        if tag == 1 and held >= 8 * len(wide):
            for index, value in zip(wide, struct.unpack_from(f"<{len(wide)}Q", extra, at + 4), strict=True):
                fields[index] = value
            length, size, offset = fields
            return length, size, offset
        at += 4 + held
    raise ValueError("a zip64 field is missing in its directory")
