"""Thresholds of evaluate: chosen on validation and on unknown photos, measured on test, stored, refused."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from run_helpers import make_run
from sklearn.metrics import roc_auc_score
from verbs import evaluate

from timm_landmark.cli import main as cli
from timm_landmark.inference import evaluate as verb
from timm_landmark.inference import split_predictions
from timm_landmark.inference.metrics.retrieval import retrieve
from timm_landmark.inference.metrics.selective import choose_threshold
from timm_landmark.inference.namer import load_namer, name_photos
from timm_landmark.inference.photos import find_photos
from timm_landmark.inference.split_predictions import read_predictions
from timm_landmark.runs.folder import read_run_info, update_info
from timm_landmark.runs.thresholds import Thresholds, read_thresholds
from timm_landmark.utils.files import sha256_file


def rows_of(run, split):
    with open(run / f"predictions-{split}.csv", newline="") as file:
        return [(float(row["confidence"]), row["class"] == row["prediction"]) for row in csv.DictReader(file)]


def test_the_threshold_is_chosen_on_validation_and_measured_on_test(run, capsys):
    info = evaluate(run)
    chosen, found = info["thresholds"], info["evaluation"]["test"]["selective"]
    validation, test = rows_of(run, "validation"), rows_of(run, "test")
    threshold = choose_threshold(*zip(*validation, strict=True), 0.95)
    assert threshold and read_thresholds(chosen) == Thresholds(threshold, None, 0.95)
    above = [right for confidence, right in validation if confidence >= threshold]
    assert (chosen["answered"], chosen["correct"], chosen["images"]) == (len(above), sum(above), 60)
    assert sum(above) / len(above) >= 0.95 and chosen["split"] == "validation"
    answered = [right for confidence, right in test if confidence >= threshold]
    assert 0 < len(answered) < 45, "a trivial threshold tests nothing"
    assert (found["answered"], found["correct"], found["images"]) == (len(answered), sum(answered), 45)
    assert found["value"] == sum(answered) / len(answered) and found["interval"][0] < found["value"]
    out = capsys.readouterr().out
    assert f"certain from {threshold:.6f} on: 95 % right answers on validation ({sum(above)} of {len(above)})" in out
    assert f"{sum(answered)} of {len(answered)} on test, {45 - len(answered)} of 45 images not certain" in out
    curve = info["evaluation"]["test"]["risk_coverage"]
    assert curve["coverage"][-1] == 1 and curve["risk"][-1] == pytest.approx(
        1 - np.mean([right for _, right in test]), abs=1e-6
    )
    assert {each[0] for each in test} == set(curve["confidence"])


def test_validation_is_evaluated_as_by_its_own_command(run, trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other")
    after, alone = evaluate(run), evaluate(other, "--split", "validation")
    assert after["evaluation"]["validation"] == alone["evaluation"]["validation"]
    assert (run / "predictions-validation.csv").read_bytes() == (other / "predictions-validation.csv").read_bytes()
    assert "thresholds" not in alone and "selective" not in alone["evaluation"]["validation"]
    before = after["thresholds"]
    assert evaluate(run, "--split", "train")["thresholds"] == before


def test_kept_features_of_validation_are_used_while_they_fit(run, monkeypatch):
    """Only --keep-features stores the features, with the epoch and the data set that they belong to."""
    passes = []
    real = verb.predict_split
    monkeypatch.setattr(verb, "predict_split", lambda *args: (passes.append(args[2]), real(*args))[1])
    first = evaluate(run)
    assert passes == ["validation", "test"]
    evaluate(run, "--split", "validation", "--keep-features")
    passes.clear()
    second = evaluate(run)
    assert passes == ["test"]
    assert second == first, "the same to the last digit"
    with np.load(run / "features-validation.npz") as kept:
        arrays = dict(kept)
    np.savez(run / "features-validation.npz", **(arrays | {"epoch": arrays["epoch"] - 1}))
    assert evaluate(run) == first and passes == ["test", "validation", "test"]
    np.savez(run / "features-validation.npz", **arrays)
    (run / "predictions-validation.csv").write_text("image_id,class,prediction,confidence,top5\n")
    assert evaluate(run) == first and passes[3:] == ["validation", "test"]
    assert len(read_predictions(run / "predictions-validation.csv")) == 60


def test_retrieval_is_that_of_the_kept_features(run):
    evaluate(run, "--split", "validation", "--keep-features")
    found = evaluate(run, "--keep-features")["evaluation"]["test"]["retrieval"]
    files = [np.load(run / f"features-{split}.npz") for split in ("test", "validation")]
    labels = [[each.folder for each in read_predictions(run / f"predictions-{s}.csv")] for s in ("test", "validation")]
    right, precisions = retrieve(files[0]["pooled"], labels[0], files[1]["pooled"], labels[1])
    assert found["knn_top1"]["correct"] == right and 9 < right < 45, "better than chance"
    assert (found["map100"]["value"], found["map100"]["queries"]) == (pytest.approx(np.mean(precisions)), 45)
    assert (found["index"], found["index_images"], found["knn_top1"]["k"]) == ("validation", 60, 5)


def test_a_model_without_pooled_features(run, monkeypatch, capsys):
    """Every model of timm has them, but a user's model may not."""
    real = split_predictions.load_run_model

    def load(*args):
        model = real(*args)
        head = model.forward_head
        model.forward_head = lambda maps: head(maps)
        return model

    monkeypatch.setattr(split_predictions, "load_run_model", load)
    assert evaluate(run)["evaluation"]["test"]["retrieval"] is None
    assert "no retrieval: test_resnet has no pooled features" in capsys.readouterr().out
    evaluate(run, "--keep-features", code=2)
    assert "--keep-features: test_resnet has no pooled features; omit" in capsys.readouterr().err


def test_a_share_that_is_not_reached_is_said_and_nothing_is_doubted(data, tmp_path, capsys):
    run = make_run(tmp_path / "run", data=data, names=tuple(f"Class {i}" for i in range(5)), model="test_resnet")
    info = evaluate(run, "--target-accuracy", 0.99)
    assert not max(rows_of(run, "validation"))[1], "the most confident answer is wrong"
    assert info["thresholds"]["certain"] is None and info["thresholds"]["target_accuracy"] == 0.99
    assert info["evaluation"]["test"]["selective"] is None
    assert "no confidence gives 99 % right answers on validation" in capsys.readouterr().out
    assert cli(["predict", str(run), str(data / "test" / "0000"), "--device", "cpu"]) == 0
    assert "certain" not in capsys.readouterr().out


def test_unknown_photos_are_measured_as_predict_names_them(measured, data, unknown, capsys):
    info = read_run_info(measured)
    found = info["evaluation"]["unknown"]
    answers = list(name_photos(load_namer(str(measured), "cpu"), find_photos([unknown])))
    confidences = [answer.guesses[0].probability for answer in answers]
    even = [int(sha256_file(answer.photo.path), 16) % 2 == 0 for answer in answers]
    test = [confidence for confidence, _ in rows_of(measured, "test")]
    known = name_photos(load_namer(str(measured), "cpu"), find_photos([data / "test"]), batch_size=64)
    scores = [*(answer.guesses[0].probability for answer in known), *confidences]  # not rounded, as in the csv file
    assert found["auroc"] == pytest.approx(roc_auc_score([1] * 45 + [0] * 40, scores), abs=1e-9)
    assert (found["photos"], found["images"], found["calibration"]) == (40, 45, sum(even)) and 5 < sum(even) < 35
    assert found["folder"] == "elsewhere" and found["unreadable"] == 0
    assert found["auroc_interval"][0] < found["auroc"] < found["auroc_interval"][1]
    assert found["gap"] < info["evaluation"]["test"]["gap"]["value"], "distractors can only lower the GAP"
    none = info["thresholds"]["none"]
    assert none is not None and found["none"]["threshold"] == none <= info["thresholds"]["certain"]
    validation = [confidence for confidence, _ in rows_of(measured, "validation")]
    wrong = np.mean([confidence < none for confidence in validation])
    right = np.mean([round(each, 6) < none for each, half in zip(confidences, even, strict=True) if half])
    assert right / (right + wrong) >= 0.8
    others = [round(each, 6) < none for each, half in zip(confidences, even, strict=True) if not half]
    assert (found["none"]["unknown"]["said"], found["none"]["unknown"]["photos"]) == (sum(others), len(others))
    said = found["none"]["landmark"]
    assert (said["said"], said["photos"]) == (sum(confidence < none for confidence in test), 45)
    decisions = {answer.decision for answer in answers}
    assert decisions == {"none", "uncertain", "landmark"}


def test_unknown_results_stay_while_they_hold_and_go_when_they_do_not(copy, capsys):
    before = read_run_info(copy)
    again = evaluate(copy, "--target-accuracy", 0.8)
    assert again == before and "AUROC" in capsys.readouterr().out
    other = evaluate(copy)  # another share
    assert "unknown" not in other["evaluation"] and other["thresholds"]["none"] is None
    assert "measure them again with --unknown (before: elsewhere)" in capsys.readouterr().err
    before["evaluation"]["unknown"]["epoch"] -= 1
    update_info(copy, **before)
    other = evaluate(copy, "--target-accuracy", 0.8)
    assert "unknown" not in other["evaluation"] and other["thresholds"]["none"] is None


def test_without_photos_that_can_be_told_apart_there_is_no_such_threshold(run, data, tmp_path, capsys):
    """Photos like those of the classes are named with the same confidence."""
    folder = tmp_path / "like"
    folder.mkdir()
    for number, path in enumerate(sorted((data / "test").rglob("*.jpg"))[:20]):
        Image.open(path).save(folder / f"{number}.png")
    info = evaluate(run, "--unknown", folder, "--target-accuracy", 0.99)
    assert info["thresholds"]["none"] is None and info["evaluation"]["unknown"]["none"] is None
    assert "no confidence has 99 % unknown photos below it" in capsys.readouterr().out


def test_a_bad_unknown_photo_is_left_out_and_reported(run, unknown, tmp_path, capsys):
    folder = shutil.copytree(unknown, tmp_path / "some\x1b[31m")
    (folder / "bad.jpg").write_bytes(b"<!doctype html>")
    found = evaluate(run, "--unknown", folder, code=1)["evaluation"]["unknown"]
    assert (found["photos"], found["unreadable"]) == (40, 1)
    out, err = capsys.readouterr()
    assert "bad.jpg: html" in err and "1 of 41 unknown photos cannot be read and are left out" in err
    assert "\x1b" not in out + found["folder"] and "some\\x1b[31m/bad.jpg" in err
    before = read_run_info(run)
    for path in folder.glob("*.png"):
        path.unlink()
    assert evaluate(run, "--unknown", folder, code=2) == before
    assert "none of its 1 photos can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--unknown", "{tmp}/nowhere"], ["--unknown", "nowhere: no such folder"]),
        (["--unknown", "{tmp}/empty"], ["--unknown", "empty: no photos"]),
        (["--unknown", "{tmp}/empty/x.jpg"], ["no such folder"]),
        (["--unknown", "{data}/test/0000"], ["is in the data set"]),
        (["--unknown", "{data}/.."], ["contains it"]),
        (["--unknown", "{tmp}/copied"], ["copied", "is also in the data set"]),
        (["--unknown", "{unknown}", "--split", "validation"], ["--unknown", "not for --split validation"]),
        (["--target-accuracy", "0.9", "--split", "train"], ["--target-accuracy 0.9", "not for --split train"]),
        *[(["--target-accuracy", value], [f"--target-accuracy {float(value)}", "0.95"]) for value in ("0", "1", "nan")],
        (["--target-accuracy", "-0.5"], ["--target-accuracy"]),
        (["--target-accuracy", "95"], ["--target-accuracy 95.0: must be between 0 and 1"]),
        (["--target-accuracy", "most"], ["--target-accuracy", "most"]),
    ],
)
def test_mistakes_of_evaluate_end_in_one_line(trained, data, unknown, tmp_path, options, words, capfd):
    (tmp_path / "empty").mkdir()
    (tmp_path / "copied").mkdir()
    shutil.copy(next((data / "test").rglob("*.jpg")), tmp_path / "copied")
    before = read_run_info(trained)
    names = dict(tmp=tmp_path, data=data, unknown=unknown)
    assert evaluate(trained, *(each.format(**names) for each in options), code=2) == before
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and all(word in err for word in words), err
