"""Which classes and which of their images: a function of the metadata, the options and the seed; no image is read."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from timm_landmark.data.prepare.metadata import Metadata
from timm_landmark.data.prepare.split import drawn_count, sample
from timm_landmark.utils.errors import UserError


@dataclass(frozen=True)
class SelectedClass:
    """A class before its images are read.

    Attributes:
        landmarks: Its landmark ids; several when names are joined.
        name: Human name, or an empty text.
        available: Its images in the metadata.
        ids: The images drawn, sorted.
    """

    landmarks: tuple[str, ...]
    name: str
    available: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The classes in order (most frequent first), and the landmark of every image drawn."""

    classes: tuple[SelectedClass, ...]
    landmark: dict[str, str]

    def digest(self) -> str:
        """Hex SHA-256 of the images and landmarks, whatever the order of the rows they came from."""
        text = "".join(f"{name}:{landmark}\n" for name, landmark in sorted(self.landmark.items()))
        return hashlib.sha256(text.encode()).hexdigest()


def select(
    metadata: Metadata,
    classes: int | None = None,
    min_per_class: int = 1,
    ratio: float | None = None,
    cap: int | None = None,
    exclude: Collection[str] = (),
    join_names: bool = False,
    seed: int = 0,
) -> Selection:
    """Selects the most frequent classes and draws their images.

    Args:
        metadata: The images and landmarks.
        classes: How many classes; None for all. Equal counts are ordered by the smallest landmark id.
        min_per_class: A class with fewer images, counted after ``ratio`` and ``cap``, is not selected.
        ratio: Share of each class's images to draw, rounded up.
        cap: Most images of a class.
        exclude: Landmark ids to leave out; a joined class loses these only.
        join_names: Landmarks of one name become one class.
        seed: Of the draw.

    Returns:
        The selection.

    Raises:
        UserError: If an excluded id is not there, or fewer than two classes are left.
    """
    if unknown := sorted(set(exclude) - set(metadata.landmarks)):
        raise UserError(f"--exclude {unknown[0]}: no such landmark id in the metadata")
    counts = np.bincount(metadata.codes, minlength=len(metadata.landmarks))
    members: dict[str, list[int]] = {}
    for code, landmark in enumerate(metadata.landmarks):
        if landmark not in exclude and counts[code]:
            name = metadata.names.get(landmark, "") if join_names else ""
            members.setdefault(f"name {name}" if name else f"id {landmark}", []).append(code)
    kinds = [sorted(codes, key=lambda code: id_order(metadata.landmarks[code])) for codes in members.values()]
    totals = {codes[0]: int(counts[codes].sum()) for codes in kinds}
    kinds = [codes for codes in kinds if drawn_count(totals[codes[0]], ratio, cap) >= min_per_class]
    kinds.sort(key=lambda codes: (-totals[codes[0]], id_order(metadata.landmarks[codes[0]])))
    kinds = kinds[:classes]
    if len(kinds) < 2:
        raise UserError(
            f"{len(kinds)} class(es) left of {len(metadata.landmarks)}: nothing to tell apart; lower --min-per-class "
            f"({min_per_class}), raise --classes, --ratio or --cap"
        )
    return _draw_images(metadata, kinds, totals, ratio, cap, seed)


def id_order(landmark: str) -> tuple[int, int, str]:
    """Sorts whole numbers as numbers, before all other ids."""
    return (0, int(landmark), "") if landmark.isascii() and landmark.isdigit() else (1, 0, landmark)


def _draw_images(
    metadata: Metadata,
    kinds: list[list[int]],
    totals: dict[int, int],
    ratio: float | None,
    cap: int | None,
    seed: int,
) -> Selection:
    import pyarrow as pa

    kind_of = np.full(len(metadata.landmarks), -1, dtype=np.int32)
    for number, codes in enumerate(kinds):
        kind_of[codes] = number
    wanted = kind_of[metadata.codes] >= 0
    ids = metadata.ids.filter(pa.array(wanted)).to_pylist()
    images: list[list[str]] = [[] for _ in kinds]
    landmark: dict[str, str] = {}
    for name, code in zip(ids, metadata.codes[wanted].tolist(), strict=True):
        images[kind_of[code]].append(name)
        landmark[name] = metadata.landmarks[code]
    selected = []
    for codes, names in zip(kinds, images, strict=True):
        landmarks = tuple(metadata.landmarks[code] for code in codes)
        drawn = sample(names, seed, ratio, cap)
        title = metadata.names.get(landmarks[0], "")
        selected.append(SelectedClass(landmarks, title, totals[codes[0]], tuple(drawn)))
    return Selection(tuple(selected), {name: landmark[name] for kind in selected for name in kind.ids})
