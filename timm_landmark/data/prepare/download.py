"""Downloads Google Landmarks v2 from its official address: the csv files, and the images one shard at a time.

A file is downloaded into ``NAME.part`` with HTTP range requests and renamed once its md5 matches, so that an
interruption costs at most one piece and wrong bytes are never used. The csv files have no md5: ``NAME.from`` records
the address of a partial file and the server's ETag or date, and only the same version of the same file completes it.
The 500 shards of 1 GB are never on disk together: each is deleted once its selected photos are stored.
"""

import hashlib
import http.client
import os
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_atomic
from timm_landmark.utils.text import say

BASE_URL = "https://s3.amazonaws.com/google-landmark"
SHARDS = 500
METADATA = ("train.csv", "train_label_to_category.csv", "train_attribution.csv")
_PIECE = 1 << 18


@dataclass(frozen=True)
class Retry:
    """Retry policy of a download.

    Attributes:
        attempts: Consecutive attempts without a new byte before it gives up.
        first_wait: Seconds before the second attempt; doubled each time.
        longest_wait: Upper limit of a wait in seconds, also for a server's Retry-After.
        timeout: Seconds without an answer or a byte after which an attempt fails.
    """

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 300.0
    timeout: float = 60.0


class _Attempt(Exception):
    """A failed attempt that is worth repeating; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch(url: str, target: Path, md5: str | None = None, retry: Retry | None = None) -> Path:
    """Downloads ``url`` to ``target``, resuming an earlier call that was interrupted.

    Args:
        url: An http or https address.
        target: Path of the complete file; its folder must exist. An existing file is kept unchanged.
        md5: Expected hex MD5; without it only the length that the server states is checked.
        retry: Retry policy.

    Returns:
        ``target``.

    Raises:
        UserError: If the server does not have the file, or every attempt failed; the partial file is kept for the next
            call.
        OSError: If the disk is full or not writable.
    """
    retry = retry or Retry()
    if target.exists():
        return target
    part, origin = target.with_name(target.name + ".part"), target.with_name(target.name + ".from")
    begun_at, validator = _read_origin(origin)
    if md5 is None and not (begun_at == url and validator):
        part.unlink(missing_ok=True)
    failures, longest = 0, _size(part)
    while True:
        try:
            _attempt(url, part, origin, retry.timeout)
            _verify(part, md5)
            os.replace(part, target)
            origin.unlink(missing_ok=True)
            return target
        except _Attempt as error:
            failures = 1 if _size(part) > longest else failures + 1
            longest = max(longest, _size(part))
            if failures >= retry.attempts:
                raise UserError(
                    f"cannot download {url}: {error}; {failures} attempts in a row failed. Repeat the command to "
                    "continue, or pass another address with --base-url"
                ) from None
            wait = min(max(error.wait, retry.first_wait * 2 ** (failures - 1)), retry.longest_wait)
            say(f"{url}: {error}; trying again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)


def fetch_metadata(
    folder: Path, base_url: str = BASE_URL, retry: Retry | None = None, names: Sequence[str] = METADATA
) -> dict[str, Path]:
    """Downloads the official csv files of the train set into ``folder``: about 1.6 GB, most of it attribution.

    Returns:
        File name -> path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {name: fetch(f"{base_url}/metadata/{name}", folder / name, retry=retry) for name in names}


def fetch_md5(index: int, folder: Path, base_url: str = BASE_URL, retry: Retry | None = None) -> str:
    """The official MD5 of train shard ``index``.

    Raises:
        UserError: If the downloaded file does not contain an md5.
    """
    name = f"md5.images_{index:03d}.txt"
    path = fetch(f"{base_url}/md5sum/train/{name}", folder / name, retry=retry)
    word = path.read_text(encoding="utf-8", errors="replace").split()[:1]
    if not word or len(word[0]) != 32 or not set(word[0].lower()) <= set("0123456789abcdef"):
        path.unlink()
        raise UserError(f"{base_url}/md5sum/train/{name} does not contain an md5; check --base-url")
    return word[0].lower()


def fetch_shards(
    folder: Path,
    record: Path,
    base_url: str = BASE_URL,
    keep: bool = False,
    shards: int = SHARDS,
    retry: Retry | None = None,
) -> Iterator[Path]:
    """Yields the train shards in order, each verified against its md5, and deletes it when the next is requested.

    Requesting the next shard means that the selected photos of the last one are stored: its name is then added to
    ``record``, and no later run downloads it again. A shard whose use was interrupted is yielded again.

    Args:
        folder: Folder for shards while they are needed; created if missing.
        record: File with a line for each finished shard; it must be deleted whenever the stored photos are.
        base_url: Address that serves ``train/images_NNN.tar`` and ``md5sum/train/md5.images_NNN.txt``.
        keep: Keep the shards (``--keep-shards``); later runs yield kept ones again, without a download.
        shards: Number of shards.
        retry: Retry policy.

    Raises:
        UserError: If a shard is not available, or the disk has too little free space for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = set(record.read_text(encoding="utf-8").split()) if record.exists() else set()
    for index in range(shards):
        name = f"images_{index:03d}.tar"
        if name in done and not (folder / name).exists():
            continue
        digest = fetch_md5(index, folder, base_url, retry)
        if (folder / name).exists():
            _verify_kept(folder / name, digest)
        yield fetch(f"{base_url}/train/{name}", folder / name, digest, retry)
        done.add(name)
        write_atomic(record, "".join(f"{entry}\n" for entry in sorted(done)))
        if not keep:
            (folder / name).unlink()
            (folder / f"md5.{name[:-4]}.txt").unlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _verify_kept(path: Path, md5: str) -> None:
    """Deletes a shard from an earlier run if its md5 no longer matches, so that it is downloaded again."""
    if _md5(path) != md5:
        say(f"{path.name} no longer matches its md5; downloading it again", file=sys.stderr)
        path.unlink()


def _read_origin(origin: Path) -> tuple[str, str]:
    """Address that a partial file came from, and its ETag or date (empty if the server sent neither)."""
    if not origin.exists():
        return "", ""
    url, _, validator = origin.read_text(encoding="utf-8").partition("\n")
    return url, validator


def _validator(answer: http.client.HTTPResponse) -> str:
    """The value for If-Range: a strong ETag, else the Last-Modified date, else empty."""
    tag = answer.headers.get("ETag") or ""
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified") or ""


def _attempt(url: str, part: Path, origin: Path, timeout: float) -> None:
    """Sends one request for the missing bytes; on return ``part`` has the length that the server states."""
    have = _size(part)
    headers, validator = {"User-Agent": "timm-landmark"}, ""
    if have:
        _, validator = _read_origin(origin)
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            start, total = _span(answer, have)
            if start == 0:
                part.unlink(missing_ok=True)  # first: old bytes must never be next to a new origin
                write_atomic(origin, f"{url}\n{_validator(answer)}")
            elif validator and _validator(answer) not in ("", validator):
                part.unlink()
                raise _Attempt("the file has changed on the server; starting over")
            _receive(answer, part, start, total, Path(url).name)
    except urllib.error.HTTPError as error:
        _http_error(url, part, have, error)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _Attempt(f"connection failed ({getattr(error, 'reason', None) or error!r})") from None
    except ValueError as error:
        raise UserError(f"{url!r} is not an address ({error}); pass http://... or https://... as --base-url") from None


def _span(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """First byte and total length of the response; a server that ignores ranges starts at 0."""
    length = answer.headers.get("Content-Length")
    if answer.status != 206:
        return 0, int(length) if length else None
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(have):
        raise _Attempt(f"the server sent range {span or 'none'} instead of {have}-")
    return have, int(total) if total.isdigit() else None


def _receive(answer: http.client.HTTPResponse, part: Path, start: int, total: int | None, name: str) -> None:
    from tqdm import tqdm

    if total is not None and total - start > (free := shutil.disk_usage(part.parent).free):
        raise UserError(
            f"{name} needs {(total - start) / 1e9:.1f} GB and {part.parent} has {free / 1e9:.1f} GB free; free "
            "space and repeat the command to continue"
        )
    with (
        open(part, "r+b" if start else "wb") as file,
        tqdm(total=total, initial=start, desc=name, unit="B", unit_scale=True, disable=None, leave=False) as bar,
    ):
        file.truncate(start)
        file.seek(start)
        while piece := answer.read(_PIECE):
            file.write(piece)
            bar.update(len(piece))
        size = file.tell()
    if total is not None and size != total:
        raise _Attempt(f"connection lost after {size} of {total} bytes")


def _http_error(url: str, part: Path, have: int, error: urllib.error.HTTPError) -> None:
    if error.code == 416 and have:  # nothing left to send: already complete, or longer than the server's file
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if total == str(have):
            return
        part.unlink()
        raise _Attempt("the partial file is longer than the server's; starting over") from None
    if error.code in (408, 425, 429) or error.code >= 500:
        raise _Attempt(f"HTTP {error.code} {error.reason}", _retry_after(error.headers.get("Retry-After"))) from None
    raise UserError(f"cannot download {url}: HTTP {error.code} {error.reason}; check --base-url") from None


def _retry_after(value: str | None) -> float:
    """Seconds to wait according to a Retry-After header: a number of seconds or a date."""
    if not value:
        return 0.0
    if value.isdigit():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def _verify(part: Path, md5: str | None) -> None:
    if md5 is not None and (found := _md5(part)) != md5:
        part.unlink()
        raise _Attempt(f"wrong bytes (md5 {found}, not {md5})")


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
