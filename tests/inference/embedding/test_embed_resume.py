"""``embed`` after a kill or Ctrl-C at any moment: the file is the same, and other parts are not mixed in."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from embed_cases import PARTS, PHOTOS, ROWS, embed
from PIL import Image
from pyarrow import parquet
from run_helpers import make_run

from timm_landmark.inference.embedding import store


@pytest.mark.parametrize(
    ("write", "moment"),
    [(4, "torn"), (PARTS + 2, "torn")]
    + [
        pytest.param(write, moment, marks=pytest.mark.full)
        for write in (1, 2, PARTS + 1, PARTS + 2)
        for moment in ("before", "torn", "after")
        if (write, moment) != (PARTS + 2, "torn")
    ],
)
def test_killed_at_any_moment_it_goes_on_to_the_same_file(data, run, whole, tmp_path, small_parts, read, write, moment):
    """The first write is job.json, then come the parts, the last is the file."""
    output = tmp_path / "v.parquet"
    helper = Path(__file__).parents[2] / "helpers" / "kill_at_replace.py"
    words = [sys.executable, helper, write, moment, ROWS, "embed", run, data / "test", "--output", output]
    words += ["--device", "cpu", "-b", 3]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    written = min(write - 2 + (moment == "after"), PARTS) if write > 1 else 0
    assert output.exists() == (write == PARTS + 2 and moment == "after")
    assert len(list(store.parts_folder(output).glob("0*.parquet"))) == written
    assert embed(run, data / "test", output) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert len(read) == max(0, PHOTOS - written * ROWS)
    assert list(tmp_path.iterdir()) == [output]


def test_the_same_command_again_reads_nothing(data, run, whole, read, capsys, small_parts):
    before = whole.stat().st_mtime_ns
    assert embed(run, data / "test", whole) == 0
    assert (whole.stat().st_mtime_ns, read) == (before, [])
    assert f"{whole} is finished" in capsys.readouterr().out
    content = whole.read_bytes()
    assert embed(run, data / "test", whole, "--overwrite") == 0
    assert len(read) == PHOTOS and whole.read_bytes() == content


@pytest.fixture
def interrupted(data, run, tmp_path, small_parts, monkeypatch):
    """A file of which two parts are written; the photos are a copy."""
    photos = tmp_path / "photos"
    shutil.copytree(data / "test", photos)
    write_part = store.Store.write_part

    def stop(self, number, *more):
        if number == 2:
            raise KeyboardInterrupt
        write_part(self, number, *more)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "write_part", stop)
        assert embed(run, photos, tmp_path / "v.parquet") == 130
    assert len(list((tmp_path / "v.parquet.parts").glob("0*.parquet"))) == 2
    return tmp_path


def test_it_goes_on_after_ctrl_c(interrupted, run, whole, read, capsys):
    assert embed(run, interrupted / "photos", interrupted / "v.parquet") == 0
    assert "going on after 8 of 18 photos" in capsys.readouterr().out
    assert len(read) == 10
    files = (interrupted / "v.parquet", whole)
    ours, theirs = (parquet.read_table(file, columns=["sha256", "embedding"]) for file in files)
    assert ours.equals(theirs)


@pytest.mark.parametrize("change", ["removed", "added", "changed"])
def test_other_photos_are_not_mixed_with_the_parts(interrupted, run, capsys, read, change):
    output, photo = interrupted / "v.parquet", next((interrupted / "photos").rglob("*.jpg"))
    if change == "removed":
        photo.unlink()
    elif change == "added":
        shutil.copy(photo, photo.with_name("new.jpg"))
    else:
        Image.new("RGB", (72, 72), "red").save(photo)
    assert embed(run, interrupted / "photos", output) == 2
    error = capsys.readouterr().err
    assert f"the interrupted run in {output}.parts has other photos" in error and "--overwrite" in error
    assert read == [] and not output.exists()
    assert embed(run, interrupted / "photos", output, "--overwrite") == 0
    assert len(read) == PHOTOS + {"removed": -1, "added": 1, "changed": 0}[change]
    assert not store.parts_folder(output).exists()


def test_another_model_is_not_mixed_with_the_parts_or_the_file(interrupted, data, run, whole, capsys):
    other = make_run(interrupted / "other", data=data, model="test_resnet", names=("a", "b"))
    assert embed(other, interrupted / "photos", interrupted / "v.parquet") == 2
    assert "has other weights; repeat its command" in capsys.readouterr().err
    assert embed(other, data / "test", whole) == 2
    assert f"{whole} exists, with other weights; give another file, or --overwrite" in capsys.readouterr().err
    large = make_run(interrupted / "large", data=data, model="test_resnet", size=96)
    assert embed(large, data / "test", whole) == 2
    assert "exists, with another transform" in capsys.readouterr().err


def test_a_damaged_part_is_written_again(interrupted, run, whole, read):
    part = interrupted / "v.parquet.parts" / "000001.parquet"
    part.write_bytes(part.read_bytes()[:-50])
    assert embed(run, interrupted / "photos", interrupted / "v.parquet") == 0
    assert len(read) == PHOTOS - ROWS


def test_two_processes_do_not_write_the_same_file(interrupted, run, capsys):
    output = interrupted / "v.parquet"
    lock = store.FileLock(store.parts_folder(output) / store.LOCK)
    with lock:
        assert embed(run, interrupted / "photos", output) == 2
    assert "another process is writing it" in capsys.readouterr().err
    assert embed(run, interrupted / "photos", output) == 0
