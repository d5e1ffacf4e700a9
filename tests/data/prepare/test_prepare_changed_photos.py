"""Photos that are repaired, or gone, when the command is repeated: no decision of the earlier run is kept."""

import json
import shutil

from prepare_helpers import command, image_id, prepare, read_csv

from timm_landmark.data.check import check_dataset
from timm_landmark.data.prepare import place


def interrupted(monkeypatch, *arguments):
    """Runs the command and interrupts it once all photos are placed."""

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, "_write_sheets", interrupt)
        assert prepare(*arguments) == 130


def test_strict_makes_a_reject_an_error_and_the_repair_goes_on(source, tmp_path, capfd):
    folder = shutil.copytree(source[1], tmp_path / "train")
    victim = next(folder.rglob("*.jpg"))
    content = victim.read_bytes()
    victim.unlink()
    assert prepare(*command(source[0], folder, tmp_path / "data", "--strict")) == 2
    assert victim.stem in capfd.readouterr().err and not (tmp_path / "data/dataset.json").exists()
    victim.write_bytes(content)
    assert prepare(*command(source[0], folder, tmp_path / "data", "--strict")) == 0


def test_strict_reads_a_repaired_photo_again(source, tmp_path, capfd):
    """Even if the earlier run had read all of its photos."""
    folder = shutil.copytree(source[1], tmp_path / "train")
    first, second = sorted(folder.rglob("*.jpg"))[:2]
    whole = {path: path.read_bytes() for path in (first, second)}
    for path in whole:
        path.write_bytes(whole[path][:200])
    arguments = command(source[0], folder, tmp_path / "data", "--strict")
    assert prepare(*arguments) == 2
    error = capfd.readouterr().err
    assert "2 photos rejected" in error and first.stem in error and second.stem in error
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.jpg")}
    first.write_bytes(whole[first])
    assert prepare(*arguments) == 2
    error = capfd.readouterr().err
    assert "1 photos rejected" in error and first.stem not in error and f"{second.stem}: " in error
    assert all(path.stat().st_mtime_ns == time for path, time in stored.items()), "read again although it was stored"
    second.write_bytes(whole[second])
    assert prepare(*arguments) == 0
    assert read_csv(tmp_path / "data/rejects.csv") == []


def test_a_photo_rejected_by_an_interrupted_run_is_read_again(source, tmp_path, monkeypatch):
    folder = shutil.copytree(source[1], tmp_path / "train")
    victim = next(folder.rglob("*.jpg"))
    content = victim.read_bytes()
    victim.write_bytes(b"")

    interrupted(monkeypatch, *command(source[0], folder, tmp_path / "data"))
    victim.write_bytes(content)
    assert prepare(*command(source[0], folder, tmp_path / "data")) == 0
    assert read_csv(tmp_path / "data/rejects.csv") == []


def test_pictures_placed_before_a_kill_move_when_sources_changed_since(source, tmp_path, monkeypatch):
    """Killed while moving pictures, then a whole class is missing: nothing of it may stay in the data set."""
    images = shutil.copytree(source[1], tmp_path / "images")

    interrupted(monkeypatch, *command(source[0], images, tmp_path / "data"))
    assert len(list((tmp_path / "data").glob("*/*/*.jpg"))) == 48
    journal = tmp_path / "data/.prepare/journal.jsonl"
    gone = {image_id(index) for index in range(48) if index % 4 == 3}
    lines = journal.read_text().splitlines()
    journal.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["id"] not in gone))
    for name in gone:
        (images / name[0] / name[1] / name[2] / f"{name}.jpg").unlink()
    assert prepare(*command(source[0], images, tmp_path / "data")) == 0
    assert check_dataset(tmp_path / "data") == []
    assert {path.name for path in (tmp_path / "data/train").iterdir()} == {"0000", "0001", "0002"}
