"""``timm-landmark train``: the rule in a finished run, interruption at any point, and mistakes of the user."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kill_at import MOMENTS
from train_cases import MODEL, SHORT, train, train_script
from train_data import make_data

from timm_landmark import cli
from timm_landmark.data.layout import ClassRow, read_rows, write_rows
from timm_landmark.runs.checkpoints import checkpoint_epoch
from timm_landmark.runs.folder import best_epoch, read_args, read_run_info, read_summary
from timm_landmark.training import rate_rule
from timm_landmark.training.rate_rule import paper_rates
from timm_landmark.utils.errors import UserError

EPOCHS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Classes that are hard to tell apart, so that the accuracy goes up and down."""
    return make_data(tmp_path_factory.mktemp("train") / "data", classes=6, images=(6, 4, 2), size=40, contrast=0.1)


@pytest.fixture(scope="module", params=["stand-in", pytest.param("script", marks=pytest.mark.script)])
def trainer(request):
    """The options that select the trainer."""
    if request.param == "script":
        yield ["--train-script", str(train_script())]
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
        patch.setenv("XDG_CACHE_HOME", "/nonexistent")
        yield []


@pytest.fixture(scope="module")
def whole(data, trainer, tmp_path_factory):
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(data, run, "--epochs", EPOCHS, *trainer) == 0
    return run


def check_finished(run, whole):
    assert (run / "summary.csv").read_bytes() == (whole / "summary.csv").read_bytes()
    assert read_run_info(run)["finished"] is True
    best = best_epoch(read_summary(run))
    assert checkpoint_epoch(run / "model_best.pth.tar") == checkpoint_epoch(run / f"checkpoint-{best}.pth.tar") == best
    assert checkpoint_epoch(run / "last.pth.tar") == EPOCHS - 1
    files = {file.name for file in run.iterdir()}
    assert files == {file.name for file in whole.iterdir()}


def test_the_rates_are_what_the_rule_gives_for_the_accuracies_beside_them(whole):
    lines = (whole / "summary.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", *map(str, range(EPOCHS))]
    rows = read_summary(whole)
    assert [row["lr"] for row in rows] == paper_rates(0.02, [row["eval_top1"] for row in rows])[:-1]
    assert rows[-1]["lr"] < 0.02, "no accuracy fell: the data of this test do not test the rule"


@pytest.mark.parametrize("output", [".", "../run", "link/../run"])
def test_a_folder_however_it_is_named(data, trainer, tmp_path, monkeypatch, output):
    """All files are written to that folder, and --resume finds it."""
    start, run = tmp_path / "start", tmp_path / "start"
    start.mkdir()
    if output == "../run":
        run = tmp_path / "run"
    if output == "link/../run":  # the run is next to the target of the link
        (tmp_path / "far" / "target").mkdir(parents=True)
        (start / "link").symlink_to(tmp_path / "far" / "target")
        run = tmp_path / "far" / "run"
    monkeypatch.chdir(start)
    before = {path for path in tmp_path.rglob("*") if path.is_dir()} | {run}
    for epochs, resume in ((1, []), (2, ["--resume"])):
        assert train(data, output, "--epochs", epochs, *resume, *trainer) == 0
    assert read_run_info(run)["sessions"][0]["from_epoch"] == 1
    assert {file.parent for file in tmp_path.rglob("*.*")} == {run}
    assert {path for path in tmp_path.rglob("*") if path.is_dir()} == before


def test_what_run_json_says(whole, data):
    info = read_run_info(whole)
    assert info["model"] == MODEL
    assert (info["seed"], info["img_size"], info["epochs"], info["epochs_finished"]) == (3, 32, EPOCHS, EPOCHS)
    assert (info["global_batch"], info["processes"], info["batch_per_process"]) == (12, 1, 12)
    assert info["rate_rule"] == "paper"
    assert info["parameters"] > 100_000
    assert info["wall_seconds"] > 0
    assert "/" not in json.dumps({**info, "machine": {}}), "a path of this machine"
    assert read_rows(whole, ClassRow) == read_rows(data, ClassRow)
    assert read_args(whole)["data_dir"] == str(data)


@pytest.mark.parametrize("stop", [1, pytest.param(3, marks=pytest.mark.full), EPOCHS - 1])
def test_resumed_after_an_epoch_it_ends_like_an_uninterrupted_run(data, trainer, whole, tmp_path, stop, capfd):
    run = tmp_path / "run"
    assert train(data, run, "--epochs", stop, *trainer) == 0
    assert train(data, run, "--epochs", EPOCHS, "--resume", *trainer) == 0
    check_finished(run, whole)
    assert read_run_info(run)["sessions"][0]["from_epoch"] == stop
    before = {file.name: file.stat().st_mtime_ns for file in run.iterdir()}
    assert train(data, run, "--epochs", EPOCHS, "--resume", *trainer) == 0
    assert "is finished: 6 epochs" in capfd.readouterr().out
    assert {file.name: file.stat().st_mtime_ns for file in run.iterdir()} == before


def run_killed(moment, epoch, data, run, *options):
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "helpers" / "kill_at.py"),
        moment,
        str(epoch),
        "train",
        MODEL,
    ]
    command += ["--data", str(data), "--output", str(run), *SHORT, "--epochs", str(EPOCHS), *options]
    return subprocess.run(command, capture_output=True, text=True).returncode


@pytest.mark.parametrize(
    ("moment", "epoch"),
    [("unlinked", 2)]
    + [pytest.param(moment, epoch, marks=pytest.mark.full) for moment in MOMENTS for epoch in (0, EPOCHS - 1)],
)
def test_killed_at_any_moment_it_ends_like_an_uninterrupted_run(data, trainer, whole, tmp_path, moment, epoch):
    run = tmp_path / "run"
    assert run_killed(moment, epoch, data, run, *trainer) == -signal.SIGKILL
    assert read_run_info(run)["finished"] is False  # even if the last checkpoint exists: it has not been read yet
    assert train(data, run, "--epochs", EPOCHS, "--resume", *trainer) == 0
    check_finished(run, whole)


@pytest.mark.full
def test_killed_again_and_again(data, trainer, whole, tmp_path):
    run = tmp_path / "run"
    for number, (moment, epoch) in enumerate([("torn", 0), ("row", 1), ("unlinked", 2), ("renamed", 3), ("saved", 4)]):
        resume = ["--resume"] if number else []
        assert run_killed(moment, epoch, data, run, *resume, *trainer) == -signal.SIGKILL
    assert train(data, run, "--epochs", EPOCHS, "--resume", *trainer) == 0
    check_finished(run, whole)


def test_ctrl_c_ends_with_130_and_says_how_to_continue(data, trainer, whole, tmp_path, monkeypatch, capfd):
    step_update = rate_rule.Steered.step_update

    def interrupted(self, num_updates, metric=None):
        step_update(self, num_updates, metric)
        if self._epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(rate_rule.Steered, "step_update", interrupted)
    run = tmp_path / "run"
    assert train(data, run, "--epochs", EPOCHS, *trainer) == 130
    assert "interrupted after 2 of 6 epochs; continue with the same command and --resume" in capfd.readouterr().err
    monkeypatch.undo()
    assert train(data, run, "--epochs", EPOCHS, "--resume", *trainer) == 0
    check_finished(run, whole)


@pytest.mark.full
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_sigint_from_outside(data, trainer, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "timm_landmark.cli", "train", MODEL, "--data", str(data), "--output", str(run)]
    command += [*SHORT, "--epochs", "1000", *trainer]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    while not (run / "last.pth.tar").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in error
    assert "Traceback" not in error


def test_the_model_gets_images_of_the_size_asked_for(data, trainer, tmp_path):
    seen = []

    def note(module, inputs):
        if type(module).__name__ == "ResNet":
            seen.append(tuple(inputs[0].shape))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        assert train(data, tmp_path / "run", "--epochs", 1, "--img-size", 48, *trainer) == 0
    finally:
        hook.remove()
    assert {shape[1:] for shape in seen} == {(3, 48, 48)}
    # a trial's step and validation, then 36 training and 24 validation images in batches of 12
    assert len(seen) == 1 + 2 + 3 + 2


@pytest.mark.script
def test_timms_scheduler_steers_where_it_is_named(data, tmp_path):
    script = ["--train-script", train_script()]
    options = ["--epochs", 3, "--sched", "step", "--decay-epochs", 1, "--decay-rate", 0.1]
    run, again = tmp_path / "run", tmp_path / "again"
    assert train(data, run, *options, *script) == 0
    assert [row["lr"] for row in read_summary(run)] == pytest.approx([0.02, 0.002, 0.0002])
    assert read_run_info(run)["rate_rule"] == "timm step"
    shutil.copytree(run, again)
    with pytest.raises(UserError, match="epochs"):  # timm's schedules depend on the length
        train(data, again, *options, "--epochs", 4, "--resume", *script)


@pytest.mark.script
def test_a_recipe_of_ones_own(data, tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("opt: sgd\nsched: cosine\nwarmup_epochs: 0\ncrop_pct: 1.0\n")
    run = tmp_path / "run"
    assert train(data, run, "-c", recipe, "--epochs", 2, "--train-script", train_script()) == 0
    assert read_args(run)["opt"] == "sgd"
    assert read_run_info(run)["rate_rule"] == "timm cosine"
    assert read_summary(run)[1]["lr"] == pytest.approx(0.01)


def test_a_nan_loss_stops_and_keeps_what_was_trained(data, trainer, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert train(data, run, "--epochs", 1, *trainer) == 0
    before = (run / "summary.csv").read_bytes(), (run / "last.pth.tar").read_bytes()
    step_update = rate_rule.Steered.step_update

    def overflowing(self, num_updates, metric=None):
        step_update(self, num_updates, metric if self._epoch == 0 else metric * float("inf"))

    monkeypatch.setattr(rate_rule.Steered, "step_update", overflowing)
    with pytest.raises(UserError, match="training loss is inf in epoch 1"):
        train(data, run, "--epochs", 2, "--resume", *trainer)
    assert ((run / "summary.csv").read_bytes(), (run / "last.pth.tar").read_bytes()) == before
    with pytest.raises(UserError, match="training loss is nan in epoch 0"):
        monkeypatch.undo()
        train(data, tmp_path / "nan", "--epochs", 1, "--lr", 1e30, *trainer)


def test_the_command_line_prints_one_line_and_no_traceback(data, capfd):
    assert cli.main(["train", MODEL, "--data", str(data)]) == 2
    error = capfd.readouterr().err
    assert error == "timm-landmark train: error: --output is missing; see `timm-landmark train --help`\n"
    assert cli.main(["train", "--data", str(data)]) == 2
    assert "the first argument must be MODEL" in capfd.readouterr().err


def test_an_existing_output_is_never_written_into(data, whole, trainer):
    before = {file.name: file.stat().st_mtime_ns for file in whole.iterdir()}
    with pytest.raises(UserError, match="exists; give --resume to continue it, or another folder"):
        train(data, whole, "--epochs", 1, *trainer)
    assert {file.name: file.stat().st_mtime_ns for file in whole.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "0.3"], r"--lr: the run was started with 0\.02, now it is 0\.3"),
        (["--seed", "4"], "--seed: the run was started with seed 3, now it is 4"),
        (["-b", "6"], "-b: the run was started with global_batch 12, now it is 6"),
        (["--img-size", "48"], "--img-size: the run was started with 32, now it is 48"),
    ],
)
def test_a_run_is_resumed_with_what_it_was_started_with(data, trainer, whole, options, message):
    with pytest.raises(UserError, match=message):
        train(data, whole, "--epochs", EPOCHS + 1, "--resume", *options, *trainer)
    with pytest.raises(UserError, match="MODEL: the run was started with model test_resnet, now it is test_vit"):
        train(data, whole, "--epochs", EPOCHS + 1, "--resume", *trainer, model="test_vit")


def test_a_class_map_that_does_not_fit_the_checkpoint(data, trainer, whole, tmp_path):
    fewer = make_data(tmp_path / "fewer", classes=5, images=(12, 4, 2), size=40)
    with pytest.raises(UserError, match=r"does not fit the checkpoint .* class 5 was 0005 \(Class 5\), now it is none"):
        train(fewer, whole, "--epochs", EPOCHS + 1, "--resume", *trainer)
    other = shutil.copytree(data, tmp_path / "other")
    rows = read_rows(other, ClassRow)
    write_rows(other, ClassRow, [*rows[:-1], ClassRow(rows[-1].folder, "77", "Another", 6, 4, 2)])
    with pytest.raises(UserError, match=r"class 5 was 0005 \(Class 5\), now it is 0005 \(Another\)"):
        train(other, whole, "--epochs", EPOCHS + 1, "--resume", *trainer)
    moved = shutil.copytree(data, tmp_path / "moved")
    (moved / "manifest.csv").write_text((data / "manifest.csv").read_text().replace("test", "train"))
    with pytest.raises(UserError, match="--data: the run was started with data_digest"):
        train(moved, whole, "--epochs", EPOCHS + 1, "--resume", *trainer)


def test_a_run_without_its_checkpoint(data, trainer, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    for file in run.glob("*.tar"):
        file.unlink()
    with pytest.raises(UserError, match=r"6 epochs in summary\.csv but no readable last\.pth\.tar"):
        train(data, run, "--epochs", EPOCHS + 1, "--resume", *trainer)


@pytest.mark.parametrize("damage", ["dataset.json", "classes.csv", "class_map.txt", "validation"])
def test_a_damaged_data_set(data, tmp_path, damage):
    broken = shutil.copytree(data, tmp_path / "broken")
    path = broken / damage
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=damage):
        train(broken, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_map_that_is_not_the_classes(data, tmp_path):
    broken = shutil.copytree(data, tmp_path / "broken")
    (broken / "class_map.txt").write_text("0000\n0001\n")
    with pytest.raises(UserError, match="list different classes"):
        train(broken, tmp_path / "run")
