"""The run folder before training starts: its lock, its state on resume, and ``run.json`` of a new run."""

import argparse
import errno
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from timm_landmark.data.address import Place
from timm_landmark.data.layout import ClassRow, write_rows
from timm_landmark.runs.checkpoints import LAST, PARTIAL, checkpoint_epoch, settle
from timm_landmark.runs.folder import read_run_info, update_info
from timm_landmark.training import checks, init_from, rehearsal, resume
from timm_landmark.training.timm_script import Trainer
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.machine import machine_info
from timm_landmark.utils.text import say

LOCK = ".lock"  # an empty file in the run folder, locked while a process trains into it


@dataclass(frozen=True)
class Usual:
    """Values of the trainer's options where they are not given.

    Attributes:
        defaults: The trainer's default of each option.
        suspects: As for :func:`timm_landmark.training.rehearsal.rehearse`.
    """

    defaults: Mapping[str, Any]
    suspects: dict[str, Any]


def run_lock(run: Path) -> FileLock:
    """The lock of a run folder, not yet held; a process that dies loses it, and forked data loaders do not inherit it.

    A soft lock, which is a mere file, would outlive a killed process.
    """
    return FileLock(run / LOCK, fallback_to_soft=False)


def _acquire(lock: FileLock, run: Path) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"--output {run}: another process is training into this folder; wait for it, stop it, or give another "
            "folder"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            say(
                f"{run}: cannot be locked by its file system; make sure that no other training uses it",
                file=sys.stderr,
            )
            return
        raise UserError(f"--output {run} cannot be locked ({error.strerror}); give another folder") from None


def prepare_folder(
    own: argparse.Namespace,
    trainer: Trainer,
    args: argparse.Namespace,
    info: dict[str, Any],
    classes: list[ClassRow],
    usual: Usual,
    lock: FileLock,
) -> int:
    """Runs the checks that take time, locks and creates or repairs the run folder, and writes run.json.

    Args:
        own: The options of ``timm-landmark train`` itself.
        trainer: timm's train script or the stand-in.
        args: All options of the trainer.
        info: What run.json records about a run; the number of parameters is added.
        classes: The classes of the data set.
        usual: The values of the options where they are not given.
        lock: The folder's lock; held on return.

    Returns:
        The number of finished epochs.

    Raises:
        UserError: If the folder cannot be used, another process trains into it, or training cannot work.
    """
    run: Path = own.output
    if own.resume:
        read_run_info(run)  # reports a missing file
    if own.resume or (run / LOCK).exists():
        _acquire(lock, run)
    if not own.resume:
        _check_unused(run)
    _check_enough_images(own.data, args.batch_size, info, classes)
    checks.check_name(args.model)
    finished = finished_epochs(run) if own.resume else 0
    if finished:
        resume.check_resume(run, args, info, classes, usual.defaults)
    elif own.resume:
        resume.check_same_start(read_run_info(run), info)
    epochs = planned_epochs(run, args.epochs, info["rate_rule"]) if own.resume else args.epochs
    if finished < epochs:
        share = {**vars(args), "batch_size": info["batch_per_process"]}
        info["parameters"] = rehearsal.rehearse(trainer, share, usual.suspects, info["rate_rule"] == "paper")
    if own.resume:
        finished = settle(run, args.eval_metric, args.checkpoint_hist)
    if finished:
        if finished < epochs:
            session = {"from_epoch": finished, **{key: info[key] for key in ("trainer", "project", "processes")}}
            sessions = [*read_run_info(run).get("sessions", []), session]
            update_info(run, epochs=epochs, finished=False, sessions=sessions)
        return finished
    start = init_from.initial_state(args, own.init_from) if own.init_from else None  # may fail: before the folder
    if own.resume:
        say(f"{run} has no finished epoch yet; training starts from the beginning")
    elif not lock.is_locked:
        _create(run)
        _acquire(lock, run)
        _check_unused(run)  # another process may have been faster
    if start:
        info["init_from"] = init_from.write_start(*start, run / init_from.FILE)
    write_rows(run, ClassRow, classes)  # so that the run's classes are known without the data set
    update_info(run, **info, machine=machine_info(), epochs_finished=0, wall_seconds=0.0, finished=False, sessions=[])
    return 0


def finished_epochs(run: Path) -> int:
    """The number of finished epochs, also before rank 0 has repaired the folder after a kill."""
    epochs = [checkpoint_epoch(run / name) for name in (PARTIAL, LAST)]
    return max((epoch + 1 for epoch in epochs if epoch is not None), default=0)


def planned_epochs(run: Path, epochs: int, rate_rule: str) -> int:
    """The length of a resumed run; timm's schedulers add epochs to ``--epochs``, such as a cooldown.

    Args:
        run: The run folder; ``train`` records the length in run.json when training begins.
        epochs: ``--epochs``.
        rate_rule: As in run.json; the paper's rule adds nothing, and a run that follows it may be extended.
    """
    return epochs if rate_rule == "paper" else max(epochs, read_run_info(run).get("epochs", 0))


def _check_unused(run: Path) -> None:
    if run.exists() and (not run.is_dir() or any(entry.name != LOCK for entry in run.iterdir())):
        raise UserError(f"--output {run} exists; give --resume to continue it, or another folder")


def _create(run: Path) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {run} cannot be created ({error.strerror}); give another folder") from None


def _check_enough_images(data: Place, batch: int, info: dict[str, Any], classes: list[ClassRow]) -> None:
    images = sum(row.train for row in classes)
    if images < info["batch_per_process"] * info["processes"]:
        raise UserError(f"-b {batch}: {data} has only {images} training images; give a smaller batch")
