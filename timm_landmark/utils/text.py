"""Printing, and escaping of untrusted text (class names, file names) for terminals, Markdown and HTML."""

import html
import os
import re
import unicodedata
from typing import TextIO

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~:/@-])")


def say(*lines: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Prints lines after :func:`escaped`; nothing else in this package writes to a terminal.

    Args:
        lines: Any text. Line breaks inside a line are escaped too, so that a name cannot add a line.
        file: Standard output by default.
        end: Written unchanged after the last line.
    """
    print("\n".join(map(escaped, lines)), file=file, end=end, flush=True)


def escaped(text: str | os.PathLike[str]) -> str:
    r"""Escapes characters that could control a terminal, in the notation of Python's string literals; spaces are kept.

    These are control, format and unassigned characters (``\x1b``, ``\n``, ``\u202e``) and, in a file name, bytes that
    are not UTF-8 (``\xe9``).
    """
    text = os.fspath(text)
    return text if text.isprintable() else "".join(map(_written_out, text))


def _written_out(char: str) -> str:
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    if "\udc80" <= char <= "\udcff":  # Python's representation of an undecodable byte in a file name
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def printable(text: str, width: int | None = None) -> str:
    """Returns ``text`` on one line without control, format or unassigned characters.

    Terminal escapes, line breaks and marks that change the reading direction become single spaces. Text longer than
    ``width`` is truncated with an ellipsis.
    """
    kept = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    kept = " ".join(kept.split())
    return kept if width is None or len(kept) <= width else kept[: width - 1] + "…"


def markdown(text: str) -> str:
    """Escapes ``text`` for Markdown, also inside a table, so that it contains no markup, HTML or links."""
    return _MARKDOWN.sub(r"\\\1", html.escape(printable(text), quote=False))
