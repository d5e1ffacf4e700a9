"""Text from outside (class names, file names) made harmless for a terminal, a card and a page."""

import html
import re
import unicodedata

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~:/@-])")


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
