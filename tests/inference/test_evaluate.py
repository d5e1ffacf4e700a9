"""``evaluate``: its numbers are those of training and of timm's validate.py, and mistakes are told."""

import csv
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from train_cases import MODEL, train, validate_script
from train_data import make_data

from timm_landmark import cli
from timm_landmark.data.layout import ClassRow, read_rows, write_rows
from timm_landmark.inference.evaluate import main
from timm_landmark.inference.split_predictions import write_features
from timm_landmark.runs.folder import best_epoch, read_run_info, read_summary
from timm_landmark.runs.model import load_run, load_run_model
from timm_landmark.utils.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "data", classes=7, images=(6, 5, 4), size=48, contrast=0.3)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    assert train(data, run, "--epochs", 4) == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def evaluate(run, *options):
    assert main([str(run), "--device", "cpu", *map(str, options)]) == 0
    return read_run_info(run)["evaluation"]


def test_it_gives_what_training_measured_on_validation(run):
    result = evaluate(run, "--split", "validation", "-b", 4)["validation"]
    rows = read_summary(run)
    best = rows[best_epoch(rows)]
    assert result["epoch"] == best["epoch"]
    assert 100 * result["top1"]["value"] == pytest.approx(best["eval_top1"], abs=1e-4)
    assert 100 * result["top5"]["value"] == pytest.approx(best["eval_top5"], abs=1e-4)
    assert 0 < result["top1"]["value"] < 1, "a trivial model tests nothing"


def test_it_adds_to_run_json_and_names_every_image(run, data, capsys):
    before = read_run_info(run)
    evaluate(run, "--split", "validation")
    evaluation = evaluate(run, "-b", 5)
    assert "28 images of test" in capsys.readouterr().out
    after = read_run_info(run)
    assert after.pop("evaluation") == evaluation
    assert after.pop("thresholds")["epoch"] == evaluation["test"]["epoch"]
    assert after == before
    assert evaluation.keys() == {"validation", "test"}
    with open(run / "predictions-test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    files = {path.stem: path for path in (data / "test").glob("*/*.jpg")}
    assert [row["image_id"] for row in rows] == sorted(files)
    assert evaluation["test"]["top1"]["correct"] == sum(row["class"] == row["prediction"] for row in rows)
    model, folders = load_run_model(load_run(run)), [row.folder for row in read_rows(data, ClassRow)]
    transform = timm.data.create_transform((3, 32, 32), interpolation="bilinear", crop_pct=0.875)
    for row in rows[::5]:  # one at a time
        path = files[row["image_id"]]
        assert row["class"] == path.parent.name
        with torch.no_grad():
            shares = model(transform(Image.open(path))[None]).softmax(-1)[0]
        top = [folders[index] for index in shares.topk(5).indices]
        assert row["top5"].split() == top
        assert float(row["confidence"]) == pytest.approx(shares.max().item(), abs=1e-4)


def test_kept_logits_and_features_reproduce_the_answers(run):
    """They come from the pass that made the predictions, in float16, and the pooled features reproduce the logits."""
    result = evaluate(run, "--split", "validation", "-b", 4, "--keep-features")["validation"]
    assert [file.name for file in run.glob("features-*")] == ["features-validation.npz"]
    with np.load(run / "features-validation.npz") as kept:
        ids, logits, pooled = (kept[name] for name in ("image_id", "logits", "pooled"))
    assert logits.dtype == pooled.dtype == np.float16
    with open(run / "predictions-validation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert ids.tolist() == [row["image_id"] for row in rows]
    model = load_run_model(load_run(run))
    assert logits.shape == (35, 7) and pooled.shape == (35, model.num_features)
    with torch.inference_mode():
        again = model.get_classifier()(torch.from_numpy(pooled).float()).numpy()
    assert np.abs(again - logits).max() < 0.01 * np.abs(logits).max()
    runners_up, tops = np.sort(logits.astype(float), axis=1)[:, -2:].T
    clear = tops - runners_up > 0.002 * np.abs(logits).max()  # float16 has 11 binary digits
    assert clear.mean() > 0.9
    assert [int(row["prediction"]) for row in np.array(rows)[clear]] == logits.argmax(1)[clear].tolist()
    right = np.array([int(row["class"]) for row in rows]) == logits.argmax(1)
    assert abs(right.sum() - result["top1"]["correct"]) <= (~clear).sum()
    shares = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    assert shares.max(1) == pytest.approx([float(row["confidence"]) for row in rows], abs=5e-3)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_features_that_float16_cannot_hold_are_not_kept(tmp_path, value):
    logits = np.zeros((2, 3), np.float16)
    with pytest.raises(UserError, match="--keep-features: some pooled features are not finite in float16"):
        write_features(tmp_path / "f.npz", ["a", "b"], logits, np.array([[1.0], [value]]).astype(np.float16), 1, "d")
    assert list(tmp_path.iterdir()) == []


def test_class_names_do_nothing_in_a_terminal(run, data, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / "data \x1b[2J")
    first, *rest = read_rows(data, ClassRow)
    for folder in (run, other):
        write_rows(folder, ClassRow, [replace(first, name="\x1b[31mRed\x07\n\u202e  gnirts"), *rest])
    evaluate(run, "--data", other)
    out, err = capsys.readouterr()
    assert "0000 [31mRed gnirts  " in out
    assert not {"\x1b", "\x07", "\u202e"} & {*out, *err}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_answers_that_are_no_numbers_are_an_error(run, value):
    """With NaN in the weights of a class, evaluate once exited with 0 and printed a top-1 and a GAP."""
    before = read_run_info(run)
    checkpoint = load_run(run).checkpoint
    state = torch.load(checkpoint, weights_only=False)
    next(tensor for name, tensor in reversed(state["state_dict"].items()) if tensor.is_floating_point())[0] = value
    for name in (checkpoint.name, "model_best.pth.tar", "last.pth.tar"):
        torch.save(state, run / name)
    with pytest.raises(UserError, match=r"checkpoint-\d+\.pth\.tar: the model's logits are not finite"):
        evaluate(run)
    assert read_run_info(run) == before and not list(run.glob("predictions-*"))


def test_loading_processes_change_nothing(run):
    first = evaluate(run)["test"]
    text = (run / "predictions-test.csv").read_text()
    assert evaluate(run, "-j", 2, "-b", 3)["test"]["top1"] == first["top1"]
    assert [line.split(",")[:3] for line in (run / "predictions-test.csv").read_text().splitlines()] == [
        line.split(",")[:3] for line in text.splitlines()
    ]


def test_fewer_than_five_classes(tmp_path, capsys):
    data = make_data(tmp_path / "data", classes=3, images=(6, 2, 2), size=32)
    assert train(data, tmp_path / "run", "--epochs", 1) == 0
    result = evaluate(tmp_path / "run")["test"]
    assert result["top_k"] == 3
    assert result["top5"]["value"] == 1.0
    assert "top-3  1.0000" in (output := capsys.readouterr().out)
    assert "always 1" in output


@pytest.mark.script
def test_it_equals_timms_validate_py(run, data, tmp_path):
    script = tmp_path / "validate.py"  # not in timm's checkout, whose timm it would import
    script.write_bytes(validate_script().read_bytes())
    info = load_run(run)
    command = [sys.executable, str(script), "--data-dir", str(data), "--split", "test", "--model", MODEL]
    command += ["--checkpoint", str(info.checkpoint), "--num-classes", "7", "--img-size", "32", "--device", "cpu"]
    command += ["--class-map", str(data / "class_map.txt"), "--crop-pct", "0.875", "--interpolation", "bilinear"]
    command += ["--mean", *map(str, info.mean), "--std", *map(str, info.std), "--workers", "0", "-b", "8"]
    done = subprocess.run([*command, "--results-file", str(tmp_path / "r.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.split("--result")[1])
    ours = evaluate(run)["test"]
    assert 100 * ours["top1"]["value"] == pytest.approx(theirs["top1"], abs=1e-3)
    assert 100 * ours["top5"]["value"] == pytest.approx(theirs["top5"], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "val"], "--split val: must be one of train, validation, test"),
        (["--data", "absent"], "--data absent: no such folder"),
        (["-b", "0"], "--batch-size 0: must be at least 1"),
        (["--device", "gpu"], "--device gpu: not available"),
        (["--splt", "test"], "unknown option --splt test (did you mean --split?)"),
    ],
)
def test_a_mistake_ends_in_one_clear_line(trained, options, message, capfd):
    assert cli.main(["evaluate", str(trained), *options]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        main([str(tmp_path)])


def test_a_data_set_that_moved(run, data):
    text = (run / "args.yaml").read_text()
    (run / "args.yaml").write_text(text.replace(f"data_dir: {data}", "data_dir: gone/data"))
    with pytest.raises(UserError, match="gone/data, does not exist; pass it with --data"):
        main([str(run)])
    assert evaluate(run, "--data", data)["test"]["images"] == 28


def test_another_data_sets_classes_are_refused(run, data, tmp_path):
    other = shutil.copytree(data, tmp_path / "other")
    rows = read_rows(other, ClassRow)
    write_rows(other, ClassRow, [ClassRow(rows[0].folder, "other", "Other", 6, 5, 4), *rows[1:]])
    with pytest.raises(UserError, match=r"does not fit the checkpoint .*class 0 was 0000 \(Class 0\)"):
        main([str(run), "--data", str(other)])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_not_replaced_by_another(run, data, tmp_path, workers):
    broken = shutil.copytree(data, tmp_path / "broken")
    path = next(iter((broken / "test").glob("*/*.jpg")))
    path.write_bytes(path.read_bytes()[:200])
    before = read_run_info(run)
    with pytest.raises(UserError, match=rf"{path.name} cannot be read") as caught:
        main([str(run), "--data", str(broken), "-j", str(workers), "--device", "cpu"])
    assert "\n" not in str(caught.value)
    assert read_run_info(run) == before


def test_a_missing_split(run, data, tmp_path):
    broken = shutil.copytree(data, tmp_path / "broken")
    shutil.rmtree(broken / "test")
    with pytest.raises(UserError, match="no images in its split 'test'"):
        main([str(run), "--data", str(broken)])
