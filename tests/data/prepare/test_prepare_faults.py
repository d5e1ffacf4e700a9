"""Kills, Ctrl-C, full disks and vanishing sources: finished work is kept, and the next run gives the same result."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prepare_helpers import (
    COMMAND,
    command,
    encode,
    finish,
    image_id,
    scene,
    start_prepare,
    write_csv,
    write_folder,
)

from timm_landmark.cli import main
from timm_landmark.data.check import check_dataset
from timm_landmark.data.layout import read_dataset_info


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A csv and a folder of 4 classes x 40 photos, a few of them broken."""
    root = tmp_path_factory.mktemp("source")
    labels, images = {}, {}
    for index in range(160):
        name = image_id(index)
        labels[name] = 100 + index % 4
        images[name] = encode(scene(index, 320, 240), quality=85)[: 500 if index % 40 == 7 else None]
    return write_csv(root / "train.csv", labels), write_folder(root / "train", images)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    """The finished data set, and the seconds it took."""
    data = tmp_path_factory.mktemp("undisturbed") / "data"
    start = time.monotonic()
    assert finish(start_prepare(command(*source, data, "--workers", "2"), data.parent / "log")) == 0
    return data, time.monotonic() - start


def inodes(data: Path) -> dict[str, tuple[int, int]]:
    """Every finished picture under ``data``, wherever it is: id -> (inode, modification time)."""
    found = {}
    for path in data.rglob("*.jpg"):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        found[path.stem] = (state.st_ino, state.st_mtime_ns)
    return found


def kill_many(source, undisturbed, tmp_path, kills: int, images: str = "folder") -> None:
    finished, seconds = undisturbed
    rng = random.Random(kills)
    data, done = tmp_path / "data", 0
    arguments = command(source[0], source[1], data, "--workers", "2")
    before: dict[str, tuple[int, int]] = {}
    while done < kills:
        child = start_prepare(arguments, tmp_path / "log")
        deadline = time.monotonic() + rng.uniform(0.0, seconds)
        while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.002)
        try:
            if done % 2:
                os.kill(child, signal.SIGKILL)  # only the main process: its workers must end by themselves
            else:
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        done += 1
        now = inodes(data)
        redone = {name for name in before.keys() & now.keys() if before[name] != now[name]}
        assert not redone, "done twice"
        assert before.keys() <= now.keys(), "lost"
        before = now
        if (data / "sha256sums.txt").exists():  # the run had ended before the kill: start over
            shutil.rmtree(data)
            before = {}
    assert finish(start_prepare(arguments, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    now = inodes(data)
    assert all(now[name] == state for name, state in before.items()), "done twice"
    assert read_dataset_info(data)["digest"] == read_dataset_info(finished)["digest"]
    assert (data / "manifest.csv").read_bytes() == (finished / "manifest.csv").read_bytes()
    assert (data / "rejects.csv").read_bytes() == (finished / "rejects.csv").read_bytes()
    assert check_dataset(data) == []


def test_five_kills_at_random_moments(source, undisturbed, tmp_path):
    kill_many(source, undisturbed, tmp_path, 5)


@pytest.mark.full
def test_fifty_kills_at_random_moments(source, undisturbed, tmp_path):
    kill_many(source, undisturbed, tmp_path, 50)


def wait_for_images(data: Path, least: int, child: int) -> None:
    """Waits until ``least`` pictures are finished."""
    while len(inodes(data)) < least:
        assert os.waitpid(child, os.WNOHANG)[0] == 0, "ended before it could be disturbed"
        time.sleep(0.002)


def test_ctrl_c_stops_within_a_second_says_how_to_go_on_and_exits_130(source, undisturbed, tmp_path):
    data = tmp_path / "data"
    child = start_prepare(command(*source, data, "--workers", "2"), tmp_path / "log")
    wait_for_images(data, 10, child)
    start = time.monotonic()
    os.killpg(child, signal.SIGINT)  # to the whole group, as a terminal does
    assert finish(child) == 130
    assert time.monotonic() - start < 1
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert "repeat the same command to continue" in said, said
    with pytest.raises(ProcessLookupError):
        os.killpg(child, 0)  # no worker is left behind
    before = inodes(data)
    assert finish(start_prepare(command(*source, data, "--workers", "2"), tmp_path / "log")) == 0
    assert all(inodes(data)[name] == state for name, state in before.items())
    assert (data / "manifest.csv").read_bytes() == (undisturbed[0] / "manifest.csv").read_bytes()


def test_a_second_run_into_the_same_folder_refuses(source, tmp_path, capfd):
    data = tmp_path / "data"
    child = start_prepare(command(*source, data, "--workers", "2"), tmp_path / "log")
    wait_for_images(data, 5, child)
    os.killpg(child, signal.SIGSTOP)
    try:
        assert main(["prepare", *command(*source, data)]) == 2
    finally:
        os.killpg(child, signal.SIGCONT)
    assert str(data) in capfd.readouterr().err
    assert finish(child) == 0
    assert check_dataset(data) == []


def test_a_folder_with_another_selection_is_refused_with_what_differs(source, undisturbed, tmp_path, capfd):
    data = shutil.copytree(undisturbed[0], tmp_path / "data")
    before = inodes(data)
    assert main(["prepare", *command(*source, data, "--classes", "2", "--size", "64")]) == 2
    said = capfd.readouterr().err
    assert "classes" in said and "size" in said and "seed" not in said
    assert inodes(data) == before and check_dataset(data) == []


def test_a_finished_folder_is_left_as_it_is(source, undisturbed, tmp_path):
    data = shutil.copytree(undisturbed[0], tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    assert main(["prepare", *command(*source, data)]) == 0
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


@pytest.mark.parametrize("name", ["holiday.jpg", "train/0000/holiday.jpg"])
def test_a_folder_with_foreign_files_is_refused(source, tmp_path, capfd, name):
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    assert main(["prepare", *command(*source, tmp_path / "data")]) == 2
    assert name.partition("/")[0] in capfd.readouterr().err
    assert [file for file in (tmp_path / "data").rglob("*") if file.is_file()] == [path]


def test_a_source_that_vanishes_midway(source, undisturbed, tmp_path):
    """Its photos must not become rejects: the run ends, and continues when the source is back."""
    csv, folder = shutil.copy(source[0], tmp_path / "train.csv"), shutil.copytree(source[1], tmp_path / "train")
    data = tmp_path / "data"
    child = start_prepare(command(csv, folder, data, "--workers", "2"), tmp_path / "log")
    wait_for_images(data, 5, child)
    folder.rename(tmp_path / "elsewhere")
    assert finish(child) == 2, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert str(folder) in said and "Traceback" not in said
    assert not (data / "dataset.json").exists()
    before = inodes(data)
    (tmp_path / "elsewhere").rename(folder)
    assert finish(start_prepare(command(csv, folder, data), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert all(inodes(data)[name] == state for name, state in before.items())
    assert (data / "manifest.csv").read_bytes() == (undisturbed[0] / "manifest.csv").read_bytes()


SMALL_DISK = """
set -e
mount -t tmpfs -o size=2m tmpfs "$1"
status=0; "$2" -c "$3" prepare "${@:4}" || status=$?
echo "first: $status"
mount -o remount,size=100m "$1"
"$2" -c "$3" prepare "${@:4}"
cp -r "$1/data" "$1.copy"
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="needs permission to mount a small file system in a user namespace",
)
def test_a_full_disk_is_said_clearly_and_the_next_run_goes_on(source, undisturbed, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = ["unshare", "-rm", "bash", "-c", SMALL_DISK, "bash", str(disk), sys.executable, COMMAND]
    result = subprocess.run([*script, *command(*source, disk / "data")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "first: 2" in result.stdout
    assert "No space left on device" in result.stderr and "Traceback" not in result.stderr
    copy = tmp_path / "disk.copy"
    assert (copy / "manifest.csv").read_bytes() == (undisturbed[0] / "manifest.csv").read_bytes()
    assert check_dataset(copy) == []


def test_a_target_that_cannot_be_written(source, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)

    def as_nobody() -> int:
        if os.geteuid() == 0:
            for folder in [tmp_path, *tmp_path.parents, source[0].parent, source[0].parent.parent]:
                if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o005:
                    folder.chmod(0o755)
            os.setresuid(65534, 65534, 65534)
        return main(["prepare", *command(*source, tmp_path / "locked" / "data")])

    from prepare_helpers import start as start_child

    assert finish(start_child(as_nobody, tmp_path / "log")) == 2
    said = (tmp_path / "log").read_text()
    assert "Permission denied" in said and "Traceback" not in said
