"""A rehearsal before a run: the trainer itself takes one step and one validation, of two images of noise.

Most of timm's options are looked at late, by the code that uses them, and a value that cannot work ends in a traceback:
some after a model was loaded, some after a whole epoch. Here the same code takes the same options first, in a folder
that is thrown away, and an option without which the trainer goes through is named.
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

from timm_landmark.training.rate_rule import Steered, installed
from timm_landmark.utils.errors import UserError

IMAGES = 3  # enough for a batch of two, which mixup needs, or of an odd number, which it refuses
OF_THE_VERB = ("model", "data_dir", "class_map", "num_classes", "output", "experiment")  # no options of the user's


class _Rehearsed(Exception):
    """Everything that can fail has been run: the trainer is about to write its first checkpoint."""


def rehearse(trainer: Any, options: dict[str, Any], suspects: dict[str, Any], paper: bool) -> int:
    """Runs the trainer's whole path once with the options of a run.

    Args:
        trainer: The train script of timm, or the stand-in.
        options: All its options.
        suspects: For each option that could be the wrong one its value if it were left out.
        paper: Whether the paper's rule steers the rate.

    Returns:
        The number of parameters that are trained.

    Raises:
        UserError: If the trainer fails; names the options without which it does not, where there are any.
    """
    outcome = _attempt(trainer, options, paper)
    if isinstance(outcome, int):
        return outcome
    named = [
        _shown(trainer.parser, name, options[name])
        for name, value in suspects.items()
        if name not in OF_THE_VERB and isinstance(_attempt(trainer, {**options, name: value}, paper), int)
    ]
    if named:
        shown = ", ".join(named)
        raise UserError(f"{shown}: a trial step of {options['model']} fails ({outcome}); give another value")
    raise UserError(
        f"MODEL {options['model']}: a trial step fails ({outcome}); train another model, or change the options"
    )


def _shown(parser: argparse.ArgumentParser, name: str, value: Any) -> str:
    """An option as one writes it on the command line."""
    action = next(action for action in parser._actions if action.dest == name)
    flag = next(flag for flag in action.option_strings if flag.startswith("--"))
    if action.nargs == 0:
        return flag
    values = [f"{key}={each}" for key, each in value.items()] if isinstance(value, dict) else value
    return " ".join([flag, *map(str, values if isinstance(values, list | tuple) else [values])])


def _attempt(trainer: Any, options: dict[str, Any], paper: bool) -> int | str:
    """The number of trained parameters, or why the trainer fails."""
    parameters = 0

    def built(optimizer: torch.optim.Optimizer, steered: Steered) -> None:
        nonlocal parameters
        parameters = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])

        def about_to_save(_: torch.optim.Optimizer) -> None:
            for epoch in range(min(steered.epochs, 100) if steered.scheduler else 0):
                steered.scheduler.step(epoch + 1, 50.0)
            raise _Rehearsed

        optimizer.register_state_dict_pre_hook(about_to_save)

    with tempfile.TemporaryDirectory(prefix="timm-landmark-") as folder, _quiet() as said, _alone():
        try:
            recipe = _write(Path(folder), options)
            with installed(Path(folder) / "run", options["seed"], 0, paper, lambda _: None, built):
                trainer.run(["-c", str(recipe)])
        except _Rehearsed:
            return parameters
        except (Exception, SystemExit) as error:
            return _reason(error, said.getvalue())[:200]
        finally:
            if options.get("torchcompile"):
                torch.compiler.reset()
    raise KeyboardInterrupt  # timm's script ends its loop at Ctrl-C and returns


def _write(folder: Path, options: dict[str, Any]) -> Path:
    """Images of noise and a recipe in which they take the place of the data set; returns the recipe's path."""
    noise = np.random.default_rng(0)
    for split in ("train", "validation"):
        (folder / split / "0").mkdir(parents=True)
        for number in range(IMAGES):
            pixels = noise.integers(0, 256, (256, 256, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / "0" / f"{number}.jpg")
    place = {"data": None, "data_dir": str(folder), "class_map": "", "output": str(folder)}
    if options.get("dataset"):  # of another kind than a folder of images, to which these belong
        names = ("train_num_samples", "val_num_samples", "input_key", "target_key")
        place |= {"dataset": "", **dict.fromkeys(names)}
    place |= {"train_split": "train", "val_split": "validation", "experiment": "run", "resume": ""}
    place |= {"log_wandb": False, "recovery_interval": 0}
    most = {"validation_batch_size": IMAGES, "train_batches_per_epoch": 1, "workers": 1}
    place |= {name: min(options[name], bound) for name, bound in most.items() if options.get(name)}
    place["batch_size"] = _few(options["batch_size"])
    if sizes := options.get("train_batch_sizes"):
        place["train_batch_sizes"] = [_few(size) for size in sizes]
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({name: place.get(name, value) for name, value in options.items()}))
    return recipe


def _few(batch: int) -> int:
    """The size of a small batch that is odd where ``batch`` is."""
    return batch if batch < 2 else 2 + batch % 2


def _reason(error: BaseException, said: str) -> str:
    """One line of why: timm often says it with a bare assertion, a process that loads images at the end of its text."""
    if isinstance(error, SystemExit):
        return (said.strip().splitlines() or [str(error)])[-1]
    if isinstance(error, UserError):
        return str(error).partition(";")[0]
    text = [line.strip() for line in str(error).splitlines() if line.strip(" ^~")]
    if "Original Traceback (most recent call last):" in text:
        return text[-1] if ":" in text[-1] else f"{text[-1]}: {text[-2]}"
    line = text[0] if text else traceback.extract_tb(error.__traceback__)[-1].line
    return f"{type(error).__name__}: {line}"


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Holds back what the trainer prints, logs and warns, and takes the handlers that it adds away again."""
    handlers, level = logging.root.handlers[:], logging.root.level
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.root.handlers = []
        try:
            yield said
        finally:
            logging.root.handlers = handlers
            logging.root.setLevel(level)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Lets the trainer see one process, whatever torchrun started."""
    before = os.environ.get("WORLD_SIZE")
    os.environ["WORLD_SIZE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("WORLD_SIZE")
        if before is not None:
            os.environ["WORLD_SIZE"] = before
