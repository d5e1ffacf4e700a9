"""The whole ``prepare --download``, from a loopback server with the layout of GLDv2's."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from download_server import QUICK, Server, md5
from prepare_helpers import (
    command,
    encode,
    finish,
    image_id,
    prepare,
    read_csv,
    scene,
    start_prepare,
    write_csv,
    write_folder,
    write_tars,
)

from timm_landmark.data.check import check_dataset
from timm_landmark.data.prepare.download import METADATA

LABELS = {image_id(index): 100 + index % 2 for index in range(32)}
IMAGES = {image_id(index): encode(scene(index), quality=85) for index in range(32)}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Files of a small release by their path on the server: csv files, four shards, their md5 sums."""
    folder, files = tmp_path_factory.mktemp("release"), {}
    write_csv(folder / "train.csv", LABELS)
    (folder / "train_label_to_category.csv").write_text(
        "landmark_id,category\n100,Category:A_place\n101,Category:Another\n"
    )
    rows = "".join(f"{name},u,someone,CC BY 4.0,t\n" for name in IMAGES)
    (folder / "train_attribution.csv").write_text(f"id,url,author,license,title\n{rows}")
    for name in METADATA:
        files[f"metadata/{name}"] = (folder / name).read_bytes()
    for path in write_tars(folder / "tars", IMAGES, 4).iterdir():
        files[f"train/{path.name}"] = path.read_bytes()
        files[f"md5sum/train/md5.{path.stem}.txt"] = f"{md5(path.read_bytes())}  {path.name}\n".encode()
    return files


@pytest.fixture
def server(release, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("timm_landmark.data.prepare.download.Retry", lambda: QUICK)
    with Server() as server:
        server.files = dict(release)
        yield server


@pytest.fixture(scope="module")
def from_folder(tmp_path_factory):
    """The same photos, prepared from a folder."""
    folder = tmp_path_factory.mktemp("folder")
    csv = write_csv(folder / "train.csv", LABELS)
    assert prepare(*command(csv, write_folder(folder / "photos", IMAGES), folder / "data")) == 0
    return folder / "data"


def download(server: Server, output: Path, *more: str) -> list[str]:
    return ["--download", "--base-url", server.url, "--output", str(output), "--seed", "5", *more]


def asked(server: Server) -> list[str]:
    """Paths requested since the last call."""
    paths = [path for path, _ in server.requests]
    server.requests.clear()
    return paths


def test_from_a_bad_server_it_is_the_set_from_the_folder(server, from_folder, tmp_path):
    """Every file has faults, one shard is on disk at a time, and nothing of the download remains."""
    for path in server.files:
        server.faults[path] = ["cut", "status 503", *["wrong bytes"] * path.startswith("train/")]
    assert prepare(*download(server, tmp_path / "data")) == 0
    assert not any(server.faults.values())
    for name in ("manifest.csv", "rejects.csv"):
        assert (tmp_path / "data" / name).read_bytes() == (from_folder / name).read_bytes()
    assert [row["name"] for row in read_csv(tmp_path / "data/classes.csv")] == ["A place", "Another"]
    card = (tmp_path / "data/README.md").read_text()
    assert "CC BY 4.0 | 32" in card and "prepare --download --output DATA" in card
    assert os.listdir(tmp_path) == ["data"] and check_dataset(tmp_path / "data") == []


def test_photos_of_finished_shards_are_not_lost_when_the_output_is_deleted(server, from_folder, tmp_path):
    """The record of finished shards is stored with their photos, and deleted with them."""
    shard = server.files.pop("train/images_002.tar")
    assert prepare(*download(server, tmp_path / "data")) == 2  # after two shards
    shutil.rmtree(tmp_path / "data")
    server.files["train/images_002.tar"] = shard
    assert prepare(*download(server, tmp_path / "data")) == 0
    for name in ("manifest.csv", "rejects.csv"):
        assert (tmp_path / "data" / name).read_bytes() == (from_folder / name).read_bytes()


def test_an_interrupted_download_goes_on_and_keeps_the_rejects_of_finished_shards(server, tmp_path):
    bad = sorted(IMAGES)[0]  # in the first shard
    tars = write_tars(tmp_path / "tars", IMAGES | {bad: b"<html>"}, 4)
    content = (tars / "images_000.tar").read_bytes()
    server.files["train/images_000.tar"] = content
    server.files["md5sum/train/md5.images_000.txt"] = md5(content).encode()
    shard = server.files.pop("train/images_002.tar")
    assert prepare(*download(server, tmp_path / "data")) == 2
    server.files["train/images_002.tar"] = shard
    asked(server)
    assert prepare(*download(server, tmp_path / "data")) == 0
    assert {path for path in asked(server) if path.startswith("train/")} == {
        "train/images_002.tar",
        "train/images_003.tar",
    }
    reasons = {row["image_id"]: row["reason"] for row in read_csv(tmp_path / "data/rejects.csv")}
    assert list(reasons) == [bad] and reasons[bad].startswith("html")


def test_a_finished_set_asks_the_server_for_nothing(server, tmp_path, capfd):
    assert prepare(*download(server, tmp_path / "data")) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    asked(server)
    assert prepare(*download(server, tmp_path / "data")) == 0
    assert "is already finished" in capfd.readouterr().out
    assert asked(server) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert prepare(*download(server, tmp_path / "data", "--size", "64")) == 2
    assert asked(server) == []


def test_a_dry_run_leaves_nothing_behind(server, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert prepare(*download(server, tmp_path / "data", "--dry-run")) == 0
    assert "2 classes, 32 photos" in capfd.readouterr().out
    assert sorted(asked(server)) == [f"metadata/{name}" for name in sorted(METADATA[:2])]
    assert list(tmp_path.rglob("*")) == [tmp_path / "temporary"]


def test_shards_are_kept_beside_the_output_only_when_asked_for(server, tmp_path):
    assert prepare(*download(server, tmp_path / "data", "--keep-shards")) == 0
    assert sorted(os.listdir(tmp_path)) == ["data", "data.download"]
    kept = {path.name for path in (tmp_path / "data.download").rglob("*.*")}
    assert kept == {*METADATA, *(f"{name}_{n:03d}{end}" for n in range(4) for name, end in KEPT)}
    shutil.rmtree(tmp_path / "data")
    asked(server)
    assert prepare(*download(server, tmp_path / "data", "--keep-shards")) == 0
    assert asked(server) == [] and check_dataset(tmp_path / "data") == []


KEPT = (("images", ".tar"), ("md5.images", ".txt"))


def test_a_second_run_is_refused_before_it_downloads(server, tmp_path, capfd):
    server.slow = 0.2
    server.files["metadata/train.csv"] += b"\n" * 200_000  # some seconds' worth
    child = start_prepare(download(server, tmp_path / "data"), tmp_path / "log")
    while not list(tmp_path.rglob("train.csv.part")):
        time.sleep(0.01)
    asked(server)
    try:
        assert prepare(*download(server, tmp_path / "data")) == 2
        assert "another run is writing" in capfd.readouterr().err
        assert asked(server) == []
    finally:
        os.killpg(child, signal.SIGKILL)
        finish(child)
    server.slow = 0
    assert prepare(*download(server, tmp_path / "data")) == 0
