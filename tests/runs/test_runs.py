"""Run folders: reading them, repair after a kill, and never running code from a pickle."""

import argparse
import json
import os
import shutil

import pytest
import timm
import torch
import yaml

from timm_landmark.runs.checkpoints import best_checkpoint, checkpoint_epoch, load_model_weights, settle
from timm_landmark.runs.folder import best_epoch, read_summary, tidy_summary, update_info
from timm_landmark.runs.model import build_model, load_run, load_run_model
from timm_landmark.utils.errors import UserError

HEADER = "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\n"


def line(epoch, accuracy=50.0):
    return f"{epoch},1.5,2.5,{accuracy},100.0,0.0005\n"


def save(run, name, epoch, **more):
    torch.save({"epoch": epoch, "state_dict": {"w": torch.tensor([epoch])}, **more}, run / f"{name}.pth.tar")


def make_run(run, accuracies=(50.0, 70.0, 60.0)):
    """A run as timm's script leaves it after some epochs, with checkpoint_hist 1."""
    run.mkdir(exist_ok=True)
    (run / "summary.csv").write_text(HEADER + "".join(line(*row) for row in enumerate(accuracies)))
    best = max(range(len(accuracies)), key=lambda epoch: accuracies[epoch])
    save(run, "last", len(accuracies) - 1)
    save(run, f"checkpoint-{best}", best)
    shutil.copy(run / f"checkpoint-{best}.pth.tar", run / "model_best.pth.tar")
    return run


def test_the_epsilon_of_batchnorm_is_the_runs():
    args = {"model": "test_efficientnet", "num_classes": 2, "bn_eps": 0.1}
    epsilons = {module.eps for module in build_model(args).modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert epsilons == {0.1}


def test_summary_with_a_second_header_and_a_torn_end(tmp_path):
    (tmp_path / "summary.csv").write_text(HEADER + line(0) + line(1) + HEADER + line(1, 60.0) + "2,1.5,2")
    rows = read_summary(tmp_path)
    assert [(row["epoch"], row["eval_top1"]) for row in rows] == [(0, 50.0), (1, 60.0)]
    tidy_summary(tmp_path, 9)
    assert (tmp_path / "summary.csv").read_text() == HEADER + line(0) + line(1, 60.0)
    tidy_summary(tmp_path, 1)
    assert (tmp_path / "summary.csv").read_text() == HEADER + line(0)


def test_no_summary_is_no_epochs(tmp_path):
    assert read_summary(tmp_path) == []
    tidy_summary(tmp_path, 3)
    assert not (tmp_path / "summary.csv").exists()


def test_a_tidy_summary_is_left_alone(tmp_path):
    run = make_run(tmp_path)
    before = os.stat(run / "summary.csv").st_mtime_ns, os.stat(run / "summary.csv").st_ino
    tidy_summary(run, 3)
    assert (os.stat(run / "summary.csv").st_mtime_ns, os.stat(run / "summary.csv").st_ino) == before


def test_best_is_the_first_of_equals_and_the_least_loss():
    rows = [{"epoch": e, "eval_top1": a, "eval_loss": x} for e, a, x in [(0, 5, 3), (1, 7, 2), (2, 7, 1)]]
    assert best_epoch(rows) == 1
    assert best_epoch(rows, "loss") == 2
    assert best_epoch([]) is None


def test_best_checkpoint_is_the_summarys_not_the_name_of_a_file(tmp_path):
    run = make_run(tmp_path)
    assert best_checkpoint(run).name == "checkpoint-1.pth.tar"
    save(run, "model_best", 2)  # the stock script after a resume, which forgot epoch 1
    assert checkpoint_epoch(best_checkpoint(run)) == 1
    (run / "checkpoint-1.pth.tar").unlink()
    with pytest.raises(UserError, match="no readable checkpoint of its best epoch, 1"):
        best_checkpoint(run)


def test_settle_leaves_a_settled_run_alone(tmp_path):
    run = make_run(tmp_path)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    assert settle(run) == 3
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_settle_after_a_row_without_its_checkpoint(tmp_path):
    run = make_run(tmp_path)
    (run / "summary.csv").write_text((run / "summary.csv").read_text() + line(3, 99.0))
    (run / "tmp.pth.tar").write_bytes((run / "last.pth.tar").read_bytes()[:300])  # truncated
    assert settle(run) == 3
    assert [row["epoch"] for row in read_summary(run)] == [0, 1, 2]
    assert not (run / "tmp.pth.tar").exists()
    assert checkpoint_epoch(run / "model_best.pth.tar") == 1


@pytest.mark.parametrize("last_is_there", [True, False])
def test_settle_after_a_checkpoint_not_yet_renamed(tmp_path, last_is_there):
    run = make_run(tmp_path)
    (run / "summary.csv").write_text((run / "summary.csv").read_text() + line(3, 99.0))
    save(run, "tmp", 3)
    if not last_is_there:
        (run / "last.pth.tar").unlink()
    assert settle(run) == 4
    for name in ("last", "checkpoint-3", "model_best"):
        assert checkpoint_epoch(run / f"{name}.pth.tar") == 3
    assert not (run / "checkpoint-1.pth.tar").exists()


def test_settle_after_last_was_renamed_and_before_the_best_was(tmp_path):
    run = make_run(tmp_path)
    (run / "summary.csv").write_text((run / "summary.csv").read_text() + line(3, 99.0))
    save(run, "last", 3)
    (run / "checkpoint-1.pth.tar").unlink()  # timm deletes the old best before it links the new one
    assert settle(run) == 4
    assert checkpoint_epoch(run / "checkpoint-3.pth.tar") == checkpoint_epoch(run / "model_best.pth.tar") == 3


def test_settle_while_the_best_is_being_linked(tmp_path):
    run = make_run(tmp_path)
    (run / "model_best.pth.tar").unlink()
    assert settle(run) == 3
    assert checkpoint_epoch(run / "model_best.pth.tar") == 1


def test_settle_corrects_what_a_resumed_script_calls_the_best_and_keeps_as_many_as_asked(tmp_path):
    run = make_run(tmp_path, (50.0, 70.0, 60.0, 65.0))
    for epoch in (0, 2, 3):
        save(run, f"checkpoint-{epoch}", epoch)
    save(run, "model_best", 2)
    assert settle(run, keep=2) == 4
    assert checkpoint_epoch(run / "model_best.pth.tar") == 1
    kept = {file.name for file in run.glob("checkpoint-*")}
    assert kept == {"checkpoint-1.pth.tar", "checkpoint-3.pth.tar"}


def test_settle_before_the_first_checkpoint(tmp_path):
    run = tmp_path
    (run / "summary.csv").write_text(HEADER + line(0))
    assert settle(run) == 0
    assert read_summary(run) == []


def test_settle_refuses_a_run_that_lost_its_checkpoints_or_rows(tmp_path):
    run = make_run(tmp_path)
    (run / "summary.csv").write_text(HEADER + line(0) + line(2))
    with pytest.raises(UserError, match="epochs before 3 are missing"):
        settle(run)
    (run / "last.pth.tar").unlink()
    with pytest.raises(UserError, match=r"no readable last\.pth\.tar"):
        settle(run)
    assert len(read_summary(run)) == 2


def test_info_is_added_to(tmp_path):
    update_info(tmp_path, model="a", seed=1)
    update_info(tmp_path, seed=2)
    assert json.loads((tmp_path / "run.json").read_text()) == {"model": "a", "seed": 2}


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


def test_a_hostile_pickle_is_refused_and_nothing_of_it_run(tmp_path):
    proof = tmp_path / "proof"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "x": Hostile(str(proof))}, tmp_path / "h.pth.tar")
    with pytest.raises(UserError, match="loading it would run code, which is not allowed") as caught:
        load_model_weights(tmp_path / "h.pth.tar")
    assert "\n" not in str(caught.value)
    assert not proof.exists()
    assert checkpoint_epoch(tmp_path / "h.pth.tar") is None
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04" + bytes(100)])
def test_a_torn_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "c.pth.tar").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_model_weights(tmp_path / "c.pth.tar")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_model_weights(tmp_path / "absent")


def test_what_holds_no_weights_is_refused(tmp_path):
    torch.save({"epoch": 3, "loss": 1.0}, tmp_path / "c.pth.tar")
    with pytest.raises(UserError, match="contains no weights"):
        load_model_weights(tmp_path / "c.pth.tar")


def test_ema_weights_are_preferred_and_wrappers_taken_off(tmp_path):
    states = {"state_dict": {"w": torch.zeros(1)}, "state_dict_ema": {"module.w": torch.ones(1)}}
    torch.save({**states, "args": argparse.Namespace(model="x")}, tmp_path / "c.pth.tar")
    assert load_model_weights(tmp_path / "c.pth.tar") == {"w": torch.ones(1)}


def stock_like_run(run, **args):
    """A run of a real (tiny) model, with the options that matter here."""
    make_run(run)
    model = timm.create_model("test_resnet", num_classes=3)
    for name in ("last", "checkpoint-1", "model_best"):
        save(run, name, 2 if name == "last" else 1, **{"state_dict": model.state_dict()})
    options = {"model": "test_resnet", "num_classes": 3, "data_dir": str(run), "img_size": 48, **args}
    (run / "args.yaml").write_text(yaml.safe_dump(options))
    update_info(run, model="test_resnet")
    return model


def test_load_run_and_its_model(tmp_path):
    model = stock_like_run(tmp_path, mean=[0.1, 0.2, 0.3], crop_pct=0.875, interpolation="bilinear")
    run = load_run(tmp_path)
    assert (run.model, run.num_classes, run.input_size) == ("test_resnet", 3, (3, 48, 48))
    assert (run.mean, run.crop_pct, run.interpolation) == ((0.1, 0.2, 0.3), 0.875, "bilinear")
    assert run.std == tuple(model.default_cfg["std"])  # values that the options do not set come from the model
    assert run.checkpoint.name == "checkpoint-1.pth.tar"
    assert run.data == tmp_path
    loaded = load_run_model(run)
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_a_data_set_that_is_gone_is_none(tmp_path):
    stock_like_run(tmp_path, data_dir=str(tmp_path / "gone"))
    assert load_run(tmp_path).data is None


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("run.json", r"run\.json is missing"),
        ("args.yaml", r"args\.yaml is missing"),
        ("summary.csv", "no finished epoch"),
    ],
)
def test_what_a_run_lacks_is_named(tmp_path, missing, message):
    stock_like_run(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=message):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b"{"),
        ("run.json", b"[]"),
        ("run.json", b"\xff"),
        ("args.yaml", b"a: [1"),
        ("args.yaml", b"just words"),
        ("args.yaml", b"\xff"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    stock_like_run(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        load_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(tmp_path):
    stock_like_run(tmp_path, num_classes=5)
    with pytest.raises(UserError, match="does not fit test_resnet"):
        load_run_model(load_run(tmp_path))
