"""Files in the cache of huggingface_hub: finding, checking and removing them."""

from pathlib import Path

from timm_landmark.utils.files import sha256_file
from timm_landmark.utils.hub_errors import split_revision


def cached(repo: str, file: str, cache_dir: str | Path | None = None) -> Path | None:
    """Path of ``file`` of ``ORG/NAME`` or ``ORG/NAME@REVISION`` in the cache; None if it is not cached."""
    from huggingface_hub import try_to_load_from_cache

    name, revision = split_revision(repo)
    path = try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision)
    return Path(path) if isinstance(path, str) else None


def is_sound(path: Path) -> bool:
    """Checks a cached file against the SHA-256 stated by the Hub; True for files without one.

    In the cache, a large file is named by the SHA-256 that the Hub states before the download, but huggingface_hub does
    not compare the two. Small files are named by another hash and are not checked.
    """
    stated = path.resolve().name
    return len(stated) != 64 or sha256_file(path) == stated


def drop(path: Path) -> None:
    """Removes a cached file (link and content), so that it is downloaded again."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
