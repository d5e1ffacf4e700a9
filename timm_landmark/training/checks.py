"""Checks that ``train`` makes before it starts: options, data set, model and processes."""

import argparse
import difflib
import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from timm_landmark.data.address import Place
from timm_landmark.data.layout import ClassRow, read_dataset_info, read_rows
from timm_landmark.data.shards import in_shards, read_shard_info
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.parser import check_least

UNSET = object()
OWNED = {  # options that timm-landmark train sets itself, and what to do instead
    "model": "give the model as the first argument",
    "data": "give the data set with --data",
    "data_dir": "give the data set with --data",
    "dataset": "give a prepared data set with --data",
    "class_map": "it is part of the data set given with --data",
    "experiment": "give the run folder with --output",
    "start_epoch": "--resume finds the epoch to continue with",
    "resume": "give --resume to continue the run in --output",
    "no_resume_opt": "a resumed run needs its optimizer state; start another run instead",
    "val_interval": "the learning rate rule and the best checkpoint need a validation after every epoch",
    "input_size": "give --img-size P for images of PxP pixels",
    "tta": "each image is validated once, and timm would average the outputs of different images",
}
NOT_OF_THE_RULE = ("sched_", "lr_", "warmup_", "min_lr", "decay_", "cooldown_", "patience_")  # of timm's schedulers


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options of a parser by destination; argparse has no public way to list them."""
    return {action.dest: action for action in parser._actions if action.dest != "help"}


def parse_options(parser: argparse.ArgumentParser, argv: Sequence[str], trainer: str) -> dict[str, Any]:
    """The options of timm's train script that ``argv`` names, by destination.

    Args:
        parser: The trainer's parser; from now on it raises UserErrors and accepts no abbreviations.
        argv: The options that ``timm-landmark train`` does not define itself.
        trainer: Name of the trainer for messages.

    Raises:
        UserError: For an option that the trainer does not have, an invalid value, or an option in ``OWNED``.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; see `timm-landmark train --help` and the options of timm's train.py")

    parser.error, parser.allow_abbrev = refuse, False
    names = options_of(parser).keys()
    try:
        known, unknown = parser.parse_known_args(list(argv), argparse.Namespace(**dict.fromkeys(names, UNSET)))
    except ValueError:  # raised by timm's own argparse action, which only these two options use
        raise UserError("--model-kwargs and --opt-kwargs: each value must have the form KEY=VALUE") from None
    given = {name: value for name, value in vars(known).items() if value is not UNSET}
    if given.get("data") is None:
        given.pop("data", None)
    if unknown:
        close = [f"--{name.replace('_', '-')}" for name in _close(unknown[0].lstrip("-").replace("-", "_"), names)]
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"unknown option {unknown[0]}: not an option of timm-landmark train or of {trainer}{hint}")
    for name in OWNED.keys() & given.keys():
        raise UserError(f"--{name.replace('_', '-')} {given[name]}: not supported here; {OWNED[name]}")
    return given


def read_config(parser: argparse.ArgumentParser, path: Path, trainer: str) -> dict[str, Any]:
    """Reads a recipe and checks its keys and values, which timm's train script does not.

    Raises:
        UserError: If the file is missing or not a YAML mapping, or has an unknown key or a value of the wrong type.
    """
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"-c {path} cannot be read ({error.strerror}); give a YAML file of train.py's options"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"-c {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"-c {path}: not a mapping; give a YAML file of train.py's options")
    actions = options_of(parser)
    for key, value in config.items():
        if key not in actions:
            hint = "".join(f" (did you mean {name}?)" for name in _close(str(key), actions.keys())[:1])
            raise UserError(f"-c {path}: {trainer} has no option {key}{hint}")
        if not _could_be(actions[key], value):
            raise UserError(f"-c {path}: {key}: {value!r} has the wrong type for this option")
    return config


def _could_be(action: argparse.Action, value: Any) -> bool:
    """Whether the value could be given on the command line; argparse converts strings itself."""
    if value is None or value == action.default:
        return True
    if action.nargs == 0:
        return isinstance(value, bool)
    if isinstance(action.default, dict):
        return isinstance(value, dict)
    if action.nargs in ("+", "*") or isinstance(action.nargs, int):
        return isinstance(value, list) and all(_is(action.type, each) for each in value)
    chosen = action.choices is None or value in action.choices
    return chosen and (isinstance(value, str) or _is(action.type, value))


def _is(converter: Any, value: Any) -> bool:
    types = {int: int, float: (int, float)}.get(converter, str)
    return isinstance(value, types) and not isinstance(value, bool)


def _close(word: str, words: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(word, sorted(words), n=3)


def check_values(args: argparse.Namespace, usual: dict[str, Any], paper: bool) -> None:
    """Checks the values that ``train`` restricts itself; the rehearsal finds all others that cannot work.

    Args:
        args: The options.
        usual: The values of all options by the recipe and the trainer's defaults.
        paper: Whether the paper's rule controls the learning rate.

    Raises:
        UserError: Naming the first invalid option.
    """
    check_least(args, epochs=1, batch_size=1, validation_batch_size=1, workers=0, seed=0, img_size=1)
    if args.lr is not None and not (math.isfinite(args.lr) and args.lr > 0):
        raise UserError(f"--lr {args.lr}: must be a positive number, such as the paper's 0.0005")
    for name in OWNED.keys() - {"model", "data", "data_dir", "dataset", "class_map", "experiment", "val_interval"}:
        if getattr(args, name, None):
            raise UserError(f"{name} in the -c file: not supported here; {OWNED[name]}")
    if getattr(args, "val_interval", 1) != 1:
        raise UserError(f"val_interval {args.val_interval} in the -c file: {OWNED['val_interval']}")
    if not paper:
        return
    for name, value in vars(args).items():
        if (name.startswith(NOT_OF_THE_RULE) or name == "eval_metric") and value != usual[name]:
            raise UserError(
                f"--{name.replace('_', '-')} {value}: the paper's learning rate rule starts at --lr and follows "
                "validation top1 after each epoch; leave it out, or give --sched to use one of timm's schedulers"
            )


def check_data(data: Place) -> list[ClassRow]:
    """Reads the classes of a prepared data set and checks that its class map agrees.

    Raises:
        UserError: Naming the file that is missing or differs.
    """
    if isinstance(data, Path) and not data.is_dir():
        raise UserError(f"--data {data}: no such folder; create one with `timm-landmark prepare` or `synthesize`")
    read_dataset_info(data)
    classes = read_rows(data, ClassRow)
    try:
        folders = (data / "class_map.txt").read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise UserError(f"--data {data}: class_map.txt is missing; prepare the data set again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--data {data}: class_map.txt is damaged ({error}); prepare the data set again") from None
    if not classes or folders != [row.folder for row in classes]:
        raise UserError(
            f"--data {data}: class_map.txt and classes.csv list different classes; prepare the data set again"
        )
    return classes


def check_classes(run: Path, classes: list[ClassRow], what: str) -> None:
    """Checks that a data set has the classes that a run was trained on, in the same order.

    Args:
        run: The run folder.
        classes: The classes of the data set.
        what: The option and value that named the data set, for the message.

    Raises:
        UserError: Naming the first class that differs.
    """
    trained = read_rows(run, ClassRow)
    for index, (old, new) in enumerate(zip_longest(trained, classes)):
        if old is None or new is None or (old.folder, old.landmark_id) != (new.folder, new.landmark_id):
            had, has = (f"{row.folder} ({row.name})" if row else "none" for row in (old, new))
            raise UserError(
                f"{what}: its class map does not fit the checkpoint of {run}: class {index} was {had}, now it is "
                f"{has}; give the data set that the run was trained on"
            )


def check_splits(data: Place, splits: Sequence[str], classes: list[ClassRow]) -> None:
    """Checks that the splits have images, in folders as many as classes.csv lists.

    timm would use the whole folder if a split is missing, and whatever is left of a split that was copied in part.

    Raises:
        UserError: Naming the first split without images, or with more or fewer images than classes.csv lists.
    """
    shards = read_shard_info(data) if in_shards(data) else {}
    for split in splits:
        found = sum(1 for _ in (data / split).glob("*/*.jpg")) if split and isinstance(data, Path) else 0
        if not (shards.get(split) if shards else found):
            raise UserError(f"--data {data}: no images in its split {split!r}; prepare the data set again")
        listed = sum(getattr(row, split) for row in classes)
        if not shards and found != listed:
            raise UserError(
                f"--data {data}: {found} images in {split}, but classes.csv lists {listed}; `timm-landmark check "
                f"{data}` names the difference"
            )


def batch_share(batch: int, processes: int, accumulation: int) -> int:
    """The number of images of a global batch that one process handles in one forward pass.

    Args:
        batch: Images per optimizer step (the paper: 64).
        processes: Number of processes.
        accumulation: Number of forward passes per optimizer step (``--grad-accum-steps``).

    Raises:
        UserError: If the batch cannot be divided evenly.
    """
    parts = processes * max(1, accumulation)
    if batch % parts:
        raise UserError(
            f"-b {batch}: the global batch cannot be divided evenly among {processes} processes x {accumulation} "
            f"accumulation steps; choose a number of processes that divides {batch}, or another -b"
        )
    return batch // parts


def check_name(model: str) -> None:
    """Checks that timm knows the model.

    Raises:
        UserError: Suggesting models with similar names.
    """
    from timm import is_model, list_models

    if not is_model(model.split(".")[0]) and not model.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        close = ", ".join(_close(model, list_models()))
        remedy = f"similar names: {close}" if close else "timm.list_models() lists all models"
        raise UserError(f"MODEL {model}: timm has no model with this name; {remedy}")
