"""The checkpoints of a run folder: finding the best one, recovery after a kill, and safe loading of weights."""

import argparse
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_landmark.runs.folder import SUMMARY, best_epoch, read_summary, tidy_summary
from timm_landmark.utils.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

LAST, BEST, PARTIAL = "last.pth.tar", "model_best.pth.tar", "tmp.pth.tar"  # as named by timm's CheckpointSaver


def checkpoint_epoch(file: Path) -> int | None:
    """The epoch of a checkpoint, or None if it is missing, truncated or not written by timm."""
    try:
        epoch = _load(file, mmap=True)["epoch"]
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError):
        return None
    return epoch if isinstance(epoch, int) else None


def best_checkpoint(path: Path, metric: str = "top1") -> Path:
    """Finds the checkpoint of the run's best epoch on validation.

    This uses ``summary.csv`` instead of file names, because timm's script forgets the best epoch on resume and then
    marks the first epoch after it as the best.

    Raises:
        UserError: If there is no finished epoch or the checkpoint of the best epoch is missing.
    """
    epoch = best_epoch(read_summary(path), metric)
    if epoch is None:
        raise UserError(f"{path} has no finished epoch ({SUMMARY} is missing or empty); continue with --resume")
    for name in (f"checkpoint-{epoch}.pth.tar", BEST, LAST):
        if checkpoint_epoch(path / name) == epoch:
            return path / name
    raise UserError(f"{path} has no readable checkpoint of its best epoch, {epoch}; restore it or train again")


def settle(path: Path, metric: str = "top1", keep: int = 1) -> int:
    """Restores a run folder after a kill to its state after the last finished epoch.

    A complete checkpoint that was not yet renamed is renamed, ``summary.csv`` is truncated to the epochs that have a
    checkpoint, ``model_best.pth.tar`` becomes the best of the whole run, and all checkpoints except the ``keep`` best
    are deleted.

    Returns:
        The number of finished epochs.

    Raises:
        UserError: If the last checkpoint or earlier rows of ``summary.csv`` are missing.
    """
    partial, last = checkpoint_epoch(path / PARTIAL), checkpoint_epoch(path / LAST)
    if partial is not None and (last is None or partial > last):
        os.replace(path / PARTIAL, path / LAST)
        last = partial
    (path / PARTIAL).unlink(missing_ok=True)
    if last is None:
        if len(read_summary(path)) > 1:
            raise UserError(
                f"{path} has {len(read_summary(path))} epochs in {SUMMARY} but no readable {LAST}; restore it, or "
                "train again with another --output"
            )
        tidy_summary(path, 0)
        return 0
    tidy_summary(path, last + 1)
    rows = read_summary(path)
    if [int(row["epoch"]) for row in rows] != list(range(last + 1)):
        raise UserError(f"{path / SUMMARY}: epochs before {last + 1} are missing; restore it, or train again")
    best = best_epoch(rows, metric)
    if checkpoint_epoch(path / BEST) != best:
        _link(best_checkpoint(path, metric), path / BEST)
    if not (path / f"checkpoint-{best}.pth.tar").exists():
        _link(path / BEST, path / f"checkpoint-{best}.pth.tar")
    ranked = [best_epoch(rows, metric)]
    while len(ranked) < keep and len(ranked) < len(rows):
        ranked.append(best_epoch([row for row in rows if row["epoch"] not in ranked], metric))
    for file in path.glob("checkpoint-*.pth.tar"):
        epoch = file.name.removeprefix("checkpoint-").removesuffix(".pth.tar")
        if epoch.isdigit() and int(epoch) not in ranked:
            file.unlink()
    return last + 1


def _link(source: Path, target: Path) -> None:
    """Hard-links ``source`` to ``target`` atomically, or copies it if the file system has no hard links."""
    import shutil

    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copy2(source, temporary)
    os.replace(temporary, target)


def _load(file: Path, mmap: bool = False) -> Any:
    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):  # timm's checkpoints contain the parsed options
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def load_model_weights(path: Path) -> "dict[str, torch.Tensor]":
    """Reads weights from a checkpoint without running any code from the pickle.

    Args:
        path: A checkpoint of timm's train script (the EMA weights are used if it has them), a plain state dict or a
            ``.safetensors`` file.

    Raises:
        UserError: If the file is missing, damaged, would run code when loaded, or contains no weights.
    """
    import torch
    from timm.models import load_state_dict

    path = Path(path)
    try:
        weights = load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; use a run folder that has one, or train first") from None
    except Exception as error:
        unsafe = "weights_only" in str(error) or isinstance(error, pickle.UnpicklingError)
        reason = (
            "loading it would run code, which is not allowed"
            if unsafe
            else f"it cannot be read ({type(error).__name__}: {first_line(error, 120)})"
        )
        raise UserError(f"{path}: {reason}; use another checkpoint, from a source that you trust") from None
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path} contains no weights; use a checkpoint written by timm's train script")
    return weights
