"""The gallery of ``predict``: one HTML page with everything inside, thumbnails and all, made for a phone too."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timm_landmark.inference.answers import Answer, Label
from timm_landmark.inference.metrics import wilson
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import atomic_path
from timm_landmark.utils.text import escaped, printable

MOST_SHOWN = 3000  # photos with a picture, about 20 MB; of more, the counts and the confusions are still of all
MOST_CONFUSIONS = 50
GUESSES, LEAST = 3, 0.001  # guesses a photo; after the first only those that show in a percentage


@dataclass(frozen=True)
class Card:
    """One photo on the page; ``picture`` is a data URI, ``state`` is right, wrong, foreign (not a class) or open."""

    picture: str
    file: str
    guesses: tuple[tuple[str, float], ...]
    truth: str | None
    state: str


class Gallery:
    """Collects answers as they come and writes the page at the end."""

    def __init__(self, title: str, labels: Sequence[Label]) -> None:
        self._title, self._labels = title, labels
        self._cards: list[Card] = []
        self._problems: list[tuple[str, str]] = []
        self._states: Counter[str] = Counter()
        self._confusions: Counter[tuple[str, str]] = Counter()

    def add(self, answer: Answer) -> None:
        """Takes one answer; its picture is kept as a small JPEG for the first 3000."""
        if answer.photo.problem:
            self._problems.append((escaped(answer.photo.path), printable(answer.photo.problem)))
            return
        first = self._labels[answer.guesses[0].index]
        state = "open" if answer.truth is None else "foreign" if not answer.known else "wrong"
        if answer.truth == first:
            state = "right"
        self._states[state] += 1
        if state == "wrong":
            self._confusions[answer.truth.name, first.name] += 1
        if answer.photo.thumbnail is not None and len(self._cards) < MOST_SHOWN:
            first_ones = enumerate(answer.guesses[:GUESSES])
            told = [each for rank, each in first_ones if rank == 0 or each.probability >= LEAST]
            guesses = tuple((self._labels[each.index].name, each.probability) for each in told)
            truth = answer.truth.name if answer.truth else None
            self._cards.append(Card(_data_uri(answer), escaped(answer.photo.path.name), guesses, truth, state))

    def summary(self) -> str:
        """A line for the terminal."""
        photos = sum(self._states.values())
        text = f"{photos} photo{'s' * (photos != 1)}, {len(self._cards)} shown"
        judged = self._states["right"] + self._states["wrong"]
        return f"{text}, {self._states['right']} of {judged} right" if judged else text

    def write(self, path: Path) -> None:
        """Writes the page atomically, piece by piece.

        Raises:
            UserError: If it cannot be written.
        """
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("timm_landmark.inference", "."),
            undefined=StrictUndefined,
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        judged = self._states["right"] + self._states["wrong"]
        cards = sorted(self._cards, key=lambda card: -card.guesses[0][1])
        try:
            with atomic_path(path) as temporary:
                environment.get_template("gallery.html.jinja").stream(
                    title=self._title,
                    cards=cards,
                    photos=sum(self._states.values()),
                    states=self._states,
                    judged=judged,
                    interval=wilson(self._states["right"], judged),
                    confusions=self._confusions.most_common(MOST_CONFUSIONS),
                    all_confusions=len(self._confusions),
                    problems=self._problems,
                ).dump(str(temporary), encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"--gallery {path}: {error.strerror or error}; free space or give another file") from None


def check_page(path: Path) -> None:
    """Refuses a place where the gallery cannot or should not be written, such as one of the photos.

    Raises:
        UserError: If it is a folder, lies in none, or does not end in .html.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--gallery {path}: give a page that ends in .html; the photos stand without an option")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"--gallery {path}: give a file in a folder that exists")


def _data_uri(answer: Answer) -> str:
    buffer = io.BytesIO()
    answer.photo.thumbnail.save(buffer, "JPEG", quality=72, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
