"""What went wrong between here and a Hugging Face Hub repository, in one sentence that names the remedy."""

import errno
from collections.abc import Iterator
from pathlib import Path

from timm_landmark.utils.errors import UserError, first_line

UNPUBLISHED = "timm-landmark/"  # the namespace of the registry's own weight sets, none of which is published yet
OWN_WEIGHTS = (
    "build the model without pretrained=True, or load weights of your own: create_model('hf-hub:ORG/NAME', "
    "pretrained=True), or pretrained_cfg_overlay=dict(hf_hub_id='ORG/NAME', num_classes=N)"
)


class PretrainedError(UserError, RuntimeError):
    """Pretrained weights that cannot be had or do not fit; the message names repository, reason and remedy."""


def explain(error: BaseException, repo: str, file: str, cache_dir: str | Path | None = None) -> str | None:
    """One sentence on ``error``: the repository, the reason, the remedy.

    Args:
        error: What huggingface_hub, safetensors or the system raised while ``file`` was fetched or read.
        repo: ``ORG/NAME`` or ``ORG/NAME@REVISION``.
        file: Name of the file in the repository.
        cache_dir: Where downloads are kept, if not in huggingface_hub's own place.

    Returns:
        The sentence, or None if the error is of another kind.
    """
    for each in _chain(error):
        reason = _missing(each, repo, file) or _refused(each, repo) or _network(each, repo, file)
        reason = reason or _local(each, repo, file, cache_dir)
        if reason:
            return reason
    return None


def split_revision(repo: str) -> tuple[str, str | None]:
    """``ORG/NAME@REVISION`` in its two parts."""
    name, _, revision = repo.partition("@")
    return name, revision or None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, the cause first where huggingface_hub hides it behind a missing cache entry."""
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
        return f"{repo!r} is no name of a Hub repository; it is written ORG/NAME or ORG/NAME@REVISION"
    if isinstance(error, GatedRepoError):
        return f"{repo}: access is gated; ask for it on the repository's page, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        if name.startswith(UNPUBLISHED):
            return f"no weights are published at {name} on the Hub yet ({_status(error)}): {OWN_WEIGHTS}"
        return (
            f"{name}: no such repository on the Hub, or a private one ({_status(error)}): check the spelling, and for "
            "a private one log in with `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision or 'main'!r}: name a branch, tag or commit that its page lists"
    if isinstance(error, RemoteEntryNotFoundError):
        return (
            f"{repo} has no file {file}: only safetensors are read from the Hub, never a pickle; put it there with "
            "`timm-landmark export` and `timm-landmark push`"
        )
    return None


def _refused(error: BaseException, repo: str) -> str | None:
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError) or error.response is None:
        return None
    status = error.response.status_code
    if status == 401:
        return f"{repo}: the Hub does not accept the token (401); log in again with `hf auth login` or mend HF_TOKEN"
    if status == 403:
        return (
            f"{repo}: the Hub forbids access (403); use a token that may do this (https://huggingface.co/settings/"
            "tokens), or check that a firewall does not stand between"
        )
    if status == 429:
        return f"{repo}: the Hub has had too many requests (429); wait some minutes and try again, logged in if you can"
    if status >= 500:
        return f"{repo}: the Hub is out of order ({status}); try again later, what is in the cache is used then too"
    return f"{repo}: the Hub answered {status}; check HF_ENDPOINT and try again"


def _network(error: BaseException, repo: str, file: str) -> str | None:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{repo}: {file} is not in the cache and HF_HUB_OFFLINE forbids to fetch it; run once with HF_HUB_OFFLINE=0"
        )
    if type(error).__module__.partition(".")[0].startswith(("httpx", "requests", "urllib3")):  # 1.x and 2.x differ
        if type(error).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError", "ConnectionError"):
            return f"{repo}: the Hub cannot be reached; check the network, the proxy and HF_ENDPOINT, then try again"
        return (
            f"{repo}: the connection was lost while {file} came ({type(error).__name__}); nothing was kept, try again"
        )
    if "Consistency check failed" in str(error):
        return f"{repo}: {file} came with the wrong length, so it was not kept; try again"
    if isinstance(error, LocalEntryNotFoundError):
        return f"{repo}: {file} is not in the cache and the Hub cannot be asked; check the network and HF_ENDPOINT"
    return None


def _local(error: BaseException, repo: str, file: str, cache_dir: str | Path | None) -> str | None:
    from huggingface_hub.constants import HF_HUB_CACHE
    from safetensors import SafetensorError

    place = cache_dir or HF_HUB_CACHE
    if isinstance(error, SafetensorError):
        return f"{repo}: {file} is damaged ({first_line(error)}) and was removed from the cache; try again"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"{repo}: no room for {file} in {place} ({error.strerror}); make room or name another place with cache_dir "
            "or HF_HOME, then try again"
        )
    if isinstance(error, PermissionError):
        return f"{place} cannot be written ({error.strerror}); name another place with cache_dir or HF_HOME"
    return None


def _status(error: BaseException) -> str:
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else type(error).__name__
