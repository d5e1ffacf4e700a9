"""``export --overwrite``: replaces an exported model and nothing else, and a kill at any moment loses no model."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import export, make_run

from timm_landmark.data.check import read_sums
from timm_landmark.hub.config import read_config
from timm_landmark.hub.export import main
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import sha256_file

# a process that is killed when the new folder is about to take the old one's place
KILLED = """
import os, signal, sys
from pathlib import Path
from timm_landmark.hub.destination import new_folder
rename = Path.rename
Path.rename = lambda self, to: os.kill(os.getpid(), signal.SIGKILL) if self.suffix == ".tmp" else rename(self, to)
with new_folder(Path(sys.argv[1]), True) as folder:
    (folder / "config.json").write_text("new")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("overwrite") / "run", model="test_resnet")


def test_an_existing_folder_is_refused_or_replaced_whole(run, tmp_path):
    folder = export(run, tmp_path / "f")
    with pytest.raises(UserError, match="already exists; add --overwrite"):
        main([str(run), "--output", str(folder)])
    (folder / "model.safetensors").write_bytes(b"damaged")
    (folder / "summary.csv").unlink()
    export(run, folder, "--overwrite", "--name", "test_resnet.second")
    assert read_config(folder).name == "test_resnet.second" and (folder / "summary.csv").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]


@pytest.mark.parametrize("file", ["thesis.txt", ".git/config"])
def test_overwrite_leaves_what_no_export_wrote(run, tmp_path, file):
    folder = export(run, tmp_path / "f")
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("dear")
    with pytest.raises(UserError, match=f"contains {file}, not written by an export; move it away"):
        main([str(run), "--output", str(folder), "--overwrite"])
    assert (folder / file).read_text() == "dear"


@pytest.mark.parametrize("names", [["thesis.txt"], ["config.json", "model.safetensors", "README.md"]])
def test_overwrite_leaves_another_program_s_model(run, tmp_path, names):
    other = tmp_path / "mine"
    other.mkdir()
    for name in names:
        (other / name).write_text("dear")
    with pytest.raises(UserError, match="not an exported model"):
        main([str(run), "--output", str(other), "--overwrite"])
    assert {path.name: path.read_text() for path in other.iterdir()} == dict.fromkeys(names, "dear")


def test_overwrite_in_the_current_folder_and_through_a_link(run, tmp_path, monkeypatch):
    folder = export(run, tmp_path / "f")
    (tmp_path / "link").symlink_to(folder)
    export(run, tmp_path / "link", "--overwrite", "--name", "test_resnet.second")
    assert (tmp_path / "link").is_symlink() and read_config(folder).name == "test_resnet.second"
    monkeypatch.chdir(folder)
    export(run, ".", "--overwrite", "--name", "test_resnet.third")
    assert read_config(folder).name == "test_resnet.third"


def test_a_kill_between_the_two_renames_leaves_the_old_model_in_sight(run, tmp_path):
    folder = export(run, tmp_path / "f")
    before = read_sums(folder)
    child = subprocess.run([sys.executable, "-c", KILLED, str(folder)], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not folder.exists()
    assert {name: sha256_file(tmp_path / "f.old" / name) for name in before} == before
    for more in ([], ["--overwrite"]):
        with pytest.raises(UserError, match=r"f\.old already exists, .* killed; rename or delete it"):
            main([str(run), "--output", str(folder), *more])
    (tmp_path / "f.old").rename(folder)
    export(run, folder, "--overwrite")


def test_a_second_rename_that_fails_brings_the_old_model_back(run, tmp_path, monkeypatch):
    folder = export(run, tmp_path / "f")
    before, rename = read_sums(folder), Path.rename

    def fail(self, target):
        if self.suffix == ".tmp":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="Permission denied"):
        main([str(run), "--output", str(folder), "--overwrite"])
    assert read_sums(folder) == before and sorted(path.name for path in tmp_path.iterdir()) == ["f"]


def test_a_failure_in_the_middle_leaves_the_old_folder(run, tmp_path, monkeypatch):
    folder = export(run, tmp_path / "f")
    before = read_sums(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("timm_landmark.hub.export.write_sums", full)
    with pytest.raises(UserError, match=r"cannot be written .No space left on device.; nothing changed"):
        main([str(run), "--output", str(folder), "--overwrite"])
    assert read_sums(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]
