"""Contact sheets that show a data set: its classes, its near duplicates and its rejects."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageDraw, ImageFont

from timm_landmark.data.layout import ClassRow, ManifestRow, RejectRow
from timm_landmark.utils.files import atomic_path
from timm_landmark.utils.text import printable

TILE, GAP, LINE, COLUMNS = 112, 4, 16, 8
MOST_ROWS = 40
_Item = TypeVar("_Item")
# caption and encoded picture; None if there is no picture to show
Tile = tuple[str, bytes | None]


def contact_sheet(path: Path, rows: Sequence[tuple[str, Sequence[Tile]]]) -> None:
    """Draws titled rows of pictures into a PNG.

    Args:
        path: The PNG to write, atomically.
        rows: Title and tiles of each row; rows of more than eight tiles are wrapped.
    """
    lines: list[tuple[str, Sequence[Tile]]] = []
    for title, tiles in rows:
        pieces = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)] or [()]
        lines += [(title if number == 0 else "", piece) for number, piece in enumerate(pieces)]
    heights = [LINE * bool(title) + (TILE + LINE + GAP) * bool(tiles) for title, tiles in lines]
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, sum(heights) + 2 * GAP), "white")
    draw, fonts = ImageDraw.Draw(sheet), [ImageFont.load_default(size) for size in (13, 10)]
    top = GAP
    for (title, tiles), height in zip(lines, heights, strict=True):
        if title:
            draw.text((GAP, top), _fit(draw, title, fonts[0], sheet.width - 2 * GAP), "black", fonts[0])
        start = top + LINE * bool(title)
        for column, (caption, picture) in enumerate(tiles):
            left = GAP + column * (TILE + GAP)
            sheet.paste(_tile(picture), (left, start))
            draw.text((left, start + TILE), _fit(draw, caption, fonts[1], TILE), "dimgrey", fonts[1])
        top += height
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def class_sheet(
    path: Path, classes: Sequence[ClassRow], manifest: Iterable[ManifestRow], picture: Callable[[ManifestRow], bytes]
) -> None:
    """Draws eight images of each class; of more than 40 classes, 40 spread evenly from first to last.

    Args:
        path: The PNG to write.
        classes: The rows of classes.csv.
        manifest: The rows of manifest.csv.
        picture: Returns the stored JPEG of an image.
    """
    shown = _spread(classes, MOST_ROWS)
    members: dict[str, list[ManifestRow]] = {row.folder: [] for row in shown}
    for row in manifest:
        if row.folder in members:
            members[row.folder].append(row)
    rows: list[tuple[str, Sequence[Tile]]] = []
    if len(shown) < len(classes):
        rows.append((f"{len(shown)} of {len(classes)} classes", ()))
    for row in shown:
        counts = f"{row.train} train, {row.validation} validation, {row.test} test"
        tiles = [(f"{one.split} {one.image_id}", picture(one)) for one in _spread(members[row.folder], COLUMNS)]
        rows.append((f"{row.folder}  {row.name or row.landmark_id}: {counts}", tiles))
    contact_sheet(path, rows)


def reject_sheet(
    path: Path,
    groups: Mapping[str, str],
    rejects: Iterable[RejectRow],
    picture: Callable[[str], bytes | None],
) -> None:
    """Draws the largest groups of near duplicates (at most 20 lines) and the rejects (at most 24 per category).

    Args:
        path: The PNG to write.
        groups: image_id -> group key.
        rejects: The rows of rejects.csv.
        picture: Returns the stored picture of an image id, or None, which gives an empty tile. (Rejects that were
            decoded, such as those of a class that is left out, have one.)
    """
    members: dict[str, list[str]] = {}
    for name, key in sorted(groups.items()):
        members.setdefault(key, []).append(name)
    several = sorted((names for names in members.values() if len(names) > 1), key=lambda names: (-len(names), names))
    lines: list[list[Tile]] = [[]]
    for number, names in enumerate(several, 1):
        if len(lines[-1]) + len(names[:COLUMNS]) > COLUMNS:
            if len(lines) == MOST_ROWS // 2:
                break
            lines.append([])
        lines[-1] += [(f"#{number} {name}", picture(name)) for name in names[:COLUMNS]]
    title = f"{len(several)} groups of near duplicates, each within one split (# is the number of the group)"
    rows: list[tuple[str, Sequence[Tile]]] = [(title, ()), *(("", tiles) for tiles in lines if tiles)]
    reasons: dict[str, list[RejectRow]] = {}
    for row in sorted(rejects, key=lambda row: (row.reason, row.image_id)):
        reasons.setdefault(row.reason.partition(":")[0], []).append(row)
    rows.append((f"{sum(map(len, reasons.values()))} rejects", ()))
    for reason, rejected in reasons.items():
        tiles = [(row.image_id, picture(row.image_id)) for row in rejected[: 3 * COLUMNS]]
        rows.append((f"rejected: {reason} ({len(rejected)})", tiles))
    contact_sheet(path, rows)


def _spread(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most ``most`` items, spread evenly from first to last."""
    if len(items) <= most:
        return list(items)
    return [items[index * (len(items) - 1) // (most - 1)] for index in range(most)]


def _tile(picture: bytes | None) -> Image.Image:
    if picture is None:
        tile = Image.new("RGB", (TILE, TILE), "gainsboro")
        ImageDraw.Draw(tile).line([(0, 0), (TILE, TILE), (TILE, 0), (0, TILE)], "darkgrey")
        return tile
    with Image.open(BytesIO(picture)) as image:
        return image.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC)


def _fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    text = printable(text)
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
