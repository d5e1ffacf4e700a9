"""What ``train`` looks at before it starts: options, data set, model, processes, and what a run was started with."""

import argparse
import difflib
import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from timm_landmark.data.address import Place
from timm_landmark.data.layout import ClassRow, read_dataset_info, read_rows
from timm_landmark.data.shards import in_shards, read_shard_info
from timm_landmark.runs.folder import read_args, read_run_info
from timm_landmark.utils.errors import UserError

UNSET = object()
OWNED = {  # the verb sets these itself
    "model": "name the model as the first argument",
    "data": "give the data set with --data",
    "data_dir": "give the data set with --data",
    "dataset": "give a prepared data set with --data",
    "class_map": "it comes with the data set given by --data",
    "experiment": "name the run's folder with --output",
    "start_epoch": "--resume finds the epoch to go on with",
    "no_resume_opt": "a resumed run needs its optimizer's state; start another run instead",
    "val_interval": "the rule for the learning rate and the best checkpoint need every epoch's validation",
    "input_size": "give --img-size P for images of PxP",
    "tta": "validation sees each image once, and timm would average the answers for different ones",
}
NOT_OF_THE_RULE = ("sched_", "lr_", "warmup_", "min_lr", "decay_", "cooldown_", "patience_")  # of timm's schedulers
FREE_ON_RESUME = {  # may differ from the options a run was started with: none of them changes what is computed
    *(
        "resume",
        "output",
        "experiment",
        "data",
        "data_dir",
        "class_map",
        "device",
        "workers",
        "pin_mem",
        "log_interval",
    ),
    *("batch_size", "grad_accum_steps", "validation_batch_size", "local_rank", "device_modules", "checkpoint_hist"),
    *("recovery_interval", "save_images", "log_wandb", "wandb_project", "wandb_tags", "wandb_resume_id", "stop_epoch"),
    *("pretrained", "pretrained_path", "initial_checkpoint", "synchronize_step"),
}


def parse_options(parser: argparse.ArgumentParser, argv: Sequence[str], trainer: str) -> dict[str, Any]:
    """The options of timm's train script that ``argv`` names, by destination.

    Args:
        parser: The trainer's; from here on its complaints are UserErrors and it takes no abbreviations.
        argv: The options that are not the verb's own.
        trainer: What to call it.

    Raises:
        UserError: For an option that the trainer has not, a bad value, or an option that the verb sets itself.
    """

    def refuse(message: str) -> None:
        raise UserError(f"{message}; see `timm-landmark train --help` and the options of timm's train.py")

    parser.error, parser.allow_abbrev = refuse, False
    names = {action.dest for action in parser._actions if action.dest != "help"}
    try:
        known, unknown = parser.parse_known_args(list(argv), argparse.Namespace(**dict.fromkeys(names, UNSET)))
    except ValueError:  # of the one action of timm's own, for these two
        raise UserError("--model-kwargs and --opt-kwargs: each word after them must be of the form KEY=VALUE") from None
    given = {name: value for name, value in vars(known).items() if value is not UNSET}
    if given.get("data") is None:
        given.pop("data", None)
    if unknown:
        close = [f"--{name.replace('_', '-')}" for name in _close(unknown[0].lstrip("-").replace("-", "_"), names)]
        hint = f"; is {close[0]} meant?" if close else ""
        raise UserError(f"unknown option {unknown[0]}: neither this verb nor {trainer} has it{hint}")
    for name in OWNED.keys() & given.keys():
        raise UserError(f"--{name.replace('_', '-')} {given[name]}: not here; {OWNED[name]}")
    return given


def read_config(parser: argparse.ArgumentParser, path: Path, trainer: str) -> dict[str, Any]:
    """Reads a recipe and checks its keys, which timm's train script does not.

    Raises:
        UserError: If it is missing, no YAML mapping, or has a key that the parser does not know.
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
        raise UserError(f"-c {path}: a mapping of train.py's options is expected")
    actions = {action.dest: action for action in parser._actions}
    for key, value in config.items():
        if key not in actions:
            hint = "".join(f"; is {name} meant?" for name in _close(str(key), set(actions))[:1])
            raise UserError(f"-c {path}: {trainer} has no option {key}{hint}")
        if not _could_be(actions[key], value):
            raise UserError(f"-c {path}: {key}: {value!r} is not of the kind that the option {key} takes")
    return config


def _could_be(action: argparse.Action, value: Any) -> bool:
    """Whether the option could have the value on the command line; argparse itself converts texts."""
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


def _is(kind: Any, value: Any) -> bool:
    kinds = {int: int, float: (int, float)}.get(kind, str)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _close(word: str, words: Sequence[str] | set[str]) -> list[str]:
    return difflib.get_close_matches(word, sorted(words), n=3)


def check_values(args: argparse.Namespace, usual: dict[str, Any], paper: bool) -> None:
    """Refuses option values that the promise of ``train`` excludes; what else cannot work, a rehearsal shows.

    Args:
        args: The options.
        usual: The values of all options as the recipe and the trainer's defaults have them.
        paper: Whether the paper's rule steers the rate.

    Raises:
        UserError: Naming the first of them.
    """
    least = {"epochs": 1, "batch_size": 1, "validation_batch_size": 1, "workers": 0, "seed": 0, "img_size": 1}
    for name, bound in least.items():
        value = getattr(args, name)
        if value is not None and value < bound:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {bound}")
    if args.lr is not None and not (math.isfinite(args.lr) and args.lr > 0):
        raise UserError(f"--lr {args.lr}: must be a positive number, such as the paper's 0.0005")
    for name in OWNED.keys() - {"model", "data", "data_dir", "dataset", "class_map", "experiment", "val_interval"}:
        if getattr(args, name, None):
            raise UserError(f"{name} in the file of -c: not here; {OWNED[name]}")
    if getattr(args, "val_interval", 1) != 1:
        raise UserError(f"val_interval {args.val_interval} in the file of -c: {OWNED['val_interval']}")
    if not paper:
        return
    for name, value in vars(args).items():
        if (name.startswith(NOT_OF_THE_RULE) or name == "eval_metric") and value != usual[name]:
            raise UserError(
                f"--{name.replace('_', '-')} {value}: the paper's rule for the learning rate starts at --lr and "
                "follows top1, once an epoch; leave it out, or give --sched to train with a scheduler of timm's"
            )


def check_data(data: Place) -> list[ClassRow]:
    """Reads the classes of a prepared data set and sees that its class map agrees.

    Raises:
        UserError: Naming what is missing.
    """
    if isinstance(data, Path) and not data.is_dir():
        raise UserError(f"--data {data}: no such folder; make one with `timm-landmark prepare` or `synthesize`")
    read_dataset_info(data)
    classes = read_rows(data, ClassRow)
    try:
        folders = (data / "class_map.txt").read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise UserError(f"--data {data}: class_map.txt is missing; prepare the data set again") from None
    if not classes or folders != [row.folder for row in classes]:
        raise UserError(f"--data {data}: class_map.txt and classes.csv name other classes; prepare the data set again")
    return classes


def check_classes(run: Path, classes: list[ClassRow], what: str) -> None:
    """Sees that the classes of a data set are those that a run's checkpoint was trained for, in the same order.

    Raises:
        UserError: Naming ``what`` brought the classes and the first that differs.
    """
    trained = read_rows(run, ClassRow)
    for index, (old, new) in enumerate(zip_longest(trained, classes)):
        if old is None or new is None or (old.folder, old.landmark_id) != (new.folder, new.landmark_id):
            had, has = (f"{row.folder} ({row.name})" if row else "none" for row in (old, new))
            raise UserError(
                f"{what}: its class map does not fit the checkpoint of {run}: class {index} was {had}, now it is "
                f"{has}; give the data set that the run was trained on"
            )


def check_splits(data: Place, splits: Sequence[str]) -> None:
    """Sees that the splits hold images: timm would take the whole folder for a split that is not there.

    Raises:
        UserError: Naming the first that does not.
    """
    shards = read_shard_info(data) if in_shards(data) else None
    for split in splits:
        if not (shards.get(split) if shards is not None else split and any((data / split).glob("*/*"))):
            raise UserError(f"--data {data}: no images in its split {split!r}; prepare the data set again")


def batch_share(batch: int, processes: int, accumulation: int) -> int:
    """The part of a global batch that one process takes in one step.

    Args:
        batch: Images that one optimizer step is to see (the paper: 64).
        processes: Processes that train together.
        accumulation: Steps whose gradients are added up (``--grad-accum-steps``).

    Raises:
        UserError: If the batch cannot be divided evenly.
    """
    parts = processes * max(1, accumulation)
    if batch % parts:
        raise UserError(
            f"-b {batch}: the batch is global and cannot be divided evenly over {processes} processes x {accumulation} "
            f"accumulation steps; choose their number so that it divides {batch}, or another -b"
        )
    return batch // parts


def check_name(model: str) -> None:
    """Sees that timm knows the model.

    Raises:
        UserError: Naming those whose names are close to it.
    """
    from timm import is_model, list_models

    if not is_model(model.split(".")[0]) and not model.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        close = ", ".join(_close(model, list_models()))
        remedy = f"close to it: {close}" if close else "timm.list_models() lists them all"
        raise UserError(f"MODEL {model}: timm has no model of that name; {remedy}")


def check_resume(run: Path, new: argparse.Namespace, started: dict[str, Any], classes: list[ClassRow]) -> None:
    """Sees that a run is resumed with what it was started with.

    Args:
        run: The run folder.
        new: The options of now.
        started: What ``run.json`` would say of a run started now.
        classes: The classes of the data set given now.

    Raises:
        UserError: Naming the first difference, both values and the remedy.
    """
    old, info = read_args(run), read_run_info(run)
    check_classes(run, classes, f"--data {new.data_dir}")
    for name, flag in (("data_digest", "--data"), ("global_batch", "-b"), ("rate_rule", "--sched"), ("seed", "--seed")):
        if info.get(name) != started[name]:
            raise UserError(
                f"{flag}: the run was started with {name} {info.get(name)}, now it is {started[name]}; give the same, "
                "or start another run with another --output"
            )
    free = FREE_ON_RESUME | ({"epochs"} if started["rate_rule"] == "paper" else set())
    for name in sorted((old.keys() & vars(new).keys()) - free):
        if name == "dataset" and old[name] != new.dataset:
            forms = ["shards" if value else "folders" for value in (old[name], new.dataset)]
            raise UserError(
                f"--data {new.data_dir}: the run was started with images in {forms[0]}, now they are in {forms[1]}, "
                "and come in another order; give the same, or start another run with another --output"
            )
        if old[name] != _plain(getattr(new, name)):
            raise UserError(
                f"--{name.replace('_', '-')}: the run was started with {old[name]}, now it is {getattr(new, name)}; "
                "give the same, or start another run with another --output"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
