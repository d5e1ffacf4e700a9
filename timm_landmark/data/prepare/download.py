"""Google Landmarks v2 from its official address: the csv files, and the images one shard after the other.

A file is fetched into ``NAME.part`` with HTTP ranges, compared with its md5 and only then given its name, so that an
interruption costs at most one piece and wrong bytes are never read. The csv files have no md5: ``NAME.from`` holds the
address of a part and the server's ETag or date, and a part is completed only from the same state of the same file. 500
shards of a gigabyte are never on the disk at once: each is deleted when its selected photos are kept.
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
    """How patient a download is.

    Attributes:
        attempts: Attempts in a row without progress (no byte beyond those already had) before it gives up.
        first_wait: Seconds before the second attempt; doubled each time.
        longest_wait: Seconds at most, a server's Retry-After included.
        timeout: Seconds without an answer or a byte after which an attempt has failed.
    """

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 300.0
    timeout: float = 60.0


class _Attempt(Exception):
    """An attempt that failed in a way that another may not; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch(url: str, target: Path, md5: str | None = None, retry: Retry | None = None) -> Path:
    """Downloads ``url`` to ``target``, going on where an earlier call was interrupted.

    Args:
        url: An http or https address.
        target: Where the whole file goes; its folder must exist. A file that is there already is kept as it is.
        md5: Hex MD5 that the file must have; without it only the length that the server states is checked.
        retry: How patient to be.

    Returns:
        ``target``.

    Raises:
        UserError: If the file does not exist there, or every attempt failed; what was fetched stays for the next call.
        OSError: If the disk is full or cannot be written.
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
                    f"cannot download {url}: {error}; {failures} attempts in a row failed. Repeat the command to go "
                    "on where it stopped, or name another address with --base-url"
                ) from None
            wait = min(max(error.wait, retry.first_wait * 2 ** (failures - 1)), retry.longest_wait)
            say(f"{url}: {error}; again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)


def fetch_metadata(
    folder: Path, base_url: str = BASE_URL, retry: Retry | None = None, names: Sequence[str] = METADATA
) -> dict[str, Path]:
    """Downloads the official csv files of the train set (about 1.6 GB, most of it attribution) into ``folder``.

    Returns:
        File name -> path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {name: fetch(f"{base_url}/metadata/{name}", folder / name, retry=retry) for name in names}


def fetch_md5(index: int, folder: Path, base_url: str = BASE_URL, retry: Retry | None = None) -> str:
    """The official MD5 of train shard ``index``.

    Raises:
        UserError: If the file that should hold it holds something else.
    """
    name = f"md5.images_{index:03d}.txt"
    path = fetch(f"{base_url}/md5sum/train/{name}", folder / name, retry=retry)
    word = path.read_text(encoding="utf-8", errors="replace").split()[:1]
    if not word or len(word[0]) != 32 or not set(word[0].lower()) <= set("0123456789abcdef"):
        path.unlink()
        raise UserError(f"{base_url}/md5sum/train/{name} holds no md5; check --base-url")
    return word[0].lower()


def fetch_shards(
    folder: Path,
    record: Path,
    base_url: str = BASE_URL,
    keep: bool = False,
    shards: int = SHARDS,
    retry: Retry | None = None,
) -> Iterator[Path]:
    """Yields the train shards in order, each verified against its md5, and deletes each when the next is asked for.

    Asking for the next says that the selected photos of the last one are safely stored: its name then goes to
    ``record``, and no later run fetches it again. A shard whose use was interrupted is yielded again.

    Args:
        folder: Where shards are while they are needed; made if missing.
        record: File with a line for each shard that is done; it must live and die with the stored photos.
        base_url: Address that holds ``train/images_NNN.tar`` and ``md5sum/train/md5.images_NNN.txt``.
        keep: Keep the shards (``--keep-shards``); kept ones are yielded again by later runs, without a download.
        shards: How many there are.
        retry: How patient to be.

    Raises:
        UserError: If a shard cannot be had, or fewer bytes are free on the disk than it needs.
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
    """A shard from an earlier run: one that no longer has its md5 is fetched anew."""
    if _md5(path) != md5:
        say(f"{path.name} no longer has its md5; it is fetched again", file=sys.stderr)
        path.unlink()


def _read_origin(origin: Path) -> tuple[str, str]:
    """Address of the file that a part is of, and what tells its state: ETag or date, empty where none was sent."""
    if not origin.exists():
        return "", ""
    url, _, validator = origin.read_text(encoding="utf-8").partition("\n")
    return url, validator


def _validator(answer: http.client.HTTPResponse) -> str:
    """What If-Range takes: a strong ETag, else the date of the last change, else nothing."""
    tag = answer.headers.get("ETag") or ""
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified") or ""


def _attempt(url: str, part: Path, origin: Path, timeout: float) -> None:
    """One request for what is still missing; on return ``part`` has the length that the server states."""
    have = _size(part)
    headers = {"User-Agent": "timm-landmark"}
    if have:
        _, validator = _read_origin(origin)
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            start, total = _span(answer, have)
            if start == 0:
                part.unlink(missing_ok=True)  # first: old bytes must never stand beside a new origin
                write_atomic(origin, f"{url}\n{_validator(answer)}")
            elif validator and _validator(answer) not in ("", validator):
                part.unlink()
                raise _Attempt("the file has changed on the server; starting anew")
            _receive(answer, part, start, total, Path(url).name)
    except urllib.error.HTTPError as error:
        _http_error(url, part, have, error)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _Attempt(f"connection failed ({getattr(error, 'reason', None) or error!r})") from None
    except ValueError as error:
        raise UserError(f"{url!r} is no address ({error}); --base-url takes http://... or https://...") from None


def _span(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """First byte and whole length of what comes; a server that ignores ranges starts from 0."""
    length = answer.headers.get("Content-Length")
    if answer.status != 206:
        return 0, int(length) if length else None
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(have):
        raise _Attempt(f"the server answered another range ({span or 'none'}) than asked for ({have}-)")
    return have, int(total) if total.isdigit() else None


def _receive(answer: http.client.HTTPResponse, part: Path, start: int, total: int | None, name: str) -> None:
    from tqdm import tqdm

    if total is not None and total - start > (free := shutil.disk_usage(part.parent).free):
        raise UserError(
            f"{name} needs {(total - start) / 1e9:.1f} GB and {part.parent} has {free / 1e9:.1f} GB free; make room "
            "and repeat the command to go on"
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
        raise _Attempt(f"connection cut after {size} of {total} bytes")


def _http_error(url: str, part: Path, have: int, error: urllib.error.HTTPError) -> None:
    if error.code == 416 and have:  # nothing is left to send: whole already, or longer than the server's file
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if total == str(have):
            return
        part.unlink()
        raise _Attempt("the partial file is longer than the server's; starting anew") from None
    if error.code in (408, 425, 429) or error.code >= 500:
        raise _Attempt(f"HTTP {error.code} {error.reason}", _retry_after(error.headers.get("Retry-After"))) from None
    raise UserError(f"cannot download {url}: HTTP {error.code} {error.reason}; check --base-url") from None


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header, which holds seconds or a date."""
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
