"""A rehearsal before a run: the trainer itself runs one training step and one validation on images of noise.

timm uses most of its options late, and an invalid value ends in a traceback, sometimes after a whole epoch. Here the
same code gets the same options first, in a temporary folder. If it fails, the error names the options without which
it works.
"""

import argparse
import contextlib
import io
import logging
import os
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from timm_landmark.training.checks import options_of
from timm_landmark.training.rate_rule import Steered, installed
from timm_landmark.training.timm_script import Trainer
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.patching import replaced

IMAGES = 3  # enough for a batch of two, which mixup needs, and for an odd batch, which it rejects
SET_BY_TRAIN = ("model", "data_dir", "class_map", "num_classes", "output", "experiment")  # not given by the user


class _Rehearsed(Exception):
    """The trainer is about to write its first checkpoint, so everything that can fail has run."""


def rehearse(trainer: Trainer, options: dict[str, Any], suspects: dict[str, Any], paper: bool) -> int:
    """Runs the whole trainer once with the options of a run.

    Args:
        trainer: timm's train script or the stand-in.
        options: All options of the trainer.
        suspects: The options that could cause a failure, each with the value it would have if it were left out.
        paper: Whether the paper's rule controls the learning rate.

    Returns:
        The number of trained parameters.

    Raises:
        UserError: If the trainer fails; names the options without which it works, if there are any.
    """
    outcome = _attempt(trainer, options, paper)
    if isinstance(outcome, int):
        return outcome
    named = [
        _shown(trainer.parser, name, options[name])
        for name, value in suspects.items()
        if name not in SET_BY_TRAIN and isinstance(_attempt(trainer, {**options, name: value}, paper), int)
    ]
    if named:
        shown = ", ".join(named)
        raise UserError(f"{shown}: a trial step of {options['model']} fails ({outcome}); give another value")
    raise UserError(
        f"MODEL {options['model']}: a trial step fails ({outcome}); train another model, or change the options"
    )


def _shown(parser: argparse.ArgumentParser, name: str, value: Any) -> str:
    """An option with its value as on the command line."""
    action = options_of(parser)[name]
    flag = next(flag for flag in action.option_strings if flag.startswith("--"))
    if action.nargs == 0:
        return flag
    values = [f"{key}={each}" for key, each in value.items()] if isinstance(value, dict) else value
    return " ".join([flag, *map(str, values if isinstance(values, list | tuple) else [values])])


def _attempt(trainer: Trainer, options: dict[str, Any], paper: bool) -> int | str:
    """The number of trained parameters, or the reason why the trainer fails."""
    parameters = 0

    def built(optimizer: torch.optim.Optimizer, steered: Steered) -> None:
        nonlocal parameters
        parameters = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])

        def about_to_save(_: torch.optim.Optimizer) -> None:
            if steered.scheduler is not None:
                for epoch in range(min(steered.epochs, 100)):
                    steered.scheduler.step(epoch + 1, 50.0)
            raise _Rehearsed

        optimizer.register_state_dict_pre_hook(about_to_save)

    with tempfile.TemporaryDirectory(prefix="timm-landmark-") as folder, _quiet() as printed, _alone():
        try:
            recipe = _write(Path(folder), options)
            with installed(Path(folder) / "run", options["seed"], 0, paper, lambda _: None, built):
                trainer.run(["-c", str(recipe)])
        except _Rehearsed:
            return parameters
        except (Exception, SystemExit) as error:
            return _reason(error, printed.getvalue())[:200]
        finally:
            if options.get("torchcompile"):
                torch.compiler.reset()
    raise KeyboardInterrupt  # timm's script returns normally after Ctrl-C


def _write(folder: Path, options: dict[str, Any]) -> Path:
    """Writes images of noise and a recipe that uses them instead of the data set; returns the path of the recipe."""
    noise = np.random.default_rng(0)
    for split in ("train", "validation"):
        (folder / split / "0").mkdir(parents=True)
        for number in range(IMAGES):
            pixels = noise.integers(0, 256, (256, 256, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / "0" / f"{number}.jpg")
    changed: dict[str, Any] = {"data": None, "data_dir": str(folder), "class_map": "", "output": str(folder)}
    if options.get("dataset"):  # not a folder of images, and these options go with it
        names = ("train_num_samples", "val_num_samples", "input_key", "target_key")
        changed |= {"dataset": "", **dict.fromkeys(names)}
    changed |= {"train_split": "train", "val_split": "validation", "experiment": "run", "resume": ""}
    changed |= {"log_wandb": False, "recovery_interval": 0}
    most = {"validation_batch_size": IMAGES, "train_batches_per_epoch": 1, "workers": 1}
    changed |= {name: min(options[name], bound) for name, bound in most.items() if options.get(name)}
    changed["batch_size"] = _few(options["batch_size"])
    if sizes := options.get("train_batch_sizes"):
        changed["train_batch_sizes"] = [_few(size) for size in sizes]
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({name: changed.get(name, value) for name, value in options.items()}))
    return recipe


def _few(batch: int) -> int:
    """The size of a small batch that is odd if ``batch`` is."""
    return batch if batch < 2 else 2 + batch % 2


def _reason(error: BaseException, printed: str) -> str:
    """The reason in one line.

    timm often fails with a bare assertion, whose source line is shown; a data loading process puts its traceback into
    the message, which ends with the reason.
    """
    if isinstance(error, SystemExit):
        return (printed.strip().splitlines() or [str(error)])[-1]
    if isinstance(error, UserError):
        return str(error).partition(";")[0]
    text = [line.strip() for line in str(error).splitlines() if line.strip(" ^~")]
    if "Original Traceback (most recent call last):" in text:
        return text[-1] if ":" in text[-1] else f"{text[-1]}: {text[-2]}"
    line = text[0] if text else traceback.extract_tb(error.__traceback__)[-1].line
    return f"{type(error).__name__}: {line}"


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Captures what the trainer prints, drops its logs and warnings, and removes the log handlers that it adds."""
    level = logging.root.level
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with replaced(logging.root, "handlers", []):
                yield printed
        finally:
            logging.root.setLevel(level)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Lets the trainer run in one process, even under torchrun."""
    before = os.environ.get("WORLD_SIZE")
    os.environ["WORLD_SIZE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("WORLD_SIZE")
        if before is not None:
            os.environ["WORLD_SIZE"] = before
