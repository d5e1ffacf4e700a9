"""The whole command: what it selects, splits, writes, prints and refuses."""

import hashlib
import random
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image
from prepare_helpers import (
    command,
    encode,
    image_id,
    prepare,
    read_csv,
    run_prepare,
    scene,
    write_csv,
    write_folder,
    write_tars,
)

from timm_landmark.data.check import check_dataset
from timm_landmark.data.layout import data_digest, read_dataset_info


def stored(data) -> dict[str, bytes]:
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in sorted(data.glob("*/*/*.jpg"))}


@pytest.fixture(scope="module")
def data(source, tmp_path_factory):
    data = tmp_path_factory.mktemp("prepared") / "data"
    assert prepare(*command(*source, data)) == 0
    return data


def test_what_is_written(data):
    names = {path.name for path in data.iterdir()}
    tables = {"classes.csv", "class_map.txt", "manifest.csv", "rejects.csv", "dataset.json", "sha256sums.txt"}
    assert names == tables | {"train", "validation", "test", "README.md", "classes.png", "rejects.png"}
    assert check_dataset(data) == []
    counts = {(row["train"], row["validation"], row["test"]) for row in read_csv(data / "classes.csv")}
    assert counts == {("9", "2", "1")}  # of 12, 9 : 1.5 : 1.5; a tie goes to the first
    with Image.open(next(data.glob("train/*/*.jpg"))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (256, 256))
    info = read_dataset_info(data)
    assert info["seed"] == 5 and info["arguments"]["split"] == [6, 1, 1] and "Pillow" in info["decoder"]


def test_nothing_names_a_path_of_the_machine(data, source):
    for path in data.iterdir():
        if path.is_file() and path.suffix != ".png":
            assert str(source[0].parent) not in path.read_text() and str(data) not in path.read_text()


def test_order_of_rows_and_number_of_workers_do_not_matter(source, data, tmp_path):
    lines = source[0].read_text().splitlines()
    random.Random(1).shuffle(body := lines[1:])
    (tmp_path / "shuffled.csv").write_text("\n".join([lines[0], *body]) + "\n")
    assert prepare(*command(tmp_path / "shuffled.csv", source[1], tmp_path / "data", "--workers", "1")) == 0
    assert stored(tmp_path / "data") == stored(data)
    assert (tmp_path / "data/manifest.csv").read_bytes() == (data / "manifest.csv").read_bytes()


def test_four_tars_give_the_same_bytes_as_the_folder(source, data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = {path.stem: path.read_bytes() for path in source[1].rglob("*.jpg")}
    write_tars(tmp_path / "tars", images, 4)
    assert prepare(*command(source[0], tmp_path / "tars", tmp_path / "data")) == 0
    assert stored(tmp_path / "data") == stored(data)
    assert (tmp_path / "data/manifest.csv").read_bytes() == (data / "manifest.csv").read_bytes()


def test_shards_have_the_same_manifest_and_digest(source, data, tmp_path):
    assert prepare(*command(*source, tmp_path / "data", "--format", "webdataset")) == 0
    assert read_dataset_info(tmp_path / "data")["digest"] == read_dataset_info(data)["digest"]
    assert (tmp_path / "data/_info.json").exists() and not (tmp_path / "data/train").exists()
    assert check_dataset(tmp_path / "data") == []


def test_the_digest_does_not_tell_where_the_photos_lay(source, data, tmp_path, monkeypatch):
    """From the parent folder or a flat folder, ``source`` in the manifest differs, but the digest does not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = {path.stem: path.read_bytes() for path in source[1].rglob("*.jpg")}
    (tmp_path / "flat").mkdir()
    for name, content in images.items():
        (tmp_path / "flat" / f"{name}.jpg").write_bytes(content)
    for place in (source[1].parent, tmp_path / "flat"):
        output = tmp_path / f"from {place.name}"
        assert prepare(*command(source[0], place, output)) == 0
        assert (output / "manifest.csv").read_bytes() != (data / "manifest.csv").read_bytes()
        assert read_dataset_info(output)["digest"] == read_dataset_info(data)["digest"]
        assert check_dataset(output) == []
    without = [line.rpartition(",")[0] for line in (data / "manifest.csv").read_text().splitlines()]
    by_hand = hashlib.sha256("".join(f"{line}\n" for line in without).encode()).hexdigest()
    assert read_dataset_info(data)["digest"] == data_digest(data) == by_hand


def test_more_photos_of_one_class_do_not_reshuffle_another(source, data, tmp_path):
    labels = {row["id"]: int(row["landmark_id"]) for row in read_csv(source[0])}
    folder = shutil.copytree(source[1], tmp_path / "train")
    more = {image_id(index): encode(scene(index)) for index in range(1000, 1006)}
    write_folder(folder, more)
    csv = write_csv(tmp_path / "more.csv", labels | dict.fromkeys(more, 103))
    assert prepare(*command(csv, folder, tmp_path / "data")) == 0
    before, after = (
        {row["image_id"]: row for row in read_csv(path / "manifest.csv")} for path in (data, tmp_path / "data")
    )
    assert len(after) == len(before) + 6
    assert all(after[name]["split"] == row["split"] for name, row in before.items() if row["landmark_id"] != "103")


def test_rejects_and_classes_left_out_follow_the_rule(tmp_path):
    """Class 3 loses too many photos, class 4 has only one view; the same bytes and one id are under 1 and 2."""
    labels, images = {}, {}

    def add(index: int, label: int, content: bytes) -> str:
        labels[image_id(index)], images[image_id(index)] = label, content
        return image_id(index)

    for index in range(40):
        add(index, 1 + index % 2, encode(scene(index)))
    same = [add(100, 1, encode(scene(100))), add(101, 2, encode(scene(100)))]
    for index in range(200, 208):
        add(index, 3, encode(scene(index)) if index < 202 else b"<html>gone</html>")
    series = [add(index, 4, encode(scene(300), quality=60 + index % 10)) for index in range(300, 308)]
    gone = add(400, 1, b"")
    missing = image_id(401)
    csv = write_csv(tmp_path / "t.csv", labels | {missing: 2})
    with open(csv, "a") as file:
        file.write(f"{image_id(0)},,2\n")  # 0 is already under 1
    assert prepare(*command(csv, write_folder(tmp_path / "train", images), tmp_path / "data")) == 0
    reasons = {row["image_id"]: row["reason"] for row in read_csv(tmp_path / "data/rejects.csv")}
    assert {row["landmark_id"] for row in read_csv(tmp_path / "data/classes.csv")} == {"1", "2"}
    categories = Counter(reason.partition(":")[0] for reason in reasons.values())
    once = dict.fromkeys(["empty", "missing", "two labels"], 1)
    assert categories == {"class left out": 10, "html": 6, "same bytes under two labels": 2, **once}
    assert all(reasons[name].startswith("same bytes") for name in same)
    assert all("fewer groups" in reasons[name] for name in series)
    assert reasons[gone] == "empty" and reasons[missing] == "missing" and "both" in reasons[image_id(0)]
    assert check_dataset(tmp_path / "data") == []


def test_near_duplicates_stay_on_one_side_and_are_counted(tmp_path):
    labels, images = {}, {}
    for index in range(60):
        view = scene(index // 3 * 2)
        labels[image_id(index)] = index // 30
        images[image_id(index)] = encode(view.convert("L") if index % 3 == 1 else view, quality=95 - 20 * (index % 3))
    source = write_csv(tmp_path / "t.csv", labels), write_folder(tmp_path / "train", images)
    torn = {}
    for by in ("group", "image"):
        assert prepare(*command(*source, tmp_path / by, "--split-by", by)) == 0
        splits = {row["image_id"]: row["split"] for row in read_csv(tmp_path / by / "manifest.csv")}
        torn[by] = sum(len({splits[image_id(3 * view + k)] for k in range(3)}) > 1 for view in range(20))
    assert torn["group"] == 0 < torn["image"]
    assert read_dataset_info(tmp_path / "group")["groups"]["groups_torn_by_a_random_split"] == torn["image"]


def test_names_with_line_breaks_do_not_break_the_tables(source, tmp_path):
    """A category may contain one as %0D, an author's name one as it is: every table is read back at the end."""
    csv = shutil.copy(source[0], tmp_path / "train.csv")
    (tmp_path / "train_label_to_category.csv").write_text(
        "landmark_id,category\n100,Category:Two%0Dlines\n101,Category:Two%0Alines_%00\n102,Category:%22A%22%2C_b\n"
    )
    author = '"some\rone"'
    rows = "".join(f"{row['id']},u,{author},CC BY 4.0,t\n" for row in read_csv(source[0]))
    (tmp_path / "train_attribution.csv").write_text(f"id,url,author,license,title\n{rows}", newline="")
    assert prepare(*command(csv, source[1], tmp_path / "data")) == 0
    names = {row["landmark_id"]: row["name"] for row in read_csv(tmp_path / "data/classes.csv")}
    assert names == {"100": "Two lines", "101": "Two lines", "102": '"A", b', "103": ""}
    assert {row["author"] for row in read_csv(tmp_path / "data/attribution.csv")} == {"some\rone"}
    assert check_dataset(tmp_path / "data") == []


def test_a_label_with_a_line_break_is_read_back(tmp_path):
    for index in range(16):
        path = tmp_path / "photos" / ("Old\rMill" if index % 2 else "Tower") / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(scene(index)))
    assert prepare("--images", str(tmp_path / "photos"), "--output", str(tmp_path / "data")) == 0
    assert {row["name"] for row in read_csv(tmp_path / "data/classes.csv")} == {"Old Mill", "Tower"}
    assert any(row["source"].startswith("Old\\rMill/") for row in read_csv(tmp_path / "data/manifest.csv"))
    assert check_dataset(tmp_path / "data") == []


def test_dry_run_tells_and_writes_nothing(source, tmp_path, capfd):
    assert prepare(*command(*source, tmp_path / "data", "--dry-run", "--classes", "3")) == 0
    said = capfd.readouterr().out
    assert "3 classes, 36 photos" in said and "found: 36 photos, 0 missing" in said and "GB on disk" in said
    assert not (tmp_path / "data").exists()


def test_own_photos_by_folders_and_by_csv(tmp_path):
    for index in range(24):
        path = tmp_path / "photos" / ("Old Mill" if index % 2 else "Tower") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(scene(index), "PNG"))
    assert prepare("--images", str(tmp_path / "photos"), "--output", str(tmp_path / "a")) == 0
    rows = [
        f"{path.relative_to(tmp_path / 'photos')},{path.parent.name}" for path in (tmp_path / "photos").rglob("*.png")
    ]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    assert prepare(*command(tmp_path / "t.csv", tmp_path / "photos", tmp_path / "b", "--seed", "0")) == 0
    assert {row["name"] for row in read_csv(tmp_path / "a/classes.csv")} == {"Old Mill", "Tower"}
    assert (tmp_path / "a/manifest.csv").read_bytes() == (tmp_path / "b/manifest.csv").read_bytes()
    assert read_csv(tmp_path / "a/manifest.csv")[0]["source"].endswith(".png")
    assert check_dataset(tmp_path / "a") == []


def test_own_photos_of_a_format_that_is_not_read_are_listed(source, tmp_path):
    for index in range(8):
        path = tmp_path / f"mine/{'ab'[index % 2]}/{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(scene(index)))
    (tmp_path / "mine/a/phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    strip = Image.new("RGB", (3000, 2))
    (tmp_path / "mine/b/strip.png").write_bytes(encode(strip, "PNG"))
    assert prepare("--images", str(tmp_path / "mine"), "--output", str(tmp_path / "data"), "--resize", "short") == 0
    reasons = sorted(row["reason"] for row in read_csv(tmp_path / "data/rejects.csv"))
    assert len(reasons) == 2 and reasons[0].startswith("too long") and reasons[1].startswith("undecodable")


def test_short_keeps_the_ratio(source, tmp_path):
    assert prepare(*command(*source, tmp_path / "data", "--resize", "short", "--size", "60")) == 0
    with Image.open(next((tmp_path / "data").glob("train/*/*.jpg"))) as image:
        assert image.size == (80, 60)


def test_the_command_starts_without_torch(source, tmp_path):
    program = (
        "import sys, timm_landmark_cli\n"
        f"sys.argv[1:] = {['prepare', *command(*source, tmp_path / 'data')]!r}\n"
        "code = timm_landmark_cli.main()\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_as_a_process_it_prints_the_sums(source, tmp_path):
    result = run_prepare(*command(*source, tmp_path / "data"))
    assert result.returncode == 0 and "4 classes, 48 photos (train 36, validation 8, test 4)" in result.stdout
    assert "rejected: none" in result.stdout
    assert f"digest {data_digest(tmp_path / 'data')};" in result.stdout
