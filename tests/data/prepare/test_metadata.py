"""Metadata of every release, with the quirks of real copies; and what is selected from it."""

import gzip
import pathlib
import random

import pytest

from timm_landmark.data.prepare import metadata as metadata_module
from timm_landmark.data.prepare.metadata import read_folders, read_metadata
from timm_landmark.data.prepare.selection import select
from timm_landmark.data.prepare.split import drawn_count
from timm_landmark.utils.errors import UserError


def pairs(metadata) -> dict[str, str]:
    return {name: metadata.landmarks[code] for name, code in zip(metadata.ids.to_pylist(), metadata.codes, strict=True)}


def write(path, text: str | bytes):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


LAYOUTS = {
    "v2": (b"id,url,landmark_id\n0001,https://upload.wikimedia.org/a.jpg,7\n00ff,https://x/b.jpg,8\n", "GLDv2"),
    "v1": (
        b'"id","url","landmark_id"\n"0001","http://lh3.googleusercontent.com/a","7"\n"00ff","http://x/b","8"\n',
        "GLDv1",
    ),
    "v1 with None": (b"id,url,landmark_id\n0001,http://a,7\nabcd,None,None\n00ff,http://x/b,8\n", "GLDv1"),
    "kaggle": (b"id,landmark_id\n0001,7\n00ff,8\n", "Kaggle 2020/2021 (GLDv2 clean)"),
    "clean": (b"landmark_id,images\n7,0001\n8,00ff\n", "GLDv2 clean"),
    "byte-order mark": (b"\xef\xbb\xbfid,landmark_id\n0001,7\n00ff,8\n", "Kaggle 2020/2021 (GLDv2 clean)"),
    "CRLF": (b"id,landmark_id\r\n0001,7\r\n00ff,8\r\n", "Kaggle 2020/2021 (GLDv2 clean)"),
    "commas in quotes": (b'id,url,landmark_id\n0001,"https://upload.wikimedia.org/a,b.jpg",7\n00ff,c,8\n', "GLDv2"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_layout_gives_ids_as_text(tmp_path, layout, packed):
    content, release = LAYOUTS[layout]
    path = write(tmp_path / ("train.csv.gz" if packed else "train.csv"), gzip.compress(content) if packed else content)
    metadata = read_metadata(path)
    assert pairs(metadata) == {"0001": "7", "00ff": "8"}  # 0001 is not the number 1
    assert metadata.release == release
    assert metadata.unlabelled == (layout == "v1 with None")


def test_an_id_twice_and_an_id_under_two_labels(tmp_path):
    metadata = read_metadata(write(tmp_path / "t.csv", "id,landmark_id\na,1\nb,2\na,1\nc,1\nc,2\nd,2\nc,3\n"))
    assert pairs(metadata) == {"a": "1", "b": "2", "d": "2"}
    assert metadata.contradictory == {"c": ["1", "2", "3"]}
    assert metadata.repeated == 3


def test_clean_rows_with_many_images(tmp_path):
    metadata = read_metadata(write(tmp_path / "t.csv", "landmark_id,images\n5,a b c\n9,d\n"))
    assert pairs(metadata) == {"a": "5", "b": "5", "c": "5", "d": "9"}


def test_names_come_from_the_category_file(tmp_path):
    write(
        tmp_path / "train_label_to_category.csv",
        "landmark_id,category\n7,http://commons.wikimedia.org/wiki/Category:Saint-%C3%89tienne_%28Caen%29\n8,Eiffel_Tower\n",
    )
    metadata = read_metadata(write(tmp_path / "train.csv", "id,url,landmark_id\n0001,,7\n00ff,,8\n"))
    assert metadata.names == {"7": "Saint-Étienne (Caen)", "8": "Eiffel Tower"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"image,label_id\n1,2\n", "image,label_id"),
        (b"", "known layouts"),
        (b"id,landmark_id\n", "no row"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "not a readable csv"),
        (b"id,landmark_id\n1\n", "not a readable csv"),
    ],
)
def test_what_is_no_metadata_is_said(tmp_path, content, said):
    with pytest.raises(UserError, match=r"--metadata.*") as caught:
        read_metadata(write(tmp_path / "train.csv", content))
    assert said in str(caught.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_metadata(tmp_path / "none.csv")


def release(tmp_path, counts: dict[str, int], shuffle: int | None = None):
    rows = [f"{landmark}x{number:03d},{landmark}" for landmark, count in counts.items() for number in range(count)]
    if shuffle is not None:
        random.Random(shuffle).shuffle(rows)
    return read_metadata(write(tmp_path / f"t{shuffle}.csv", "id,landmark_id\n" + "\n".join(rows) + "\n"))


def test_the_most_frequent_classes_ties_by_number_not_by_text(tmp_path):
    selection = select(release(tmp_path, {"10": 4, "9": 4, "100": 6, "3": 2}), classes=3)
    assert [selected.landmarks for selected in selection.classes] == [("100",), ("9",), ("10",)]


def test_the_order_of_rows_does_not_matter(tmp_path):
    counts = {"10": 14, "9": 14, "100": 26, "3": 12}
    found = [select(release(tmp_path, counts, shuffle), ratio=0.5, seed=3) for shuffle in (1, 2)]
    assert found[0] == found[1]
    assert found[0].digest() == found[1].digest()
    assert [len(selected.ids) for selected in found[0].classes] == [13, 7, 7, 6]
    assert select(release(tmp_path, counts), ratio=0.5, seed=4) != found[0]


def test_ratio_rounds_up_and_a_larger_draw_keeps_the_smaller(tmp_path):
    metadata = release(tmp_path, {"1": 10, "2": 11})
    small, large = select(metadata, ratio=0.25), select(metadata, cap=7)
    assert [len(selected.ids) for selected in small.classes] == [3, 3]
    assert [len(selected.ids) for selected in large.classes] == [7, 7]
    assert small.landmark.keys() < large.landmark.keys()


@pytest.mark.parametrize(("ratio", "kept"), [(0.7, 7), (0.1, 1), (0.07, 1), (0.3, 3), (1.0, 10)])
def test_a_ratio_is_the_decimal_that_was_typed(ratio, kept):
    assert drawn_count(10, ratio, None) == kept


def test_a_class_too_small_after_the_draw_is_not_selected(tmp_path):
    metadata = release(tmp_path, {"1": 40, "2": 20, "3": 10})
    assert [selected.landmarks for selected in select(metadata, min_per_class=10, ratio=0.5).classes] == [
        ("1",),
        ("2",),
    ]


def test_names_joined_and_ids_excluded(tmp_path):
    metadata = release(tmp_path, {"1": 3, "2": 4, "5": 6, "6": 2})
    metadata.names = {"1": "Great Wall", "2": "Great Wall", "5": "Eiffel Tower"}
    joined = select(metadata, join_names=True)
    assert [selected.landmarks for selected in joined.classes] == [("1", "2"), ("5",), ("6",)]
    assert joined.landmark["2x000"] == "2"
    assert [selected.landmarks for selected in select(metadata, exclude=["2"], join_names=True).classes] == [
        ("5",),
        ("1",),
        ("6",),
    ]
    with pytest.raises(UserError, match="--exclude 77"):
        select(metadata, exclude=["77"])


def test_too_few_classes_is_said(tmp_path):
    with pytest.raises(UserError, match="--min-per-class"):
        select(release(tmp_path, {"1": 9, "2": 3}), min_per_class=5)


def test_own_folders(tmp_path):
    names = ["100% house/c.webp", "Big Ben/a.jpg", "Big Ben/phone.HEIC", "Big Ben/sub/b.PNG"]
    for name in (*names, ".cache/x.jpg", "Big Ben/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    metadata = read_folders(tmp_path)
    assert sorted(metadata.paths.values()) == names
    assert set(metadata.landmarks) == {"Big%20Ben", "100%25%20house"}
    assert metadata.names["100%25%20house"] == "100% house"
    with pytest.raises(UserError, match="no subfolder with photos"):
        read_folders(tmp_path / "Big Ben/sub")


def test_own_csv(tmp_path):
    metadata = read_metadata(write(tmp_path / "t.csv", "path,label\nx/1.jpg,Big Ben\ny/2.jpg,Tower\n"))
    assert {metadata.paths[name]: label for name, label in pairs(metadata).items()} == {
        "x/1.jpg": "Big%20Ben",
        "y/2.jpg": "Tower",
    }


def test_own_csv_labels_are_taken_as_they_are_and_paths_stay_below_the_folder(tmp_path):
    rows = "path,label\n./x/1.jpg,None\nx/1.jpg,None\nx/2.jpg,\n,Tower\ny/3.jpg,Tower\n"
    metadata = read_metadata(write(tmp_path / "t.csv", rows))
    assert sorted(metadata.paths[name] for name in pairs(metadata)) == ["x/1.jpg", "y/3.jpg"]
    assert set(metadata.landmarks) == {"None", "Tower"} and (metadata.unlabelled, metadata.repeated) == (2, 1)
    for path in ("/home/me/1.jpg", "../1.jpg", "x/../../1.jpg"):
        with pytest.raises(UserError, match="not below --images"):
            read_metadata(write(tmp_path / "t.csv", f"path,label\n{path},a\n"))


@pytest.mark.parametrize("path", ["C:\\photos\\1.jpg", "C:1.jpg", "\\1.jpg", "..\\1.jpg", "\\\\host\\share\\1.jpg"])
def test_own_csv_on_windows_writes_forward_slashes_and_stays_below_the_folder(tmp_path, path, monkeypatch):
    monkeypatch.setattr(metadata_module, "PurePath", pathlib.PureWindowsPath)
    rows = "path,label\n.\\x\\1.jpg,a\nx/y\\2.jpg,b\n"
    metadata = read_metadata(write(tmp_path / "t.csv", rows))
    assert sorted(metadata.paths.values()) == ["x/1.jpg", "x/y/2.jpg"]
    with pytest.raises(UserError, match="not below --images"):
        read_metadata(write(tmp_path / "t.csv", f"path,label\n{path},a\n"))
