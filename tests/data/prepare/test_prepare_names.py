"""Names of files, folders, archives and members that are not UTF-8: photos are kept, odd bytes are escaped."""

import io
import os
import shlex
import tarfile
import zipfile
from pathlib import Path

import pytest
from prepare_helpers import command, encode, image_id, member_name, read_csv, scene, write_csv

from timm_landmark.cli import main
from timm_landmark.data.check import check_dataset
from timm_landmark.inference.photos import find_photos

ODD = b"\xe9t\xe9".decode("utf-8", "surrogateescape")  # "été" as Latin-1 has it


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try:
        (tmp_path / ODD).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (tmp_path / ODD).unlink()


def prepared(data: Path, arguments: list[str], capsys) -> list[dict[str, str]]:
    """The manifest after a dry run, a run and its repetition, which all exit with 0 and print no odd bytes."""
    for more in (["--dry-run"], [], []):
        assert main(["prepare", *arguments, "--size", "64", "--workers", "2", *more]) == 0
        out, err = capsys.readouterr()
        assert out and out.replace("\n", "").isprintable()
        assert "Traceback" not in err
    assert "is already finished" in out
    assert check_dataset(data) == []
    rows = read_csv(data / "manifest.csv")
    assert read_csv(data / "rejects.csv") == []
    return rows


def test_own_photos_and_class_folders(tmp_path, capsys):
    photos = tmp_path / "photos"
    for index in range(12):
        folder = photos / (f"Caf{ODD} 1" if index % 2 else "Tower")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"p{ODD} {index}.jpg").write_bytes(encode(scene(index)))
    data = tmp_path / f"data{ODD}"
    rows = prepared(data, ["--images", str(photos), "--output", str(data)], capsys)
    shown = ("Tower", "Caf\\xe9t\\xe9 1")
    assert {row["source"] for row in rows} == {f"{shown[n % 2]}/p\\xe9t\\xe9 {n}.jpg" for n in range(12)}
    classes = {row["landmark_id"]: row["name"] for row in read_csv(data / "classes.csv")}
    assert classes == {"Caf%E9t%E9%201": "Caf\\xe9t\\xe9 1", "Tower": "Tower"}


def test_two_names_that_differ_in_one_odd_byte_are_two_photos(tmp_path, capsys):
    photos = tmp_path / "photos"
    names = [b"a\xe9.jpg", b"a\xe8.jpg", b"a\\xe9.jpg", "a\ufffd.jpg".encode()]
    for label in range(2):
        (photos / str(label)).mkdir(parents=True)
        for number, name in enumerate(names):
            path = os.fsencode(photos / str(label)) + b"/" + name
            Path(os.fsdecode(path)).write_bytes(encode(scene(10 * label + number)))
    data = tmp_path / "data"
    rows = prepared(data, ["--images", str(photos), "--output", str(data)], capsys)
    assert len(rows) == 8 and len({row["sha256"] for row in rows}) == 8


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_members_and_the_names_of_archive_and_csv(tmp_path, capsys, form):
    images = {image_id(index): encode(scene(index)) for index in range(12)}
    archive = tmp_path / f"photos{ODD}.{form}"
    if form == "tar":
        with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as members:
            for name, content in images.items():
                info = tarfile.TarInfo(f"{ODD}/{member_name(name)}")
                info.size = len(content)
                members.addfile(info, io.BytesIO(content))
    else:
        with zipfile.ZipFile(archive, "w") as members:
            for name, content in images.items():
                members.writestr(f"\u00e9tX/{member_name(name)}", content)
        # flagged as UTF-8, but the bytes are not; of the same length, so that the rest stays valid
        archive.write_bytes(archive.read_bytes().replace("\u00e9tX/".encode(), b"\xe9t\xe9_/"))
    csv = write_csv(tmp_path / f"train{ODD}.csv", {name: number % 2 for number, name in enumerate(images)})
    data = tmp_path / f"data{ODD}"
    rows = prepared(data, command(csv, archive, data), capsys)
    last = "_" if form == "zip" else ""
    assert {row["source"] for row in rows} == {f"\\xe9t\\xe9{last}/{member_name(name)}" for name in images}
    (line,) = [line for line in (data / "README.md").read_text().splitlines() if line.startswith("timm-landmark ")]
    assert shlex.split(line)[:6] == [
        *("timm-landmark", "prepare", "--metadata", "train\\xe9t\\xe9.csv", "--images"),
        f"photos\\xe9t\\xe9.{form}",
    ]


def test_the_command_in_the_card_is_one_that_a_shell_takes(tmp_path, capsys):
    images = tmp_path / "my photos\n```\n<script>"
    for index in range(6):
        (images / str(index % 2)).mkdir(parents=True, exist_ok=True)
        (images / str(index % 2) / f"{index}.jpg").write_bytes(encode(scene(index)))
    data = tmp_path / "data"
    prepared(data, ["--images", str(images), "--output", str(data)], capsys)
    text = (data / "README.md").read_text()
    assert text.count("\n```\n") == 2, "only the card closes its code block"
    (line,) = [line for line in text.splitlines() if line.startswith("timm-landmark ")]
    assert shlex.split(line)[2:4] == ["--images", "my photos\\n```\\n<script>"]


def test_predict_finds_them_too(tmp_path):
    (tmp_path / f"{ODD}.jpg").write_bytes(b"x")
    assert [path.name for path in find_photos([tmp_path])] == [f"{ODD}.jpg"]
