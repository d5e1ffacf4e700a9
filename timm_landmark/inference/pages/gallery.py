"""The gallery of ``predict``: a self-contained HTML page with thumbnails, also for phones."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from timm_landmark.inference.answers import Answer, Label
from timm_landmark.inference.metrics.accuracy import wilson
from timm_landmark.inference.photos import MOST_THUMBNAILS
from timm_landmark.runs.thresholds import Decision
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import atomic_path
from timm_landmark.utils.text import escaped, printable

MOST_CONFUSIONS = 50
GUESSES, LEAST = 3, 0.001  # guesses per photo; LEAST is the smallest probability shown after the first


@dataclass(frozen=True)
class Card:
    """One photo on the page; ``state`` is right, wrong, foreign (unknown class) or open.

    ``picture`` and ``heat`` are data URIs; ``heat`` is empty without a heat map.
    """

    picture: str
    heat: str
    file: str
    guesses: tuple[tuple[str, float], ...]
    truth: str | None
    state: str
    decision: Decision


class Gallery:
    """Collects answers and writes the page at the end."""

    def __init__(self, title: str, labels: Sequence[Label]) -> None:
        self._title, self._labels = title, labels
        self._cards: list[Card] = []
        self._layer: str | None = None
        self._problems: list[tuple[str, str]] = []
        self._states: Counter[str] = Counter()
        self._decisions: Counter[Decision] = Counter()
        self._confusions: Counter[tuple[str, str]] = Counter()

    def add(self, answer: Answer) -> None:
        """Adds one answer; the first 3000 photos are kept as small JPEGs."""
        if answer.photo.problem:
            self._problems.append((escaped(answer.photo.path), printable(answer.photo.problem)))
            return
        first = self._labels[answer.guesses[0].index]
        if answer.truth is None:
            state = "open"
        elif answer.truth == first:
            state = "right"
        elif not answer.known:
            state = "foreign"
        else:
            state = "wrong"
            self._confusions[answer.truth.name, first.name] += 1
        self._states[state] += 1
        self._decisions[answer.decision] += 1
        if answer.photo.thumbnail is not None and len(self._cards) < MOST_THUMBNAILS:
            ranked = enumerate(answer.guesses[:GUESSES])
            shown = [each for rank, each in ranked if rank == 0 or each.probability >= LEAST]
            guesses = tuple((self._labels[each.index].name, each.probability) for each in shown)
            truth = answer.truth.name if answer.truth else None
            picture = _data_uri(answer.photo.thumbnail)
            heat = _data_uri(answer.heat) if answer.heat else ""
            self._layer = answer.layer or self._layer
            name = escaped(answer.photo.path.name)
            self._cards.append(Card(picture, heat, name, guesses, truth, state, answer.decision))

    def summary(self) -> str:
        """Returns a one-line summary for the terminal."""
        photos = sum(self._states.values())
        text = f"{photos} photo{'s' * (photos != 1)}, {len(self._cards)} shown"
        judged = self._states["right"] + self._states["wrong"]
        return f"{text}, {self._states['right']} of {judged} correct" if judged else text

    def write(self, path: Path) -> None:
        """Writes the page atomically, as a stream.

        Raises:
            UserError: If it cannot be written.
        """
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("timm_landmark.inference.pages", "."),
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
                    layer=self._layer,
                    photos=sum(self._states.values()),
                    states=self._states,
                    decisions=self._decisions,
                    judged=judged,
                    interval=wilson(self._states["right"], judged),
                    confusions=self._confusions.most_common(MOST_CONFUSIONS),
                    all_confusions=len(self._confusions),
                    problems=self._problems,
                ).dump(str(temporary), encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"--gallery {path}: {error.strerror or error}; free space or choose another file") from None


def check_page(path: Path) -> None:
    """Checks the path of the page, so that it never overwrites a photo.

    Raises:
        UserError: If it is a folder, its folder does not exist, or its name does not end in .html.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--gallery {path}: must end in .html; pass photos as positional arguments")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"--gallery {path}: must be a file in an existing folder")


def _data_uri(thumbnail: Image.Image) -> str:
    buffer = io.BytesIO()
    thumbnail.save(buffer, "JPEG", quality=72, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
