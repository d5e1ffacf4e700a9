"""The project's commit, from a checkout or from pip's metadata; None if it is unknown."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from train_cases import train
from train_data import make_data

from timm_landmark.runs.folder import read_run_info
from timm_landmark.utils.machine import ROOT, project_commit

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git on this machine")
IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main"]


def git(folder, *words):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *IDENTITY, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=clean).stdout.strip()


@pytest.fixture
def package(tmp_path):
    """A folder with a package of this project's name, as a checkout or site-packages has it."""
    (tmp_path / "timm_landmark").mkdir()
    (tmp_path / "timm_landmark" / "__init__.py").write_text("")
    return tmp_path


@pytest.fixture
def checkout(package):
    """The same, committed."""
    git(package, "init")
    git(package, "add", ".")
    git(package, "commit", "-m", "first")
    return package


@needs_git
def test_a_checkout_and_whether_it_was_changed(checkout, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(checkout / "another"))  # as in a hook of another repository
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "run").mkdir()
    (checkout / "run" / "run.json").write_text("{}")
    assert project_commit(checkout) == {"commit": commit, "dirty": False}
    (checkout / "timm_landmark" / "__init__.py").write_text("changed = True\n")
    assert project_commit(checkout) == {"commit": commit, "dirty": True}


@needs_git
def test_without_git_it_is_not_known(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert project_commit(checkout) is None


def test_a_checkout_without_a_commit(package):
    (package / ".git").mkdir()
    assert project_commit(package) is None


@needs_git
def test_another_projects_repository_is_not_taken_for_this_one(package):
    git(package, "init")
    (package / "theirs.py").write_text("")
    git(package, "add", "theirs.py")
    git(package, "commit", "-m", "theirs")
    assert project_commit(package) is None  # the package is inside it, as after `pip install --target .`
    assert project_commit(package / "timm_landmark") is None


@pytest.mark.parametrize(
    ("source", "commit"),
    [
        ({"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}, "c0ffee"),
        ({"url": "file:///home/me/x.whl", "archive_info": {"hash": "sha256=0"}}, None),
        (None, None),
    ],
)
def test_an_installed_package(package, source, commit):
    info = package / "timm_landmark-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: timm-landmark\nVersion: 9.9\n")
    if source:
        (info / "direct_url.json").write_text(json.dumps(source))
    assert project_commit(package) == (commit and {"commit": commit, "dirty": False})


def test_run_json_records_it_when_a_run_starts_and_when_it_goes_on(tmp_path):
    data, run = make_data(tmp_path / "data", images=(4, 2, 2), size=32), tmp_path / "run"
    assert train(data, run, "--epochs", 1) == 0
    assert train(data, run, "--epochs", 2, "--resume") == 0
    info = read_run_info(run)
    assert info["project"] == info["sessions"][0]["project"] == project_commit()
    if (ROOT / ".git").exists() and shutil.which("git"):
        assert info["project"]["commit"] == git(ROOT, "rev-parse", "HEAD")


@pytest.mark.full
def test_a_run_starts_without_git(tmp_path):
    data, run = make_data(tmp_path / "data", images=(4, 2, 2), size=32), tmp_path / "run"
    command = [sys.executable, "-m", "timm_landmark.cli", "train", "test_resnet", "--data", data, "--output", run]
    command += ["--epochs", "1", "--img-size", "32", "--workers", "0", "-b", "12", "--device", "cpu"]
    done = subprocess.run(command, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_run_info(run)["project"] is None or not (ROOT / ".git").exists()
