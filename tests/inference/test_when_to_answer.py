"""Thresholds from evaluate to predict and export: chosen on validation and unknown photos, stored, used, refused."""

import csv
import html
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from run_helpers import make_run
from sklearn.metrics import roc_auc_score
from train_cases import train
from train_data import make_data

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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "data", classes=5, images=(8, 12, 9), size=48, contrast=0.25)


@pytest.fixture(scope="module")
def unknown(tmp_path_factory):
    """Photos of random colours: a quarter strong, the others between those of the classes, which the model doubts."""
    folder = tmp_path_factory.mktemp("unknown") / "elsewhere"
    folder.mkdir()
    generator = np.random.default_rng(5)
    for number in range(40):
        contrast = 0.06 if number % 4 else 1
        color = 128 + contrast * (generator.integers(0, 256, 3) - 128)
        pixels = np.clip(color + generator.integers(-90, 91, (48, 48, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    assert train(data, run, "--epochs", 4) == 0
    return run


@pytest.fixture(scope="module")
def measured(trained, unknown, tmp_path_factory):
    """The run, evaluated with unknown photos; not to be changed."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("measured") / "run")
    evaluate(run, "--unknown", unknown, "--target-accuracy", 0.8)
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def copy(measured, tmp_path):
    return shutil.copytree(measured, tmp_path / "run")


def evaluate(run, *options, code=0):
    assert cli(["evaluate", str(run), "--device", "cpu", *map(str, options)]) == code
    return read_run_info(run)


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


def predict(run, photos, *options, code=0):
    assert cli(["predict", str(run), str(photos), "--device", "cpu", *map(str, options)]) == code


def test_predict_says_what_is_not_certain_and_what_shows_none(measured, unknown, capsys):
    """Table, csv and json give the same decisions, which are those of the thresholds."""
    thresholds = read_thresholds(read_run_info(measured)["thresholds"])
    predict(measured, unknown, "--format", "json")
    found = json.loads(capsys.readouterr().out)
    predict(measured, unknown, "--format", "csv", "--top", 2)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    predict(measured, unknown, "--top", 1)
    table = capsys.readouterr().out
    assert len(found) == 40 and {row["decision"] for row in found} == {"none", "uncertain", "landmark"}
    for row in found:
        assert row["confidence"] == row["guesses"][0]["probability"]
        assert (row["threshold"], row["none_threshold"]) == (thresholds.certain, thresholds.none)
        assert row["decision"] == thresholds.decide(row["confidence"])
        first, second = (each for each in rows if each["photo"] == row["photo"])
        assert first["decision"] == second["decision"] == row["decision"]
        assert (float(first["threshold"]), float(first["none_threshold"])) == (thresholds.certain, thresholds.none)
        best = f"(best guess {row['guesses'][0]['name']}, {100 * row['confidence']:.0f} %)"
        said = {"landmark": "", "uncertain": f": not certain {best}", "none": f": none of the model's landmarks {best}"}
        line = f"{row['photo']}{said[row['decision']]}"
        below = (
            [] if row["decision"] == "none" else [f"  {100 * row['confidence']:6.2f} %  {row['guesses'][0]['name']}"]
        )
        assert "\n".join([line, *below]) + "\n" in table


def test_a_threshold_of_ones_own_and_none(measured, unknown, capsys):
    none = read_run_info(measured)["thresholds"]["none"]

    def decisions(*options):
        predict(measured, unknown, "--format", "json", *options)
        found = json.loads(capsys.readouterr().out)
        return found, [row["decision"] for row in found]

    found, decided = decisions("--threshold", 0.99)
    assert {row["threshold"] for row in found} == {0.99} and {row["none_threshold"] for row in found} == {none}
    assert decided == [Thresholds(0.99, none).decide(row["confidence"]) for row in found] and "uncertain" in decided
    assert decisions("--threshold", 0)[1] == ["landmark"] * 40, "below the threshold there is nothing to doubt"
    found, decided = decisions("--no-threshold")
    assert decided == ["landmark"] * 40 and found[0]["threshold"] is found[0]["none_threshold"] is None
    predict(measured, unknown, "--no-threshold")
    assert "certain" not in (table := capsys.readouterr().out) and "none of" not in table


def test_a_threshold_works_without_an_evaluation(trained, unknown, capsys):
    predict(trained, unknown, "--format", "csv", "--top", 1)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(row["threshold"], row["none_threshold"], row["decision"]) for row in rows} == {("", "", "landmark")}
    predict(trained, unknown, "--format", "csv", "--top", 1, "--threshold", 0.5)
    for row in csv.DictReader(io.StringIO(capsys.readouterr().out)):
        assert row["decision"] == ("landmark" if float(row["probability"]) >= 0.5 else "uncertain")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--threshold", "0.5", "--no-threshold"], "--threshold 0.5 and --no-threshold contradict each other"),
        *[(["--threshold", value], f"--threshold {value}: must be a probability") for value in ("1.5", "nan", "inf")],
        (["--threshold=-0.1"], "--threshold -0.1: must be a probability"),
        (["--threshold", "half"], "invalid float value: 'half'"),
        (["--no-treshold"], "did you mean --no-threshold?"),
    ],
)
def test_mistakes_of_predict_end_in_one_line(trained, unknown, options, word, capsys):
    predict(trained, unknown, *options, code=2)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and word in err


def test_thresholds_of_another_epoch_are_not_used(copy, unknown, tmp_path, capsys):
    """After --resume, the best epoch may be another one."""
    stale = read_run_info(copy)["thresholds"] | {"epoch": 99}
    update_info(copy, thresholds=stale)
    predict(copy, unknown, "--top", 1)
    out, err = capsys.readouterr()
    assert "certain" not in out and "none of" not in out
    assert "its thresholds are not used, because they were chosen for epoch 99 and the best epoch is" in err
    assert cli(["export", str(copy), "--output", str(tmp_path / "model")]) == 0
    assert "its thresholds are not used" in capsys.readouterr().out
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert read_thresholds(config["thresholds"]) == Thresholds()
    assert "thresholds" not in read_run_info(tmp_path / "model")
    assert "not certain" not in (tmp_path / "model" / "README.md").read_text()
    assert cli(["check", str(tmp_path / "model")]) == 0


@pytest.mark.parametrize("entry", [[], {"certain": "0.5"}, {"none": 2}])
def test_malformed_thresholds_of_a_run_are_an_error(copy, unknown, entry, capsys):
    update_info(copy, thresholds=entry)
    predict(copy, unknown, code=2)
    out, err = capsys.readouterr()
    assert out == "" and "run.json: thresholds" in err and "evaluate the run again" in err and err.count("\n") == 1


def test_an_exported_model_decides_as_its_run(measured, unknown, tmp_path, capsys):
    folder = tmp_path / "model"
    assert cli(["export", str(measured), "--output", str(folder)]) == 0
    config = json.loads((folder / "config.json").read_text())
    info = read_run_info(measured)
    assert read_thresholds(config["thresholds"]) == read_thresholds(info["thresholds"])
    exported = read_run_info(folder)
    assert exported["thresholds"] == info["thresholds"]
    assert exported["evaluation"].keys() == {"test", "validation", "unknown"}
    paths = find_photos([unknown])
    both = [list(name_photos(load_namer(str(place), "cpu"), paths)) for place in (folder, measured)]
    assert [answer.decision for answer in both[0]] == [answer.decision for answer in both[1]]
    card = " ".join((folder / "README.md").read_text().split())
    found = info["evaluation"]["test"]["selective"]
    assert re.search(rf"certain from a probability of {found['threshold']:.4f} on, because 80 % of such", card)
    assert f"on test, {found['correct']} of {found['answered']} were right" in card
    assert f"Below {info['thresholds']['none']:.4f} it says that a photo shows none of these classes" in card
    capsys.readouterr()
    assert cli(["check", str(folder)]) == 0
    update_info(folder, thresholds=info["thresholds"] | {"certain": 0.123})
    assert cli(["check", str(folder)]) == 1
    assert "config.json: thresholds {'certain': " in (out := capsys.readouterr().out) and "0.123" in out
    update_info(folder, thresholds=[])
    assert cli(["check", str(folder)]) == 1
    assert "run.json: its thresholds cannot be read (thresholds is not an object)" in capsys.readouterr().out


def test_an_export_without_thresholds_still_loads(trained, unknown, tmp_path):
    """As written by earlier versions."""
    folder = tmp_path / "model"
    assert cli(["export", str(trained), "--output", str(folder)]) == 0
    config = json.loads((folder / "config.json").read_text())
    del config["thresholds"]
    (folder / "config.json").write_text(json.dumps(config))
    namer = load_namer(str(folder), "cpu")
    assert namer.thresholds == Thresholds() and namer.note is None
    assert cli(["predict", str(folder), str(unknown), "--device", "cpu"]) == 0


def test_the_gallery_shows_decisions_and_counts_them(measured, unknown, tmp_path, capsys):
    predict(measured, unknown, "--format", "json", "--gallery", tmp_path / "page.html")
    decisions = [row["decision"] for row in json.loads(capsys.readouterr().out)]
    page = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    named, doubted, none = (decisions.count(each) for each in ("landmark", "uncertain", "none"))
    assert f"<strong>{named} named</strong>, {doubted} not certain, {none} with none of the model's landmarks." in page
    assert page.count("Not certain; best guess:") == doubted
    assert page.count("None of the model's landmarks; best guess:") == none
    predict(measured, unknown, "--gallery", tmp_path / "page.html", "--no-threshold")
    assert "ertain" not in (tmp_path / "page.html").read_text(encoding="utf-8")
