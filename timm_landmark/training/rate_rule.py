"""The hook into timm's train script for every run: the paper's learning-rate rule, and a fresh seed for every epoch.

timm's script asks ``timm.scheduler.create_scheduler_v2`` for its scheduler and calls it at three moments: after every
update, after every epoch (summary.csv and the checkpoint are written by then), and once on resume. ``installed``
puts another function in that one place while the script runs; what it returns

* applies the rule of the paper's section 4.1: when validation top-1 fell below the epoch before, halve the rate. The
  rates follow from the accuracies in summary.csv alone, so that a resumed run goes on with the right one;
* seeds Python, NumPy and torch from (seed, epoch, rank) before every epoch, because the checkpoint holds no random
  state; with ``--workers 0`` a resumed run then equals an uninterrupted one;
* stops a run whose loss is no number before summary.csv or a checkpoint is touched, and reports the time left.

timm's own plateau scheduler is another rule: it compares with the best epoch so far, halves on ties, and forgets on
resume.
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
from timm_landmark.utils.text import say

REPORT_SECONDS = 30.0


def paper_rates(base: float, accuracies: Sequence[float]) -> list[float]:
    """The rates of epochs 0, 1, ..., len(accuracies) by the paper's rule (section 4.1).

    Args:
        base: The first epoch's rate.
        accuracies: Validation top-1 of the epochs trained so far.

    Returns:
        One rate more than accuracies: the last one is for the epoch to come. Halving is exact in floating point.
    """
    rates = [base]
    for epoch in range(len(accuracies)):
        fell = epoch > 0 and accuracies[epoch] < accuracies[epoch - 1]
        rates.append(rates[-1] * 0.5 if fell else rates[-1])
    return rates


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Seeds Python, NumPy and torch (every device) for one epoch of one process."""
    state = np.random.SeedSequence([seed, epoch, rank]).generate_state(3, np.uint64)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]) % 2**32)
    torch.manual_seed(int(state[2]) % 2**63)


class PaperRate(Scheduler):
    """The paper's rule as a scheduler of timm's kind; ``initial_lr`` of the optimizer's groups is the base.

    Args:
        optimizer: The optimizer whose groups' ``lr`` it sets (times ``lr_scale`` where a group has one).
        run: The run folder; its summary.csv holds the accuracies of a run that is resumed.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, run: Path) -> None:
        super().__init__(optimizer, param_group_field="lr")
        self.run = str(run)
        self.accuracies: list[float] = []

    def _get_lr(self, t: int) -> list[float]:
        return [paper_rates(base, self.accuracies[:t])[-1] for base in self.base_values]

    def step(self, epoch: int, metric: float | None = None) -> None:
        """Sets the rate of ``epoch``; ``metric`` is the top-1 of the epoch before, None on resume.

        Raises:
            UserError: If summary.csv lacks an epoch that the rule needs.
        """
        if metric is None:
            rows = read_summary(Path(self.run))[:epoch]
            if [int(row["epoch"]) for row in rows] != list(range(epoch)):
                raise UserError(
                    f"{Path(self.run) / 'summary.csv'} lacks epochs before {epoch}; restore it, or train again"
                )
            self.accuracies = [row["eval_top1"] for row in rows]
        else:
            self.accuracies.append(metric)
        super().step(epoch, metric)


class Steered:
    """What the script sees as its scheduler: the real one (or none), with seeding, checks and progress around it.

    Args:
        scheduler: The paper's rule or a scheduler of timm's; None for a constant rate.
        run: The run folder.
        seed: The run's seed.
        rank: This process's number among all.
        epochs: Epochs of the whole run.
        updates_per_epoch: Optimizer steps in an epoch.
        after_epoch: Called on rank 0 with the number of finished epochs, after each.
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
        """Called by the script after epoch ``epoch - 1``, or on resume (without a metric) before ``epoch``."""
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
        """Called by the script after every update with the epoch's mean loss so far, or on resume without one.

        Raises:
            UserError: If the loss is no finite number.
        """
        if self.scheduler is not None:
            self.scheduler.step_update(num_updates, metric)
        if metric is None:
            self._begin(num_updates // self._updates)
            return
        if not math.isfinite(metric):
            raise UserError(
                f"the training loss is {metric} in epoch {self._epoch}; the epochs before it are kept in {self._run}. "
                "Train again into another --output with a lower --lr"
            )
        if self._rank == 0 and time.monotonic() - self._reported > REPORT_SECONDS:
            self._report(num_updates / self._updates, f"loss {metric:.3f}")

    def _report(self, done: float, what: str) -> None:
        self._reported = time.monotonic()
        pace = (self._reported - self._started) / (done - self._first)
        left = f"{_duration(pace * (self.epochs - done))} left" if done < self.epochs else "done"
        say(f"epoch {done:.4g} of {self.epochs}, {what}, {_duration(pace)} an epoch, {left}")


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
    """Puts the hook in place of ``timm.scheduler.create_scheduler_v2`` for the length of the block.

    Args:
        run: The run folder.
        seed: The run's seed.
        rank: This process's number among all.
        paper: True for the paper's rule; False leaves the rate to timm's scheduler of the options.
        after_epoch: Called on rank 0 with the number of finished epochs, after each.
        before_training: Called in every process with optimizer and scheduler, when training is about to begin.
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

    timm.scheduler.create_scheduler_v2 = create_scheduler
    try:
        yield
    finally:
        timm.scheduler.create_scheduler_v2 = original
