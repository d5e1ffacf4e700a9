"""Readable messages, with a remedy, for errors of Hugging Face Hub downloads and uploads."""

import errno
from collections.abc import Iterator
from pathlib import Path

from timm_landmark.utils.errors import UserError, first_line

UNPUBLISHED = "timm-landmark/"  # namespace of the registered pretrained weights, which are not published yet
OWN_WEIGHTS = (
    "create the model without pretrained=True, or load your own weights with create_model('hf-hub:ORG/NAME', "
    "pretrained=True) or pretrained_cfg_overlay=dict(hf_hub_id='ORG/NAME', num_classes=N)"
)


class PretrainedError(UserError, RuntimeError):
    """Pretrained weights are unavailable or do not fit; the message names repository, reason and remedy."""


def explain(
    error: BaseException, repo: str, file: str, cache_dir: str | Path | None = None, upload: bool = False
) -> str | None:
    """Explains an error in one sentence with the repository, the reason and the remedy.

    Args:
        error: Raised by huggingface_hub, safetensors or the system while ``file`` was downloaded or read.
        repo: ``ORG/NAME`` or ``ORG/NAME@REVISION``.
        file: Name of the file in the repository.
        cache_dir: Where downloads are stored; by default the cache of huggingface_hub.
        upload: Whether files were uploaded, not downloaded.

    Returns:
        The sentence, or None for other errors.
    """
    for each in _chain(error):
        reason = _missing(each, repo, file) or _refused(each, repo) or _network(each, repo, file, upload)
        reason = reason or _local(each, repo, file, cache_dir)
        if reason:
            return reason
    return None


def split_revision(repo: str) -> tuple[str, str | None]:
    """Splits ``ORG/NAME@REVISION``; the revision is None if it is not given."""
    name, _, revision = repo.partition("@")
    return name, revision or None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields the error, after its cause if huggingface_hub reports the cause as a missing cache entry."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        yield error.__cause__
    yield error


def _missing(error: BaseException, repo: str, file: str) -> str | None:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = split_revision(repo)
    if isinstance(error, HFValidationError):
        return f"{repo!r} is not a valid name of a Hub repository; use ORG/NAME or ORG/NAME@REVISION"
    if isinstance(error, GatedRepoError):
        return f"{repo}: access is gated; request access on the repository's page, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        if name.startswith(UNPUBLISHED):
            return f"{name}: these weights are not published on the Hub yet ({_status(error)}); {OWN_WEIGHTS}"
        return (
            f"{name}: the repository does not exist on the Hub or is private ({_status(error)}); check the spelling, "
            "and for a private repository log in with `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision or 'main'!r}; use a branch, tag or commit listed on its page"
    if isinstance(error, RemoteEntryNotFoundError):
        return (
            f"{repo} has no file {file}, and pickles are not read; create and upload it with `timm-landmark export` "
            "and `timm-landmark push`"
        )
    return None


def _refused(error: BaseException, repo: str) -> str | None:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, ValueError) and str(error).startswith("Invalid metadata in README.md"):
        return (
            f"{repo}: the Hub rejects the metadata of the model card and nothing was uploaded "
            f"({' '.join(str(error).split())[:300]}); correct it, for example with `export --license`"
        )
    if not isinstance(error, HfHubHTTPError) or error.response is None:
        return None
    status = error.response.status_code
    if status == 401:
        return f"{repo}: the Hub rejects the token (401); log in again with `hf auth login` or correct HF_TOKEN"
    if status == 403:
        return (
            f"{repo}: the Hub denies access (403); use a token with the required permission "
            "(https://huggingface.co/settings/tokens), or check whether a firewall blocks the Hub"
        )
    if status == 429:
        return f"{repo}: too many requests to the Hub (429); wait a few minutes, log in if possible, and try again"
    if status >= 500:
        return f"{repo}: the Hub is unavailable ({status}); try again later, cached files will be reused"
    return f"{repo}: unexpected response from the Hub ({first_line(error)}); check HF_ENDPOINT and try again"


def _network(error: BaseException, repo: str, file: str, upload: bool) -> str | None:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{repo}: {file} is not in the cache and HF_HUB_OFFLINE prevents downloading it; run once with "
            "HF_HUB_OFFLINE=0"
        )
    if type(error).__module__.partition(".")[0].startswith(("httpx", "requests", "urllib3")):  # 1.x and 2.x differ
        if type(error).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError", "ConnectionError"):
            return f"{repo}: cannot connect to the Hub; check the network, the proxy and HF_ENDPOINT, then try again"
        doing, state = (
            ("uploading", "what is there is complete or not visible")
            if upload
            else (f"downloading {file}", "nothing was stored")
        )
        return f"{repo}: the connection was lost while {doing} ({type(error).__name__}); {state}, try again"
    if "Consistency check failed" in str(error):
        return f"{repo}: the download of {file} has the wrong size and was not stored; try again"
    if isinstance(error, LocalEntryNotFoundError):
        return f"{repo}: {file} is not in the cache and the Hub is unavailable; check the network and HF_ENDPOINT"
    return None


def _local(error: BaseException, repo: str, file: str, cache_dir: str | Path | None) -> str | None:
    from huggingface_hub.constants import HF_HUB_CACHE
    from safetensors import SafetensorError

    place = cache_dir or HF_HUB_CACHE
    if isinstance(error, SafetensorError):
        return f"{repo}: {file} is damaged ({first_line(error)}) and was removed from the cache; try again"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"{repo}: cannot store {file} in {place} ({error.strerror}); free disk space or choose another folder with "
            "cache_dir or HF_HOME, then try again"
        )
    if isinstance(error, PermissionError):
        return f"{place} is not writable ({error.strerror}); choose another folder with cache_dir or HF_HOME"
    return None


def _status(error: BaseException) -> str:
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else type(error).__name__
