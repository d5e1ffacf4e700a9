"""Checks which image ids can be file names: ``<id>.jpg`` must be valid on Linux, macOS and Windows."""

import re
import unicodedata
from collections.abc import Iterable

_LONGEST = 255 - len(".jpg")  # bytes
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)


def unusable_ids(ids: Iterable[str]) -> dict[str, str]:
    """Returns the ids that cannot be file names everywhere, each with the reason.

    Ids that differ only in case are all unusable: which one is kept must not depend on the order of rows.
    """
    ids = list(ids)
    reasons = {name: reason for name in ids if (reason := _problem(name))}
    folded: dict[str, list[str]] = {}
    for name in ids:
        if (key := _folded(name)) != name:  # hex ids, as in every release, are unchanged
            folded.setdefault(key, []).append(name)
    known = set(ids) if folded else set()
    for key, names in folded.items():
        alike = sorted(names + [key] * (key in known))
        if len(alike) > 1:
            for name in alike:
                other = next(each for each in alike if each != name)
                reasons.setdefault(name, f"unusable id: {other!r} is the same file name if case is ignored")
    return reasons


def _problem(name: str) -> str | None:
    if len(name.encode("utf-8", "surrogateescape")) > _LONGEST:
        return f"unusable id: longer than the {_LONGEST} bytes allowed in a file name"
    if found := _FORBIDDEN.search(name):
        return f"unusable id: {found[0]!r} is not allowed in file names on Windows"
    if _RESERVED.match(name):
        return f"unusable id: {name!r} is a device name on Windows"
    return None


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
