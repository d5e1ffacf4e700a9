"""Text from outside (class names, file names) made harmless for a terminal, a card and a page; the one way to print."""

import html
import os
import re
import unicodedata
from typing import TextIO

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~:/@-])")


def say(*lines: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Prints lines, each of them :func:`escaped`; nothing else in this package writes to a terminal.

    Args:
        lines: Text of any origin. A line break inside one of them is escaped too, so that no name can forge a line.
        file: Standard output by default.
        end: Written after the last line as it is.
    """
    print("\n".join(map(escaped, lines)), file=file, end=end, flush=True)


def escaped(text: str | os.PathLike[str]) -> str:
    r"""``text`` with everything that a terminal would act on written out as Python writes it; spaces stay.

    That is control, format and unassigned characters (``\x1b``, ``\n``, ``\u202e``) and, in a file's name, every byte
    that is not UTF-8 (``\xe9``).
    """
    text = os.fspath(text)
    return text if text.isprintable() else "".join(map(_written_out, text))


def _written_out(char: str) -> str:
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    if "\udc80" <= char <= "\udcff":  # how Python holds a byte of a name that it could not decode
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def printable(text: str, width: int | None = None) -> str:
    """``text`` on one line without control, format or unassigned characters, cut to ``width`` with an ellipsis.

    Terminal escapes, line breaks and marks that turn the reading direction become single spaces.
    """
    kept = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    kept = " ".join(kept.split())
    return kept if width is None or len(kept) <= width else kept[: width - 1] + "…"


def markdown(text: str) -> str:
    """``text`` as plain words in Markdown, also inside a table: no markup, no HTML, no link."""
    return _MARKDOWN.sub(r"\\\1", html.escape(printable(text), quote=False))
