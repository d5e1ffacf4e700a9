"""Thresholds in predict and export: what is certain, what shows no landmark, what is refused."""

import csv
import html
import io
import json
import re

import pytest
from verbs import predict

from timm_landmark.cli import main as cli
from timm_landmark.inference.namer import load_namer, name_photos
from timm_landmark.inference.photos import find_photos
from timm_landmark.runs.folder import read_run_info, update_info
from timm_landmark.runs.thresholds import Thresholds, read_thresholds


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
