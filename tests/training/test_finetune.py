"""``train --recipe finetune``: layer-wise rates on timm's cosine schedule, resuming, and the labels of the result."""

import argparse
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from train_cases import MODEL, train, train_script
from train_data import make_data

from timm_landmark import cli
from timm_landmark.accounting.claims import SEVEN
from timm_landmark.data.layout import SPLITS, ClassRow, ManifestRow, read_rows, write_rows
from timm_landmark.runs.checkpoints import load_model_weights
from timm_landmark.runs.folder import read_run_info, read_summary
from timm_landmark.training.train import recipe_path
from timm_landmark.utils.errors import UserError

EPOCHS = 4
RECIPE = yaml.safe_load(recipe_path("finetune").read_text())
NAMES = ["Eiffel Tower", "Springfield Bridge", "Springfield Bridge"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three landmarks with ids and names, of which two are the same."""
    folder = make_data(tmp_path_factory.mktemp("finetune") / "data", images=(12, 4, 4), size=40)
    rows = [ClassRow(row.folder, f"47{i}", NAMES[i], 12, 4, 4) for i, row in enumerate(read_rows(folder, ClassRow))]
    write_rows(folder, ClassRow, rows)
    images = [replace(row, landmark_id=f"47{int(row.folder)}") for row in read_rows(folder, ManifestRow)]
    write_rows(folder, ManifestRow, images)
    return folder


@pytest.fixture(scope="module", params=["stand-in", pytest.param("script", marks=pytest.mark.script)])
def options(request, tmp_path_factory):
    """The options of a fine-tuning run with this trainer; its learning rate is the recipe's."""
    torch.manual_seed(5)
    weights = tmp_path_factory.mktemp("source") / "weights.safetensors"
    save_file(timm.create_model(MODEL, num_classes=7).state_dict(), weights)
    words = ["--recipe", "finetune", "--init-from", weights, "--lr", RECIPE["lr"], "--epochs", EPOCHS]
    if request.param == "script":
        yield [*words, "--train-script", train_script()]
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
        patch.setenv("XDG_CACHE_HOME", "/nonexistent")
        yield words


@pytest.fixture(scope="module")
def whole(data, options, tmp_path_factory):
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(data, run, *options) == 0
    return run


def optimizer_groups(run):
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(run / "last.pth.tar", weights_only=True)["optimizer"]
    return state["param_groups"]


def scheduled(update, updates):
    """The rate of an update by the recipe: linear during the first epoch, then half a cosine to 0."""
    warmup = updates * RECIPE["warmup_epochs"]
    if update < warmup:
        return RECIPE["warmup_lr"] + update * (RECIPE["lr"] - RECIPE["warmup_lr"]) / warmup
    return RECIPE["lr"] * (1 + math.cos(math.pi * update / (updates * EPOCHS))) / 2


def test_the_rates_are_the_schedule_times_the_scale_of_each_layer(whole):
    scales = [group["lr_scale"] for group in optimizer_groups(whole)]
    assert max(scales) == 1 and RECIPE["layer_decay"] in scales and 0.1 <= min(scales) < 0.5
    for row in read_summary(whole):  # written after the rate of the next update was set; 36 photos, batches of 12
        expected = scheduled(3 * (row["epoch"] + 1), 3) * sum(scales) / len(scales)
        assert row["lr"] == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_what_run_json_says(whole):
    info = read_run_info(whole)
    assert (info["recipe"], info["rate_rule"]) == ("finetune.yaml", "timm cosine")
    assert info["init_from"]["source"] == "weights.safetensors"
    assert info["init_from"]["parameters"] > info["init_from"]["parameters_copied"] > 300_000  # without the classifier


def test_killed_within_an_epoch_it_ends_like_an_uninterrupted_run(data, options, whole, tmp_path):
    run = tmp_path / "run"
    helper = Path(__file__).parents[1] / "helpers" / "kill_at.py"
    short = ["--seed", "3", "--img-size", "32", "--workers", "0", "-b", "12", "--device", "cpu"]
    words = [sys.executable, helper, "epoch", "2", "train", MODEL, "--data", data, "--output", run, *short, *options]
    assert subprocess.run([*map(str, words)], capture_output=True, check=False).returncode == -9
    assert [row["epoch"] for row in read_summary(run)] == [0, 1]
    assert train(data, run, *options, "--resume") == 0
    assert (run / "summary.csv").read_bytes() == (whole / "summary.csv").read_bytes()
    weights = [load_model_weights(folder / "last.pth.tar") for folder in (run, whole)]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


def test_it_cannot_be_resumed_with_another_recipe_or_length(data, options, whole):
    others = [option for option in options if option not in ("--recipe", "finetune")]
    with pytest.raises(UserError, match=r"--recipe or --sched: .* rate_rule timm cosine, now it is paper"):
        train(data, whole, *others, "--resume")
    with pytest.raises(UserError, match="--epochs: the run was started with 4, now it is 9"):
        train(data, whole, *options, "--epochs", 9, "--resume")


def test_the_source_need_not_be_named_again_on_resume(data, options, whole, tmp_path, capfd):
    again = [option for option in options if option != "--init-from" and not str(option).endswith(".safetensors")]
    assert train(data, whole, *again, "--resume") == 0
    assert "is finished: 4 epochs" in capfd.readouterr().out
    shutil.copytree(whole, tmp_path / "run")
    for file in tmp_path.glob("run/*"):  # a run from scratch without a finished epoch
        if file.name != "run.json":
            file.unlink()
    with pytest.raises(UserError, match="give it with --init-from"):
        train(data, tmp_path / "run", *again, "--resume")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "finetune"], "--recipe finetune starts from a trained network: give it with --init-from"),
        (["--recipe", "paper", "-c", "own.yaml"], r"--recipe paper and -c own\.yaml: two recipes"),
        (["--recipe", "fine"], "argument --recipe: invalid choice: 'fine'"),
        (["--recipe", "finetune", "--init-from", "absent"], "--init-from absent: not a run"),
        (["--recipe", "paper", "--warmup-lr", "0.1"], "--warmup-lr 0.1: the paper's learning rate rule"),
    ],
)
def test_mistakes(data, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        train(data, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=() if name in ("resneat50", "densenet121") else pytest.mark.full) for name in SEVEN],
)
def test_each_of_the_seven_is_fine_tuned_in_all_its_layers(model, tmp_path):
    """The rates differ by depth: the classifier's is the recipe's, that of the first layer is a tenth of it."""
    data = make_data(tmp_path / "data", images=(2, 1, 1), size=40)
    save_file(timm.create_model(model, num_classes=2).state_dict(), tmp_path / "weights.safetensors")
    words = ["--recipe", "finetune", "--init-from", tmp_path / "weights.safetensors", "--epochs", 1]
    size = 75 if model.startswith("inception") else 32
    assert train(data, tmp_path / "run", *words, "--img-size", size, "-b", 3, model=model) == 0
    groups = optimizer_groups(tmp_path / "run")
    net = timm.create_model(model, num_classes=3)
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    assert {min(group["lr_scale"] for group in groups), max(group["lr_scale"] for group in groups)} == {0.1, 1.0}
    start, end = (load_model_weights(tmp_path / "run" / name) for name in ("init.safetensors", "last.pth.tar"))
    still = [name for name, _ in net.named_parameters() if start[name].equal(end[name])]
    assert still == []


def test_landmark_ids_stay_available_when_labels_are_names(data, whole, tmp_path, capsys):
    assert cli.main(["evaluate", str(whole), "--data", str(data), "--device", "cpu"]) == 0
    assert cli.main(["export", str(whole), "--output", str(tmp_path / "folder")]) == 0
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["label_names"] == ["Eiffel Tower", "Springfield Bridge (471)", "Springfield Bridge (472)"]
    assert list(config["label_descriptions"].values()) == NAMES
    photo = next(iter((data / SPLITS[2]).rglob("*.jpg")))
    capsys.readouterr()
    assert cli.main(["predict", str(tmp_path / "folder"), str(photo), "--format", "json", "--device", "cpu"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    guesses = {guess["class"]: (guess["landmark_id"], guess["name"]) for guess in answer["guesses"]}
    assert guesses == {index: (f"47{index}", name) for index, name in enumerate(NAMES)}
