"""Atomic writing of files: after a kill at any moment, the file has either its old or its new content."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``.

    Args:
        path: The file to write. Its folder must exist.

    Raises:
        OSError: If the folder is not writable or the disk is full; ``path`` is then unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # Windows can flush only writable files
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_folder(path: Path) -> Path:
    """Creates a hidden folder beside ``path``, which is to be renamed to it, and the folders above if needed.

    Raises:
        OSError: If they cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    folder.chmod(0o755)  # mkdtemp's folders are readable by their owner only
    return folder


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes ``content`` to ``path`` atomically; text is encoded as UTF-8, without translation of line endings."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` to ``path`` as indented JSON, atomically; NaN and infinity raise ValueError."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, which is read in pieces."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
