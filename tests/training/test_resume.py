"""``train --resume``: the same trainer and options, the planned length, and a run that has no finished epoch yet."""

import shutil

import pytest
from train_cases import train, train_script
from train_data import make_data

from timm_landmark.runs.folder import read_run_info, read_summary, tidy_summary, update_info
from timm_landmark.training.train import main
from timm_landmark.utils.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("resume") / "data", images=(6, 4, 2), size=40)


@pytest.fixture
def no_script(monkeypatch, tmp_path):
    monkeypatch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.script
def test_options_of_the_script_are_compared_with_what_the_stand_in_did(data, tmp_path, no_script):
    run, script = tmp_path / "run", ["--train-script", train_script()]
    assert train(data, run, "--epochs", 1) == 0
    with pytest.raises(UserError, match=r"--mixup: the run was started with 0\.0, now it is 0\.2"):
        train(data, run, "--epochs", 2, "--resume", "--mixup", 0.2, *script)
    assert train(data, run, "--epochs", 2, "--resume", *script) == 0
    with pytest.raises(UserError, match=r"trained with timm train\.py so far, .* --train-script"):
        train(data, run, "--epochs", 3, "--resume")


@pytest.mark.script
def test_epochs_that_timms_scheduler_adds_belong_to_the_run(data, tmp_path):
    run = tmp_path / "run"
    options = ["--epochs", 1, "--sched", "cosine", "--warmup-epochs", 0, "--cooldown-epochs", 2]
    options += ["--checkpoint-hist", 3, "--train-script", train_script()]
    assert train(data, run, *options) == 0
    assert (read_run_info(run)["epochs"], len(read_summary(run))) == (3, 3)
    shutil.copy(run / "checkpoint-1.pth.tar", run / "last.pth.tar")  # as if killed after the second epoch
    tidy_summary(run, 2)
    update_info(run, finished=False)
    assert train(data, run, *options, "--resume") == 0
    assert len(read_summary(run)) == 3
    assert train(data, run, *options, "--resume") == 0  # it is finished
    assert (read_run_info(run)["epochs"], read_run_info(run)["finished"], len(read_summary(run))) == (3, True, 3)


def test_a_run_without_a_finished_epoch_keeps_its_model_data_and_seed(data, tmp_path, no_script):
    run = tmp_path / "run"
    assert train(data, run, "--epochs", 1) == 0
    for file in run.glob("*.tar"):
        file.unlink()  # as if it had been killed in its first epoch
    (run / "summary.csv").unlink()
    other = make_data(tmp_path / "other", images=(7, 4, 2), size=40)
    with pytest.raises(UserError, match="MODEL: the run was started with model test_resnet, now it is test_vit"):
        train(data, run, "--epochs", 1, "--resume", model="test_vit")
    with pytest.raises(UserError, match="--data: the run was started with data_digest"):
        train(other, run, "--epochs", 1, "--resume")
    with pytest.raises(UserError, match="--seed: the run was started with seed 3, now it is 4"):
        train(data, run, "--epochs", 1, "--resume", "--seed", 4)
    assert train(data, run, "--epochs", 1, "--resume") == 0
    assert read_run_info(run)["finished"] is True


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_data_set_that_was_copied_in_part(data, tmp_path, no_script, split):
    part = shutil.copytree(data, tmp_path / "part")
    shutil.rmtree(part / split / "0002")
    count = {"train": (12, 18), "validation": (8, 12)}[split]
    with pytest.raises(UserError, match=f"{count[0]} images in {split}, but classes.csv lists {count[1]}"):
        train(part, tmp_path / "run", "--epochs", 1)
    assert not (tmp_path / "run").exists()


def test_resume_in_a_recipe_is_refused(data, tmp_path, no_script):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("resume: last.pth.tar\n")
    with pytest.raises(UserError, match="resume in the -c file: not supported here; give --resume"):
        train(data, tmp_path / "run", "-c", recipe)


def test_the_device_of_a_recipe_is_used(data, tmp_path, no_script):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("device: nosuch\n")
    with pytest.raises(UserError, match="--device nosuch: not available"):
        main(["test_resnet", "--data", str(data), "--output", str(tmp_path / "run"), "-c", str(recipe)])
