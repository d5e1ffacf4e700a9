"""The lock of a run folder: a second training is refused while one runs, and a killed one leaves no lock behind."""

import errno
import subprocess
import sys
import time

import pytest
from filelock import FileLock
from train_cases import MODEL, SHORT, train
from train_data import make_data

from timm_landmark import cli
from timm_landmark.runs.folder import read_run_info
from timm_landmark.training import rehearsal
from timm_landmark.training.run_folder import LOCK, run_lock
from timm_landmark.utils.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("lock") / "data", size=40)


@pytest.fixture(autouse=True)
def no_script(monkeypatch):
    """Hides timm's script, so that the stand-in trains."""
    monkeypatch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")


def test_a_second_training_is_refused_while_one_runs(data, tmp_path, capfd):
    run = tmp_path / "run"
    words = ["train", MODEL, "--data", str(data), "--output", str(run), *SHORT, "--epochs", "1000", "--workers", "1"]
    command = [sys.executable, "-m", "timm_landmark.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (run / "last.pth.tar").exists():
            assert process.poll() is None
            time.sleep(0.05)
        for resume in ([], ["--resume"]):
            capfd.readouterr()
            assert cli.main([*words, *resume]) == 2
            error = capfd.readouterr().err
            assert error.startswith(
                f"timm-landmark train: error: --output {run}: another process is training into this"
            )
            assert error.count("\n") == 1
        assert process.poll() is None
    finally:
        process.kill()  # its data loading process lives on for some seconds, without the lock
        process.wait()
    finished = read_run_info(run)["epochs_finished"]
    assert train(data, run, "--epochs", finished + 2, "--resume", "--workers", 1) == 0
    assert read_run_info(run)["finished"] is True


@pytest.mark.parametrize(("finished", "message"), [(False, "another process is training"), (True, "exists")])
def test_of_two_trainings_that_start_together_one_is_refused(data, tmp_path, monkeypatch, finished, message):
    """The other one creates the folder during the rehearsal of this one, and may even finish."""
    run, other = tmp_path / "run", run_lock(tmp_path / "run")

    def rehearse(*_):
        run.mkdir()
        (run / "run.json").touch()
        if not finished:
            other.acquire(blocking=False)

    monkeypatch.setattr(rehearsal, "rehearse", rehearse)
    with pytest.raises(UserError, match=rf"--output .* {message}"):
        train(data, run)
    assert {file.name for file in run.iterdir()} == {LOCK, "run.json"}


def test_a_lock_left_in_an_empty_folder_is_no_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: 1)
    (tmp_path / LOCK).touch()
    with pytest.raises(UserError, match="--init-from absent: not a run"):
        train(data, tmp_path, "--init-from", "absent")


def test_init_from_an_unavailable_source_leaves_no_folder(data, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: 1)
    with pytest.raises(UserError, match="--init-from absent: not a run"):
        train(data, tmp_path / "run", "--init-from", "absent")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EACCES])
def test_a_file_system_without_locks(data, tmp_path, monkeypatch, capfd, number):
    def acquire(*_, **__):
        raise OSError(number, "refused")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: 1)
    if number == errno.EACCES:
        with pytest.raises(UserError, match=r"--output .* cannot be locked \(refused\)"):
            train(data, tmp_path / "run", "--epochs", 1)
        return
    assert train(data, tmp_path / "run", "--epochs", 1) == 0
    assert "cannot be locked by its file system; make sure that no other training uses it" in capfd.readouterr().err
