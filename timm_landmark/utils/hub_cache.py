"""Files that huggingface_hub keeps: found, held against their SHA-256, taken out when damaged."""

from pathlib import Path

from timm_landmark.utils.files import sha256_file
from timm_landmark.utils.hub_errors import split_revision


def cached(repo: str, file: str, cache_dir: str | Path | None = None) -> Path | None:
    """Where ``file`` of ``ORG/NAME`` or ``ORG/NAME@REVISION`` lies in the cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    name, revision = split_revision(repo)
    path = try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision)
    return Path(path) if isinstance(path, str) else None


def is_sound(path: Path) -> bool:
    """False if the file is not what the Hub stated.

    A large file lies in the cache under its SHA-256, which the Hub states before the download; nothing on the way
    compares the two. Other files are named by another sum, and pass.
    """
    stated = path.resolve().name
    return len(stated) != 64 or sha256_file(path) == stated


def drop(path: Path) -> None:
    """Removes a cached file, name and bytes, so that the next try fetches it again."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
