"""The paper's rule for the learning rate, the seeding, and the hook that brings both into timm's script."""

import random

import numpy as np
import pytest
import timm.scheduler
import torch
from timm.scheduler import PlateauLRScheduler

from timm_landmark.training.rate_rule import PaperRate, Steered, installed, paper_rates, seed_epoch
from timm_landmark.utils.errors import UserError

EXAMPLE = [50, 60, 58, 59, 60.5, 60.5, 61, 60.9, 61.2, 60]


def optimizer(rate=5e-4, **group):
    return torch.optim.Adam([{"params": [torch.nn.Parameter(torch.zeros(1))], **group}], lr=rate)


def test_halves_when_accuracy_fell_below_the_epoch_before():
    rates = paper_rates(5e-4, EXAMPLE)
    # falls: 60 -> 58, 61 -> 60.9, 61.2 -> 60; neither a tie nor a rise after a fall counts, nor the best so far
    assert rates == [5e-4] * 3 + [2.5e-4] * 5 + [1.25e-4] * 2 + [6.25e-5]


@pytest.mark.parametrize("accuracies", [[], [3.0], [3.0, 3.0, 3.0], [1.0, 2.0, 3.0]])
def test_keeps_the_rate_without_a_fall(accuracies):
    assert paper_rates(0.1, accuracies) == [0.1] * (len(accuracies) + 1)


def test_halving_is_exact():
    rates = paper_rates(5e-4, [float(-epoch) for epoch in range(40)])
    assert rates[-1] == 5e-4 / 2**39


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_timms_plateau_is_another_rule():
    ours, theirs = optimizer(), optimizer()
    schedulers = PaperRate(ours, "unused"), PlateauLRScheduler(theirs, decay_rate=0.5, patience_t=0, mode="max")
    for epoch, accuracy in enumerate(EXAMPLE[:-1]):
        for scheduler in schedulers:
            scheduler.step(epoch + 1, accuracy)
    assert ours.param_groups[0]["lr"] == 1.25e-4
    assert theirs.param_groups[0]["lr"] == pytest.approx(3.125e-5)


def test_group_scales_are_kept():
    scaled = optimizer(lr_scale=0.1)
    scheduler = PaperRate(scaled, "unused")
    scheduler.step(1, 10.0)
    scheduler.step(2, 9.0)
    assert scaled.param_groups[0]["lr"] == pytest.approx(2.5e-5)


def summary(path, accuracies):
    lines = [f"{epoch},1.0,1.0,{accuracy},100.0,0.0005\n" for epoch, accuracy in enumerate(accuracies)]
    (path / "summary.csv").write_text("epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\n" + "".join(lines))


@pytest.mark.parametrize("start", range(1, len(EXAMPLE) + 1))
def test_resume_at_any_epoch_finds_the_rate(tmp_path, start):
    summary(tmp_path, EXAMPLE[:start])
    resumed = optimizer()
    scheduler = PaperRate(resumed, tmp_path)
    scheduler.step(start)
    for epoch in range(start, len(EXAMPLE)):
        assert resumed.param_groups[0]["lr"] == paper_rates(5e-4, EXAMPLE)[epoch]
        scheduler.step(epoch + 1, EXAMPLE[epoch])
    assert resumed.param_groups[0]["lr"] == paper_rates(5e-4, EXAMPLE)[-1]


def test_resume_takes_the_base_from_the_checkpoint(tmp_path):
    """An optimizer's state restored after some halvings must not become the new base."""
    summary(tmp_path, [3.0, 2.0, 1.0])
    restored = optimizer(rate=2.5e-4, initial_lr=5e-4)
    PaperRate(restored, tmp_path).step(3)
    assert restored.param_groups[0]["lr"] == 1.25e-4


def test_a_missing_epoch_is_refused(tmp_path):
    summary(tmp_path, [3.0, 2.0])
    with pytest.raises(UserError, match=r"summary\.csv: epochs before 3 are missing"):
        PaperRate(optimizer(), tmp_path).step(3)


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_seeds_depend_on_seed_epoch_and_rank():
    drawn = {}
    for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]:
        seed_epoch(*key)
        drawn[key] = draw()
        seed_epoch(*key)
        assert draw() == drawn[key]
    for column in zip(*drawn.values(), strict=True):
        assert len(set(column)) == len(drawn)


def steered(tmp_path, scheduler=None, rank=0, epochs=4):
    finished = []
    return Steered(scheduler, tmp_path, 7, rank, epochs, 5, finished.append), finished


def test_every_epoch_begins_with_its_seed(tmp_path, capsys):
    scheduler, finished = steered(tmp_path)
    begun = [draw()]
    for epoch in range(1, 3):
        torch.rand(epoch)  # whatever an epoch draws
        scheduler.step(epoch, 50.0)
        begun.append(draw())
    scheduler.step(1)  # a resume at epoch 1
    assert draw() == begun[1]
    scheduler.step_update(10)  # a resume at epoch 2 of a scheduler that steps on updates
    assert draw() == begun[2]
    assert len(set(begun)) == 3
    assert finished == [1, 2]
    assert "epoch 2 of 4, validation top-1 50.00" in capsys.readouterr().out


def test_only_the_first_process_writes_and_reports(tmp_path, capsys):
    scheduler, finished = steered(tmp_path, rank=1)
    scheduler.step(1, 50.0)
    assert finished == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, loss):
    scheduler, _ = steered(tmp_path)
    scheduler.step_update(1, 0.5)
    with pytest.raises(UserError, match=r"training loss is (nan|inf) in epoch 0.*--lr"):
        scheduler.step_update(2, loss)


def test_the_second_header_goes_after_the_epoch(tmp_path):
    summary(tmp_path, [1.0, 2.0])
    file = tmp_path / "summary.csv"
    tidy = file.read_text()
    header, first, second = tidy.splitlines(keepends=True)
    file.write_text(header + first + header + second)
    scheduler, _ = steered(tmp_path)
    scheduler.step(2, 2.0)
    assert file.read_text() == tidy


@pytest.mark.parametrize("paper", [True, False])
def test_the_hook_stands_only_while_it_is_installed(tmp_path, paper):
    original = timm.scheduler.create_scheduler_v2
    with pytest.raises(KeyError), installed(tmp_path, 0, 0, paper, print):
        scheduler, epochs = timm.scheduler.create_scheduler_v2(
            optimizer(), sched="step", num_epochs=9, decay_epochs=3, warmup_epochs=0, updates_per_epoch=2
        )
        assert epochs == 9
        assert isinstance(scheduler.scheduler, PaperRate) == paper
        assert scheduler.t_in_epochs is True
        raise KeyError
    assert timm.scheduler.create_scheduler_v2 is original


def test_timms_scheduler_steers_where_the_rule_does_not(tmp_path):
    steps = optimizer()
    with installed(tmp_path, 0, 1, False, print):
        scheduler, _ = timm.scheduler.create_scheduler_v2(
            steps, sched="step", num_epochs=9, decay_epochs=3, decay_rate=0.1, warmup_epochs=0
        )
    for epoch in range(1, 4):
        scheduler.step(epoch, -float(epoch))  # falls, which the paper's rule would halve on
    assert steps.param_groups[0]["lr"] == pytest.approx(5e-5)
