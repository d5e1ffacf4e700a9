"""What one process of several does, without starting the others; test_processes.py starts them."""

import pytest
from train_cases import MODEL, train, train_script
from train_data import make_data

from timm_landmark import cli
from timm_landmark.runs.folder import read_run_info
from timm_landmark.training import checks as train_checks
from timm_landmark.training import rehearsal
from timm_landmark.training.timm_script import TrainScript
from timm_landmark.utils.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("shares") / "data")


@pytest.mark.script
@pytest.mark.parametrize(("processes", "share"), [(1, 64), (4, 16), (64, 1)])
def test_each_process_takes_its_share_of_the_batch(tmp_path, monkeypatch, processes, share):
    data = make_data(tmp_path / "data", images=(30, 2, 2), size=16)
    given = []
    monkeypatch.setattr(TrainScript, "run", lambda self, argv: given.extend(argv))
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: 1)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    argv = ["train", MODEL, "--data", str(data), "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert cli.main([*argv, "--train-script", str(train_script())]) == 130  # nothing was trained
    assert given[-2:] == ["--batch-size", str(share)]
    info = read_run_info(tmp_path / "run")
    assert (info["global_batch"], info["processes"], info["batch_per_process"]) == (64, processes, share)


@pytest.mark.script
def test_only_the_first_process_makes_the_folder(data, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainScript, "run", lambda self, argv: None)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert train(data, tmp_path / "run", "--train-script", train_script()) == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.script
def test_the_other_processes_resume_where_the_first_does(data, tmp_path, monkeypatch):
    """The first one repairs the folder in the meantime, so they read checkpoints and never summary.csv."""
    run, script = tmp_path / "run", ["--train-script", train_script()]
    assert train(data, run, "--epochs", 2, *script) == 0
    given = []
    monkeypatch.setattr(TrainScript, "run", lambda self, argv: given.append(argv))
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert train(data, run, "--epochs", 2, "--resume", *script) == 0
    assert given == []  # finished: the first process does not start either
    assert train(data, run, "--epochs", 3, "--resume", *script) == 0
    assert given[0][given[0].index("--resume") + 1] == str(run / "last.pth.tar")
    (run / "last.pth.tar").rename(run / "tmp.pth.tar")  # killed before the checkpoint got its name
    assert train(data, run, "--epochs", 3, "--resume", *script) == 0
    assert "--resume" in given[1]
    (run / "tmp.pth.tar").unlink()
    assert train(data, run, "--epochs", 3, "--resume", *script) == 0
    assert "--resume" not in given[2]
    with pytest.raises(UserError, match="unseen is not a run"):  # on a machine that does not share the folder
        train(data, tmp_path / "unseen", "--epochs", 3, "--resume", *script)


@pytest.mark.parametrize(("batch", "processes", "accumulation"), [(64, 3, 1), (64, 2, 3), (12, 5, 1), (1, 2, 1)])
def test_a_batch_that_does_not_divide_is_refused(batch, processes, accumulation):
    with pytest.raises(UserError, match=rf"-b {batch}: .*{processes} processes x {accumulation} accumulation"):
        train_checks.batch_share(batch, processes, accumulation)


def test_accumulated_steps_are_part_of_the_batch():
    assert train_checks.batch_share(64, 2, 4) == 8
