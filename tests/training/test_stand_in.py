"""The stand-in gives the same results as timm's train script, and rejects the options that it does not have."""

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from train_cases import MODEL, train, train_script
from train_data import make_data

from timm_landmark.runs.checkpoints import load_model_weights
from timm_landmark.runs.folder import read_run_info
from timm_landmark.training.checks import options_of
from timm_landmark.training.stand_in import StandIn
from timm_landmark.training.timm_script import load_script
from timm_landmark.utils.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("engine") / "data")


@pytest.fixture
def script():
    return train_script()


@pytest.fixture
def no_script(monkeypatch, tmp_path):
    """A user without timm's train script."""
    monkeypatch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_it_says_so_on_the_screen_and_in_run_json(data, tmp_path, no_script, capsys):
    assert train(data, tmp_path / "run", "--epochs", 1) == 0
    assert "with the built-in stand-in" in capsys.readouterr().out
    assert read_run_info(tmp_path / "run")["trainer"]["kind"] == "stand-in"


def test_it_refuses_what_only_timms_script_has(data, tmp_path, no_script):
    for option in (["--amp"], ["--mixup", "0.2"], ["--sched", "step"], ["--model-ema"]):
        with pytest.raises(UserError, match=r"stand-in|invalid choice"):
            train(data, tmp_path / "run", *option)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(yaml.safe_dump({"sched": "plateau", "lr": 0.1, "mixup": 0.2}))
    with pytest.raises(UserError, match="has no option mixup"):
        train(data, tmp_path / "run", "-c", recipe)
    assert not (tmp_path / "run").exists()


def test_it_is_for_one_process(data, tmp_path, no_script, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"several processes need timm's train\.py"):
        train(data, tmp_path / "run")


@pytest.mark.script
def test_its_options_are_the_scripts():
    theirs = options_of(load_script(train_script()).parser)
    for action in options_of(StandIn().parser).values():
        other = theirs[action.dest]
        assert set(action.option_strings) <= set(other.option_strings), action.dest
        assert action.default == other.default, action.dest
        assert (action.nargs, action.type or str) == (other.nargs, other.type or str), action.dest


@pytest.mark.script
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (MODEL, ["--epochs", 4]),
        (MODEL, ["--epochs", 2, "--smoothing", 0.1, "--drop", 0.3]),
        (MODEL, ["--epochs", 3, "--recipe", "finetune", "--init-from", "WEIGHTS"]),
        pytest.param("resneat50", ["--epochs", 2], marks=pytest.mark.full),
        pytest.param("inception_resnet_pa", ["--epochs", 1, "--img-size", 96], marks=pytest.mark.full),
    ],
)
def test_its_summary_and_weights_are_the_scripts(data, tmp_path, script, no_script, model, options):
    """To the last digit here; on another machine a float's last digit may differ."""
    save_file(timm.create_model(MODEL).state_dict(), tmp_path / "weights.safetensors")
    options = [tmp_path / "weights.safetensors" if option == "WEIGHTS" else option for option in options]
    runs = [tmp_path / "script", tmp_path / "stand-in"]
    assert train(data, runs[0], *options, "--train-script", script, model=model) == 0
    assert train(data, runs[1], *options, model=model) == 0
    kinds = [read_run_info(run)["trainer"]["kind"] for run in runs]
    assert kinds == ["timm train.py", "stand-in"]
    assert (runs[0] / "summary.csv").read_text() == (runs[1] / "summary.csv").read_text()
    assert sorted(file.name for file in runs[0].iterdir()) == sorted(file.name for file in runs[1].iterdir())
    first, second = (load_model_weights(run / "last.pth.tar") for run in runs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
