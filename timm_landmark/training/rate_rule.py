"""The hook into timm's train script for every run: the paper's learning rate rule and a new seed for every epoch.

timm's script gets its scheduler from ``timm.scheduler.create_scheduler_v2`` and calls it at three points: after every
update, after every epoch (when summary.csv and the checkpoint are written), and once on resume. ``installed`` replaces
that function while the script runs. The scheduler that it returns

* applies the rule of the paper's section 4.1: halve the rate when validation top-1 is lower than one epoch before. The
  rates depend only on the accuracies in summary.csv, so a resumed run continues with the right one;
* seeds Python, NumPy and torch from (seed, epoch, rank) before every epoch, because checkpoints contain no random
  state; with ``--workers 0`` a resumed run then equals an uninterrupted one;
* stops a run whose loss is not finite before summary.csv or a checkpoint is written, and reports the remaining time.

timm's plateau scheduler follows a different rule: it compares with the best epoch so far, also halves on ties, and
loses its state on resume.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm.scheduler
import torch
from timm.scheduler.scheduler import Scheduler

from timm_landmark.runs.folder import read_summary, tidy_summary
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.patching import replaced
from timm_landmark.utils.text import say

REPORT_SECONDS = 30.0


def paper_rates(base: float, accuracies: Sequence[float]) -> list[float]:
    """The learning rates of epochs 0, 1, ..., len(accuracies) by the paper's rule (section 4.1).

    Args:
        base: The rate of the first epoch.
        accuracies: Validation top-1 of the epochs trained so far.

    Returns:
        One rate more than accuracies; the last one is for the next epoch. Halving is exact in floating point.
    """
    rates = [base]
    for epoch in range(len(accuracies)):
        fell = epoch > 0 and accuracies[epoch] < accuracies[epoch - 1]
        rates.append(rates[-1] * 0.5 if fell else rates[-1])
    return rates


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Seeds Python, NumPy and torch (on all devices) for one epoch in one process."""
    state = np.random.SeedSequence([seed, epoch, rank]).generate_state(3, np.uint64)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]) % 2**32)
    torch.manual_seed(int(state[2]) % 2**63)


class PaperRate(Scheduler):
    """The paper's rule as a timm scheduler; ``initial_lr`` of the optimizer's parameter groups is the first rate.

    Args:
        optimizer: The optimizer whose groups' ``lr`` is set (times ``lr_scale`` if a group has one).
        run: The run folder; on resume the accuracies are read from its summary.csv.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, run: Path) -> None:
        super().__init__(optimizer, param_group_field="lr")
        self.run = str(run)
        self.accuracies: list[float] = []

    def _get_lr(self, t: int) -> list[float]:
        return [paper_rates(base, self.accuracies[:t])[-1] for base in self.base_values]

    def step(self, epoch: int, metric: float | None = None) -> None:
        """Sets the rate of ``epoch``; ``metric`` is the top-1 of the previous epoch, None on resume.

        Raises:
            UserError: If an epoch that the rule needs is missing from summary.csv.
        """
        if metric is None:
            rows = read_summary(Path(self.run))[:epoch]
            if [int(row["epoch"]) for row in rows] != list(range(epoch)):
                raise UserError(
                    f"{Path(self.run) / 'summary.csv'}: epochs before {epoch} are missing; restore it, or train again"
                )
            self.accuracies = [row["eval_top1"] for row in rows]
        else:
            self.accuracies.append(metric)
        super().step(epoch, metric)


class Steered:
    """The scheduler that the script sees: the real one, if any, with seeding, checks and progress reports around it.

    Args:
        scheduler: The paper's rule or one of timm's schedulers; None for a constant rate.
        run: The run folder.
        seed: The seed of the run.
        rank: Rank of this process.
        epochs: Number of epochs of the whole run.
        updates_per_epoch: Optimizer steps per epoch.
        after_epoch: Called on rank 0 after each epoch with the number of finished epochs.
    """

    def __init__(
        self,
        scheduler: Scheduler | None,
        run: Path,
        seed: int,
        rank: int,
        epochs: int,
        updates_per_epoch: int,
        after_epoch: Callable[[int], None],
    ) -> None:
        self.scheduler = scheduler
        self.t_in_epochs = True if scheduler is None else scheduler.t_in_epochs
        self._run, self._seed, self._rank = run, seed, rank
        self.epochs, self._updates, self._after_epoch = epochs, max(1, updates_per_epoch), after_epoch
        self._begin(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def _begin(self, epoch: int) -> None:
        seed_epoch(self._seed, epoch, self._rank)
        self._first = self._epoch = epoch
        self._started = self._reported = time.monotonic()

    def step(self, epoch: int, metric: float | None = None) -> None:
        """Called by the script after epoch ``epoch - 1``, or on resume, without a metric, before ``epoch``."""
        if self.scheduler is not None:
            self.scheduler.step(epoch, metric)
        if metric is None:
            self._begin(epoch)
            return
        seed_epoch(self._seed, epoch, self._rank)
        self._epoch = epoch
        if self._rank == 0:
            tidy_summary(self._run, epoch)
            self._after_epoch(epoch)
            self._report(epoch, f"validation top-1 {metric:.2f}")

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        """Called by the script after every update with the epoch's mean loss so far, on resume without one.

        Raises:
            UserError: If the loss is not finite.
        """
        if self.scheduler is not None:
            self.scheduler.step_update(num_updates, metric)
        if metric is None:
            self._begin(num_updates // self._updates)
            return
        if not math.isfinite(metric):
            raise UserError(
                f"the training loss is {metric} in epoch {self._epoch}; earlier epochs are kept in {self._run}. "
                "Train again with a lower --lr and another --output"
            )
        if self._rank == 0 and time.monotonic() - self._reported > REPORT_SECONDS:
            self._report(num_updates / self._updates, f"loss {metric:.3f}")

    def _report(self, done: float, what: str) -> None:
        self._reported = time.monotonic()
        pace = (self._reported - self._started) / (done - self._first)
        left = f"{_duration(pace * (self.epochs - done))} left" if done < self.epochs else "done"
        say(f"epoch {done:.4g} of {self.epochs}, {what}, {_duration(pace)} per epoch, {left}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


@contextmanager
def installed(
    run: Path,
    seed: int,
    rank: int,
    paper: bool,
    after_epoch: Callable[[int], None],
    before_training: Callable[[torch.optim.Optimizer, Steered], None] | None = None,
) -> Iterator[None]:
    """Replaces ``timm.scheduler.create_scheduler_v2`` with the hook for the length of the block.

    Args:
        run: The run folder.
        seed: The seed of the run.
        rank: Rank of this process.
        paper: True applies the paper's rule; False uses the timm scheduler that the options name.
        after_epoch: Called on rank 0 after each epoch with the number of finished epochs.
        before_training: Called in every process with optimizer and scheduler, just before training begins.
    """
    original = timm.scheduler.create_scheduler_v2

    def create_scheduler(optimizer: torch.optim.Optimizer, **options: Any) -> tuple[Steered, int]:
        if paper:
            scheduler, epochs = PaperRate(optimizer, run), options["num_epochs"]
        else:
            scheduler, epochs = original(optimizer, **options)
        updates = options.get("updates_per_epoch", 0)
        steered = Steered(scheduler, run, seed, rank, epochs, updates, after_epoch)
        if before_training is not None:
            before_training(optimizer, steered)
        return steered, epochs

    with replaced(timm.scheduler, "create_scheduler_v2", create_scheduler):
        yield
