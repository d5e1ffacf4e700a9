"""finetune.py with the real verbs: what is trained, what is collected, what is refused, and the table."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from train_cases import MODEL, train
from train_data import make_data

from benchmarks import finetune, report
from benchmarks.comparison import consistency
from benchmarks.comparison.sets import metrics
from benchmarks.rendering.inference_tables import finetune_table
from timm_landmark import cli
from timm_landmark.runs.folder import read_run_info, update_info


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A source, and both runs of one tiny model for two epochs."""
    folder = tmp_path_factory.mktemp("finetune")
    data = make_data(folder / "data", images=(8, 4, 6), size=40)
    other = make_data(folder / "other", classes=4, images=(6, 3, 3), size=40)
    assert train(other, folder / "sources" / f"{MODEL}-s0", "--epochs", 1) == 0
    assert finetune_py(folder, data) == 0
    return folder


def finetune_py(folder, data, *options, sources="sources", output="out"):
    """In this process: importing torch takes longer than these runs."""
    words = ["--data", data, "--sources", folder / sources, "--output", folder / output, "--models", MODEL]
    words += ["--epochs", 2, "--img-size", 32, *options, "--", "-b", 8, "--workers", 0, "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "_verb", lambda *words: cli.main([*words]))
        return finetune.main([*map(str, words)])


def result_of(folder):
    return json.loads((folder / "out" / "results" / f"{MODEL}.json").read_text())


def test_the_two_runs_differ_in_recipe_and_start_only(folder):
    infos = {kind: read_run_info(folder / "out" / "runs" / f"{MODEL}-{kind}") for kind in finetune.KINDS}
    assert (infos["finetune"]["recipe"], infos["scratch"]["recipe"]) == ("finetune.yaml", "paper.yaml")
    assert infos["finetune"]["init_from"]["source"] == f"{MODEL}-s0" and "init_from" not in infos["scratch"]
    for key in ("model", "seed", "epochs", "img_size", "data_digest", "global_batch"):
        assert infos["finetune"][key] == infos["scratch"][key], key


def test_the_result_is_what_the_predictions_give(folder):
    result, right = result_of(folder), {}
    for kind in finetune.KINDS:
        with open(folder / "out" / "runs" / f"{MODEL}-{kind}" / "predictions-test.csv", newline="") as file:
            right[kind] = {row["image_id"] for row in csv.DictReader(file) if row["class"] == row["prediction"]}
        top1 = result["runs"][kind]["test_top1"]
        assert (top1["correct"], top1["images"]) == (len(right[kind]), 18)
        assert top1["interval"] == list(metrics.wilson(len(right[kind]), 18))
        assert len(result["runs"][kind]["validation_top1"]) == 2
    gained, lost = len(right["finetune"] - right["scratch"]), len(right["scratch"] - right["finetune"])
    assert (result["pairs"]["only_finetune"], result["pairs"]["only_scratch"]) == (gained, lost)
    assert result["difference"]["value"] == pytest.approx((gained - lost) / 18)
    assert result["source"]["num_classes"] == 4


def test_results_agree_and_name_no_path(folder, tmp_path):
    consistency.check_finetune(Path("x"), result_of(folder))
    (tmp_path / "finetune").mkdir()
    broken = result_of(folder)
    broken["runs"]["scratch"]["test_top1"]["correct"] += 1
    (tmp_path / "finetune" / "x.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"finetune/x\.json: test_top1 of scratch"):
        consistency.check_all(tmp_path)
    assert str(folder) not in json.dumps(result_of(folder))


def test_the_same_command_trains_nothing_again_and_goes_on_after_an_interruption(folder, tmp_path):
    for name in ("sources", "out"):
        shutil.copytree(folder / name, tmp_path / name)
    runs, before = tmp_path / "out" / "runs", result_of(tmp_path)
    update_info(runs / f"{MODEL}-scratch", evaluation={})  # as if killed before the evaluation
    (tmp_path / "out" / "results" / f"{MODEL}.json").unlink()
    stamps = {file: file.stat().st_mtime_ns for file in runs.rglob("*.pth.tar")}
    assert finetune_py(tmp_path, folder / "data") == 0
    assert {file: file.stat().st_mtime_ns for file in runs.rglob("*.pth.tar")} == stamps
    assert result_of(tmp_path) == before


def test_the_table(folder, tmp_path):
    text = finetune_table([result_of(folder)])
    assert "3 classes; 24 training, 12 validation and 18 test images; 32 pixels, 2 epochs" in text
    top1 = result_of(folder)["runs"]["scratch"]["test_top1"]
    low, high = (100 * bound for bound in metrics.wilson(top1["correct"], 18))
    assert f"| `{MODEL}` |" in text and f"{100 * top1['value']:.1f} [{low:.1f}, {high:.1f}] |" in text
    half = {key: value for key, value in result_of(folder).items() if key not in ("pairs", "difference")}
    assert finetune_table([half]) == finetune_table([]) == "No network has been fine-tuned yet."
    assert "finetune" in report.blocks(report.stated_runs())


def test_the_source_is_the_run_of_the_lowest_seed(tmp_path):
    for name in ("resnet50-s10", "resnet50-s2", "resnet50-s1-copy", "resnet50-small", "resnet50d-s1"):
        (tmp_path / name).mkdir()
    plan = finetune.Plan(tmp_path, tmp_path, tmp_path, ("resnet50",), ())
    assert plan.source("resnet50") == tmp_path / "resnet50-s2"
    assert plan.source("resneat50") == tmp_path / "resneat50-s0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet50"}, f"{MODEL}-s0 cannot be the start: it is a run of resnet50"),
        ({"finished": False}, "it is not finished"),
        ({"data_digest": None}, "it was trained on --data .* itself"),
    ],
)
def test_a_source_that_cannot_be_the_start(folder, tmp_path, capsys, change, message):
    run = tmp_path / "sources" / f"{MODEL}-s0"
    shutil.copytree(folder / "sources" / f"{MODEL}-s0", run)
    if "data_digest" in change:
        change = {"data_digest": read_run_info(folder / "out" / "runs" / f"{MODEL}-scratch")["data_digest"]}
    update_info(run, **change)
    with pytest.raises(SystemExit):
        finetune_py(tmp_path, folder / "data")
    assert capsys.readouterr().err.count("error: ") == 1
    with pytest.raises(SystemExit):
        finetune_py(tmp_path, folder / "data", sources="absent")
    assert "absent" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
