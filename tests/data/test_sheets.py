import numpy as np
from data_helpers import small_dataset
from PIL import Image

from timm_landmark.data.layout import ClassRow, RejectRow, read_rows
from timm_landmark.data.sheets import COLUMNS, GAP, TILE, class_sheet, contact_sheet, reject_sheet


def red() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (250, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def red_pixels(path) -> int:
    pixels = np.asarray(Image.open(path)).astype(int)
    return int(((pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)).sum())


def test_tiles_are_where_they_belong(tmp_path):
    contact_sheet(tmp_path / "a.png", [("title", [("one", red())] * 11), ("empty", [])])
    assert red_pixels(tmp_path / "a.png") == 11 * TILE * TILE
    sheet = Image.open(tmp_path / "a.png")
    assert sheet.width == COLUMNS * (TILE + GAP) + GAP
    assert sheet.size[1] > 2 * TILE


def test_class_sheet_shows_every_class_and_at_most_forty(tmp_path):
    manifest, images = small_dataset(tmp_path / "data")
    asked = []

    def picture(row):
        asked.append(row.folder)
        return images[row.image_id]

    class_sheet(tmp_path / "a.png", read_rows(tmp_path / "data", ClassRow), manifest, picture)
    assert [asked.count(folder) for folder in ("0000", "0001", "0002")] == [8, 8, 8]
    many = [ClassRow(f"{index:04d}", str(index), "x" * 300, 1, 1, 1) for index in range(1000)]
    class_sheet(tmp_path / "b.png", many, [], picture)
    assert Image.open(tmp_path / "b.png").height < 2000


def test_reject_sheet_shows_groups_and_every_reason(tmp_path):
    groups = {"a": "a", "b": "a", "c": "c", "d": "d", "e": "d", "f": "d"}
    rejects = [RejectRow("x", "1", "truncated: 10 bytes"), RejectRow("y", "1", "missing"), RejectRow("z", "1", "html")]
    pictures = {name: red() for name in "abcdef"}
    reject_sheet(tmp_path / "a.png", groups, rejects, pictures.get)
    assert red_pixels(tmp_path / "a.png") == 5 * TILE * TILE  # the five images of two groups, without c
    reject_sheet(tmp_path / "b.png", {}, [], pictures.get)
    assert red_pixels(tmp_path / "b.png") == 0
