"""Selects classes and images, as a function of the metadata, the options and the seed; it reads no image."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from timm_landmark.data.prepare.metadata import Metadata
from timm_landmark.data.prepare.split import drawn_count, sample
from timm_landmark.utils.errors import UserError


@dataclass(frozen=True)
class SelectedClass:
    """A selected class, before its images are read.

    Attributes:
        landmarks: Its landmark ids; several if names are joined.
        name: Readable name, or an empty string.
        available: Number of its images in the metadata.
        ids: Ids of the images drawn, sorted.
    """

    landmarks: tuple[str, ...]
    name: str
    available: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The selected classes, most frequent first, and image id -> landmark id of every image drawn."""

    classes: tuple[SelectedClass, ...]
    landmark: dict[str, str]

    def digest(self) -> str:
        """Hex SHA-256 of the images and landmarks, independent of the order of rows in the metadata."""
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
        classes: Number of classes; None for all. Equally frequent ones are ordered by their smallest landmark id.
        min_per_class: Fewest images of a class after ``ratio`` and ``cap``; smaller classes are not selected.
        ratio: Share of each class's images to draw, rounded up.
        cap: Maximum number of images per class.
        exclude: Landmark ids to leave out; a joined class loses only these.
        join_names: Merge landmarks that have the same name into one class.
        seed: Seed of the draw.

    Returns:
        The selection.

    Raises:
        UserError: If an excluded id is not in the metadata, or fewer than two classes remain.
    """
    if unknown := sorted(set(exclude) - set(metadata.landmarks)):
        raise UserError(f"--exclude {unknown[0]}: no such landmark id in the metadata")
    counts = np.bincount(metadata.codes, minlength=len(metadata.landmarks))
    members: dict[str, list[int]] = {}
    for code, landmark in enumerate(metadata.landmarks):
        if landmark not in exclude and counts[code]:
            name = metadata.names.get(landmark, "") if join_names else ""
            members.setdefault(f"name {name}" if name else f"id {landmark}", []).append(code)
    joined = [sorted(codes, key=lambda code: id_order(metadata.landmarks[code])) for codes in members.values()]
    totals = {codes[0]: int(counts[codes].sum()) for codes in joined}
    joined = [codes for codes in joined if drawn_count(totals[codes[0]], ratio, cap) >= min_per_class]
    joined.sort(key=lambda codes: (-totals[codes[0]], id_order(metadata.landmarks[codes[0]])))
    joined = joined[:classes]
    if len(joined) < 2:
        raise UserError(
            f"{len(joined)} class(es) remain of {len(metadata.landmarks)} landmarks, and a classifier needs two; lower "
            f"--min-per-class ({min_per_class}), or raise --classes, --ratio or --cap"
        )
    return _draw_images(metadata, joined, totals, ratio, cap, seed)


def id_order(landmark: str) -> tuple[int, int, str]:
    """Sort key of landmark ids: whole numbers in numeric order, before all other ids."""
    return (0, int(landmark), "") if landmark.isascii() and landmark.isdigit() else (1, 0, landmark)


def _draw_images(
    metadata: Metadata,
    joined: list[list[int]],
    totals: dict[int, int],
    ratio: float | None,
    cap: int | None,
    seed: int,
) -> Selection:
    """Draws the images of each class: ``joined`` has its landmarks' codes, ``totals`` its size by first code."""
    import pyarrow as pa

    class_of = np.full(len(metadata.landmarks), -1, dtype=np.int32)
    for number, codes in enumerate(joined):
        class_of[codes] = number
    wanted = class_of[metadata.codes] >= 0
    ids = metadata.ids.filter(pa.array(wanted)).to_pylist()
    images: list[list[str]] = [[] for _ in joined]
    landmark: dict[str, str] = {}
    for name, code in zip(ids, metadata.codes[wanted].tolist(), strict=True):
        images[class_of[code]].append(name)
        landmark[name] = metadata.landmarks[code]
    classes = []
    for codes, names in zip(joined, images, strict=True):
        landmarks = tuple(metadata.landmarks[code] for code in codes)
        drawn = sample(names, seed, ratio, cap)
        title = metadata.names.get(landmarks[0], "")
        classes.append(SelectedClass(landmarks, title, totals[codes[0]], tuple(drawn)))
    return Selection(tuple(classes), {name: landmark[name] for selected in classes for name in selected.ids})
