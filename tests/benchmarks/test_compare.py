"""compare.py with the real verbs: it runs, skips, resumes, collects results without paths, and reports."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from train_data import make_data, pack

from benchmarks import compare
from benchmarks.comparison import collect
from benchmarks.comparison import sets as comparison

MODELS = ["test_resnet", "test_vit2"]
VARIANT = "resneat50_scale1_shuffle"  # of ablations.py, unknown to the package's own command line


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Runs the whole pipeline once: two tiny timm models, one seed, one epoch at 32 pixels."""
    folder = tmp_path_factory.mktemp("compare")
    data = make_data(folder / "data")
    assert compare_py(folder, data) == 0
    return folder


def compare_py(folder, data, *options, models=MODELS):
    words = ["--data", str(data), "--output", str(folder / "out"), "--models", *models, "--epochs", "1"]
    words += ["--img-size", "32", *options, "--", "-b", "8", "--workers", "0"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    environment.pop("TIMM_TRAIN_SCRIPT", None)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", *words],
        cwd=comparison.REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    (folder / "log.txt").write_text(done.stdout + done.stderr)
    return done.returncode


def test_results_hold_what_the_runs_say(out):
    runs = comparison.load(out / "out" / "results").runs
    assert list(runs) == MODELS
    run = runs["test_resnet"][0]
    info = json.loads((out / "out" / "runs" / "test_resnet-s0" / "run.json").read_text())
    right = info["evaluation"]["test"]["top1"]["correct"]
    assert sum(run.hits(1, list(run.ranks))) == right
    assert run.args["img_size"] == 32 and len(run.epochs) == 1 and run.seed == 0
    report = (out / "out" / "report.md").read_text()
    assert "`test_resnet`" in report and "3 classes; 36 training, 18 validation and 18 test images" in report


def test_finished_runs_keep_logits_and_features_which_are_not_collected(out):
    for model in MODELS:
        kept = {file.name for file in (out / "out" / "runs" / f"{model}-s0").glob("features-*")}
        assert kept == {"features-validation.npz", "features-test.npz"}
    assert not list((out / "out" / "results").rglob("features-*"))


def test_results_name_no_path_of_the_machine(out):
    for file in (out / "out" / "results").rglob("*"):
        if file.suffix in (".json", ".yaml", ".csv", ".md"):
            text = file.read_text()
            assert str(out) not in text, file
            assert os.path.expanduser("~") not in text or os.path.expanduser("~") == "/", file
    args = yaml.safe_load((out / "out" / "results" / "test_resnet-s0" / "args.yaml").read_text())
    assert (args["data_dir"], args["class_map"], args["output"]) == ("DATA", "DATA/class_map.txt", "RUNS")


def test_images_with_class_and_split_rebuild_the_set(out):
    images = comparison.read_csv(out / "out" / "results" / "images.csv")
    for row in images:
        assert (out / "data" / row["split"] / row["class"] / f"{row['image_id']}.jpg").is_file()
    assert len(images) == 3 * (12 + 6 + 6)


@pytest.mark.full
def test_a_variant_is_trained_and_evaluated_by_the_same_command(tmp_path):
    assert compare_py(tmp_path, make_data(tmp_path / "data"), models=[VARIANT]) == 0, (tmp_path / "log.txt").read_text()
    (run,) = comparison.load(tmp_path / "out" / "results").runs[VARIANT]
    assert run.info["model"] == VARIANT


@pytest.mark.full
def test_a_set_in_shards_given_by_a_command(tmp_path):
    """A run does not store the command, so it is passed to every verb."""
    data = pack(make_data(tmp_path / "data"), tmp_path / "shards")
    assert compare_py(tmp_path, f"pipe:cat {data}", models=MODELS[:1]) == 0, (tmp_path / "log.txt").read_text()
    assert list(comparison.load(tmp_path / "out" / "results").runs) == MODELS[:1]
    assert {file.name for file in (tmp_path / "out" / "runs" / "test_resnet-s0").glob("features-*")} == {
        "features-validation.npz",
        "features-test.npz",
    }


@pytest.mark.full
def test_finished_runs_are_skipped_and_a_begun_one_goes_on(out):
    runs = out / "out" / "runs"
    before = (runs / "test_resnet-s0" / "run.json").stat().st_mtime_ns
    info = json.loads((runs / "test_vit2-s0" / "run.json").read_text())
    info["evaluation"].pop("test")
    (runs / "test_vit2-s0" / "run.json").write_text(json.dumps(info))  # as killed between the two evaluations
    (runs / "test_vit2-s0" / "features-test.npz").unlink()
    shutil.rmtree(out / "out" / "results")
    assert compare_py(out, out / "data") == 0
    log = (out / "log.txt").read_text()
    assert "[1/2] test_resnet-s0: already finished" in log
    assert "test_vit2-s0 is finished: 1 epoch" in log  # not trained again
    assert (runs / "test_resnet-s0" / "run.json").stat().st_mtime_ns == before
    assert list(comparison.load(out / "out" / "results").runs) == MODELS


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"finished": False}, "not finished"),
        ({"data_digest": "0" * 64}, "tested on another data set than it was trained on"),
        ({"init_from": "model.safetensors"}, "started from existing weights"),
    ],
)
def test_collect_only_leaves_out_what_is_not_comparable(change, told, out, tmp_path, capsys):
    runs = tmp_path / "runs"
    shutil.copytree(out / "out" / "runs", runs)
    info = json.loads((runs / "test_vit2-s0" / "run.json").read_text())
    (runs / "test_vit2-s0" / "run.json").write_text(json.dumps({**info, **change}))
    words = ["--data", str(out / "data"), "--output", str(tmp_path), "--models", *MODELS]
    assert compare.main([*words, "--collect-only", "--results", str(tmp_path / "photos")]) == 0
    assert list(comparison.load(tmp_path / "photos").runs) == ["test_resnet"]
    assert f"skipped test_vit2-s0: {told}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("classes.csv", ",12,6,6", ",13,5,6"),
        ("predictions-test.csv", "\n1", "\n0"),
        ("predictions-test.csv", ",0000,", ",0001,"),
    ],
)
def test_a_run_on_other_images_is_left_out(name, old, new, out, tmp_path, capsys):
    runs = tmp_path / "runs"
    shutil.copytree(out / "out" / "runs", runs)
    text = (runs / "test_vit2-s0" / name).read_text()
    assert old in text
    (runs / "test_vit2-s0" / name).write_text(text.replace(old, new, 1))
    collect.collect(out / "data", [runs / f"{model}-s0" for model in MODELS], tmp_path / "results")
    assert list(comparison.load(tmp_path / "results").runs) == ["test_resnet"]
    assert "skipped test_vit2-s0: trained on another data set" in capsys.readouterr().out


def test_the_same_images_under_another_digest_stand_beside_each_other(out, tmp_path, capsys):
    """As with earlier results, or photos that were packed again: the existing record of the data set is kept."""
    results, runs = tmp_path / "results", tmp_path / "runs"
    shutil.copytree(out / "out" / "results", results)
    shutil.copytree(out / "out" / "runs", runs)
    info = (runs / "test_vit2-s0" / "run.json").read_text()
    digest = json.loads(info)["data_digest"]
    (runs / "test_vit2-s0" / "run.json").write_text(info.replace(digest, "0" * 64))
    (results / "dataset.json").write_text('{"digest": "of old"}')
    shutil.rmtree(results / "test_vit2-s0")
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    words = ["--data", str(out / "data"), "--output", str(tmp_path), "--models", "test_vit2", "--collect-only"]
    assert compare.main([*words, "--results", str(results)]) == 0
    assert list(comparison.load(results).runs) == MODELS
    assert json.loads((results / "test_vit2-s0" / "run.json").read_text())["data_digest"] == "0" * 64
    assert all(path.read_bytes() == content for path, content in before.items() if path.suffix in (".csv", ".json"))


def test_results_of_other_images_are_refused_before_anything_is_trained(out, tmp_path, capsys):
    results = shutil.copytree(out / "out" / "results", tmp_path / "results")
    text = (results / "images.csv").read_text()
    (results / "images.csv").write_text(text.replace(",train\n", ",validation\n", 1))
    words = ["--data", str(out / "data"), "--output", str(tmp_path / "new"), "--models", "test_vit2"]
    with pytest.raises(SystemExit) as stop:
        compare.main([*words, "--results", str(results)])
    assert stop.value.code == 2
    assert f"--results {results}: contains runs on other images" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_failing_run_stops_with_its_code_and_a_word(tmp_path, capfd):
    data = make_data(tmp_path / "data")
    words = ["--data", str(data), "--output", str(tmp_path / "out"), "--models", "no_such_model"]
    assert compare.main(words) == 2
    error = capfd.readouterr().err
    assert "no_such_model" in error and "Traceback" not in error
    assert "repeat the command to continue from here" in error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--data"),
        (["--data", "nowhere"], "--data nowhere"),
        (["--data", "s3://bucket/DATA"], "--data s3://bucket/DATA: only addresses with http://"),
        (["--data", "DATA", "--seeds", "a"], "--seeds"),
        (["--data", "DATA", "--collect-only"], "contains no finished run of resnet50"),
    ],
)
def test_wrong_use_is_told(words, told, tmp_path, capsys):
    data = str(make_data(tmp_path / "data"))
    words = [data if word == "DATA" else word for word in words]
    with pytest.raises(SystemExit) as stop:
        compare.main([*words, "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "compare.py: error" in error and told in error


def test_missing_matplotlib_is_told_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as left:
        compare.main(["--quick", "--output", str(tmp_path / "out")])
    assert left.value.code == 2 and "pip install 'timm-landmark[bench]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_quick_covers_the_seven_and_every_split():
    args = compare._parser().parse_args(["--quick", "--output", "out"])
    plan = compare._plan(args)
    assert plan.models == comparison.claims.SEVEN
    assert [folder.name for *_, folder in plan.runs][-1] == "resneat50-s0"
    assert int(plan.options[plan.options.index("--img-size") + 1]) >= 75  # the minimum for Inception


def test_paths_are_cut_everywhere():
    value = {"a": "/data/set", "b": ["/data/set/class_map.txt", "/home/me/train.py", "sgd"], "c": 1, "d": None}
    cut = collect.without_paths(value, {"/data/set": "DATA"})
    assert cut == {"a": "DATA", "b": ["DATA/class_map.txt", "train.py", "sgd"], "c": 1, "d": None}
    assert collect.without_paths("../photos/DATA/x", {"../photos/DATA": "DATA"}) == "DATA/x"
    assert collect.without_paths("my\\set\\a\\b.txt", {"my\\set": "DATA"}) == "DATA/a/b.txt"
