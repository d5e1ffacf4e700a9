"""A prepared data set in shards: training, evaluation, export and comparison as with folders."""
# ruff: noqa: F811  (fixtures)

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from sharded_cases import broken, evaluated, folders, no_script, server, shards, trained, trainer  # noqa: F401
from train_cases import MODEL, SHORT, train, train_script

from benchmarks.comparison import collect
from benchmarks.comparison import sets as comparison
from timm_landmark import cli
from timm_landmark.data import address
from timm_landmark.data.check import write_sums
from timm_landmark.data.layout import ManifestRow
from timm_landmark.data.shards import read_shard_info, write_shard
from timm_landmark.hub.export import main as export
from timm_landmark.inference.evaluate import main as evaluate
from timm_landmark.inference.split_predictions import photo_loader
from timm_landmark.runs.folder import read_args, read_run_info, read_summary
from timm_landmark.runs.model import load_run
from timm_landmark.utils.errors import UserError


def damage(data, how):
    """Breaks the last training shard; returns its name."""
    name = list(read_shard_info(data)["train"])[-1]
    content = (data / name).read_bytes()
    if how == "flipped":
        (data / name).write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
    elif how == "cut between members":  # a tar reader takes this for the end
        (data / name).write_bytes(content[:1024])
    elif how == "no image":
        row = ManifestRow("0123456789abcdef", "0", "0000", "train", "", "")
        write_shard(data / name, [row], {"0000": 0}, lambda row: b"no image at all")
        write_sums(data)
    return name


def test_kept_features_are_exactly_those_of_the_folders(folders, shards, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    kept = []
    for options in (["--data", folders], ["--data", shards], ["--data", shards, "-j", 3]):
        evaluated(run, *options, "-b", 5, "--keep-features")
        with np.load(run / "features-test.npz") as file:
            kept.append({name: file[name] for name in file})
    for other in kept[1:]:
        assert all(np.array_equal(other[name], kept[0][name]) for name in ("image_id", "logits", "pooled"))
    with open(run / "predictions-test.csv", newline="") as file:
        assert [row["image_id"] for row in csv.DictReader(file)] == kept[0]["image_id"].tolist()


def test_evaluate_gives_exactly_the_figures_of_the_folders(folders, shards, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    wanted = evaluated(run, "--data", folders, "-b", 5)
    assert wanted[0]["images"] == 28 and 0 < wanted[0]["top1"]["value"] < 1
    for workers in (0, 2):
        assert evaluated(run, "--data", shards, "-b", 5, "-j", workers) == wanted
    assert evaluated(run, "--data", folders, "-b", 5, "-j", 2) == wanted
    assert evaluated(run, "-b", 5) == wanted  # the set that it was trained on


def test_both_forms_give_the_same_batches(folders, shards, trained):
    """The output for an image may depend on its batch, so this makes the results equal to the last bit."""
    run = load_run(trained)

    def batches(data, workers):
        loader, rows = photo_loader(run, data, "test", batch_size=5, workers=workers)
        return {tuple(rows[number].image_id for number in numbers.tolist()): images for images, numbers in loader}

    wanted = batches(folders, 0)
    assert [len(names) for names in wanted] == [5] * 5 + [3]
    for data, workers in ((folders, 2), (shards, 0), (shards, 2)):
        found = batches(data, workers)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[names], images) for names, images in wanted.items())


def test_what_a_run_on_shards_says(trained):
    assert read_args(trained)["dataset"] == "wds/"
    assert [row["epoch"] for row in read_summary(trained)] == [0, 1, 2]
    assert read_run_info(trained)["finished"] is True


@pytest.mark.script
def test_the_script_gives_the_same_rows(shards, trained, tmp_path):
    assert train(shards, tmp_path / "run", "--epochs", 2, "--train-script", train_script()) == 0
    assert read_summary(tmp_path / "run") == read_summary(trained)[:2]


@pytest.mark.parametrize("workers", [2, pytest.param(1, marks=pytest.mark.full)])
def test_loading_processes(shards, trainer, tmp_path, workers):
    assert train(shards, tmp_path / "run", "--epochs", 2, *trainer, "--workers", workers) == 0
    assert len(read_summary(tmp_path / "run")) == 2


def test_a_resumed_run_ends_as_an_uninterrupted_one(shards, trainer, trained, tmp_path):
    run = tmp_path / "run"
    assert train(shards, run, "--epochs", 1, *trainer) == 0
    assert train(shards, run, "--epochs", 3, "--resume", *trainer) == 0
    assert (run / "summary.csv").read_bytes() == (trained / "summary.csv").read_bytes()


def test_a_run_does_not_go_on_with_the_other_form(folders, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(UserError, match=r"--data .*: the run was started with images in shards, now .* folders"):
        train(folders, run, "--epochs", 4, "--resume")


@pytest.mark.parametrize(
    ("how", "told", "workers"),
    [
        ("flipped", "is damaged", 1),
        ("cut between members", "is damaged", 0),
        ("no image", "cannot be decoded", 1),
        pytest.param("no image", "cannot be decoded", 0, marks=pytest.mark.full),
        pytest.param("flipped", "is damaged", 0, marks=pytest.mark.full),
    ],
)
def test_a_broken_shard_ends_the_run(broken, trainer, tmp_path, how, told, workers):
    name = damage(broken, how)
    with pytest.raises(UserError, match=told) as caught:
        train(broken, tmp_path / "run", "--epochs", 1, *trainer, "--workers", workers)
    assert "\n" not in str(caught.value)
    assert how == "no image" or name in str(caught.value)
    assert not read_summary(tmp_path / "run")


def test_a_missing_shard_is_seen_before_the_run_starts(broken, tmp_path):
    name = list(read_shard_info(broken)["validation"])[-1]
    (broken / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        train(broken, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def edit_info(data, split="test", **change):
    info = json.loads((data / "_info.json").read_text())
    info["splits"][split].update(change)
    (data / "_info.json").write_text(json.dumps(info))
    write_sums(data)


def test_evaluate_fails_when_the_count_is_another(broken, trained, folders, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    lengths = list(read_shard_info(broken)["test"].values())
    edit_info(broken, num_samples=sum(lengths) + 1)
    with pytest.raises(UserError, match="num_samples is not the sum of shard_lengths"):
        evaluate([str(run), "--data", str(broken)])
    edit_info(broken, num_samples=sum(lengths) + 1, shard_lengths=[lengths[0] + 1, *lengths[1:]])
    with pytest.raises(UserError, match=r"_info\.json lists 29 images in test, manifest\.csv 28"):
        evaluate([str(run), "--data", str(broken)])
    edit_info(broken, num_samples=sum(lengths), shard_lengths=[lengths[0] + 1, lengths[1] - 1, *lengths[2:]])
    with pytest.raises(UserError, match=r"test-000000\.tar has 1 images, but _info\.json lists 2"):
        evaluate([str(run), "--data", str(broken)])
    assert read_run_info(run).get("evaluation") is None


def test_evaluate_counts_every_image_once(broken, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    first, second = list(read_shard_info(broken)["test"])[:2]
    shutil.copy2(broken / first, broken / second)
    write_sums(broken)
    with pytest.raises(UserError, match=r"read 28 images of test \(27 different ones\), but manifest\.csv has 28"):
        evaluate([str(run), "--data", str(broken)])


def test_a_name_in_info_json_is_that_of_a_shard(broken, trained):
    """With ``pipe:`` the name becomes part of a shell command."""
    names = list(read_shard_info(broken)["test"])
    edit_info(broken, filenames=["test-000000.tar; touch here", *names[1:]])
    with pytest.raises(UserError, match="not the name of a shard of test"):
        evaluate([str(trained), "--data", str(broken)])


def test_without_webdataset_the_extra_is_named(shards, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match=r"pip install 'timm-landmark\[webdataset\]'"):
        train(shards, tmp_path / "run")


def test_each_loading_process_needs_a_shard(shards, tmp_path):
    with pytest.raises(UserError, match=r"--workers 43: train has 42 shards"):
        train(shards, tmp_path / "run", "--workers", 43)


def test_export_tells_of_the_data(shards, trained, server, tmp_path):
    for number, options in enumerate(([], ["--data", str(server.url)])):
        folder = tmp_path / str(number)
        assert export([str(trained), "--output", str(folder), "--name", f"{MODEL}.x", *options]) == 0
        assert (folder / "README.md").read_text().count("7 classes") >= 1
    assert (tmp_path / "0" / "README.md").read_text() == (tmp_path / "1" / "README.md").read_text()


def test_results_are_collected(folders, shards, trained, server, tmp_path):
    run = shutil.copytree(trained, tmp_path / f"{MODEL}-s3")
    evaluated(run)
    for name, data in {"shards": shards, "address": address.place(server.url)}.items():
        collect.collect(data, [run], tmp_path / name)
        assert list(comparison.load(tmp_path / name).runs) == [MODEL]
    assert str(shards) not in (tmp_path / "shards" / run.name / "args.yaml").read_text()


def test_the_command_line_says_it_in_one_line(broken, trained, capfd):
    damage(broken, "flipped")
    assert cli.main(["evaluate", str(trained), "--data", str(broken), "--split", "train", "--device", "cpu"]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("timm-landmark evaluate: error:") and "is damaged" in error


SPAWNED = """
import multiprocessing, sys
from timm_landmark.cli import main
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.full
def test_loading_processes_that_are_started_afresh(broken, trainer, tmp_path):
    """As on Windows and macOS; a hook that exists only in the main process would be missing there."""
    (tmp_path / "main.py").write_text(SPAWNED)
    command = [sys.executable, str(tmp_path / "main.py"), "train", MODEL, "--data", str(broken), *SHORT, *trainer]
    command += ["--epochs", "1", "--workers", "1", "--output"]
    assert subprocess.run([*command, str(tmp_path / "whole")], check=False).returncode == 0
    damage(broken, "no image")
    done = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot be decoded" in done.stderr.strip().splitlines()[-1]
