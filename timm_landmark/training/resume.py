"""Checks that ``train --resume`` continues a run as it was started."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm_landmark.data.layout import ClassRow
from timm_landmark.runs.folder import read_args, read_run_info
from timm_landmark.training.checks import check_classes
from timm_landmark.training.stand_in import KIND as STAND_IN
from timm_landmark.utils.errors import UserError

OF_RUN_JSON = {
    "model": "MODEL",
    "data_digest": "--data",
    "global_batch": "-b",
    "rate_rule": "--recipe or --sched",
    "seed": "--seed",
}
FREE_ON_RESUME = {  # may differ from the options the run was started with; the global batch is compared in run.json
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


def check_resume(
    run: Path,
    new: argparse.Namespace,
    started: dict[str, Any],
    classes: list[ClassRow],
    defaults: Mapping[str, Any],
) -> None:
    """Checks that a run is resumed with the options it was started with.

    Args:
        run: The run folder; it has a finished epoch.
        new: The current options.
        started: What ``run.json`` would record if the run were started now.
        classes: The classes of the current data set.
        defaults: The trainer's default of each option: the value of options that the former trainer did not have.

    Raises:
        UserError: Naming the first difference, both values and the remedy.
    """
    old, info = read_args(run), read_run_info(run)
    check_classes(run, classes, f"--data {new.data_dir}")
    check_same_start(info, started)
    kinds = [(each.get("trainer") or {}).get("kind") for each in ([info, *info.get("sessions", [])][-1], started)]
    if kinds[0] != kinds[1] == STAND_IN:
        raise UserError(
            f"--output {run}: trained with {kinds[0]} so far, which has options that the built-in stand-in lacks; give "
            "the script with --train-script, or download it with --fetch-script"
        )
    old = {**{name: _plain(value) for name, value in defaults.items()}, **old}
    free = FREE_ON_RESUME | ({"epochs"} if started["rate_rule"] == "paper" else set())
    for name in sorted(vars(new).keys() - free):
        if name == "dataset" and old[name] != new.dataset:
            forms = ["shards" if value else "folders" for value in (old[name], new.dataset)]
            raise UserError(
                f"--data {new.data_dir}: the run was started with images in {forms[0]}, now they are in {forms[1]}, "
                "which changes their order; give the same data set, or start another run with another --output"
            )
        if old[name] != _plain(getattr(new, name)):
            raise _differs(f"--{name.replace('_', '-')}", old[name], getattr(new, name))


def check_same_start(info: dict[str, Any], started: dict[str, Any]) -> None:
    """Checks that a run is resumed with the model, data, batch, rule and seed that its run.json records.

    Args:
        info: The run's ``run.json``.
        started: What it would record if the run were started now.

    Raises:
        UserError: Naming the first difference, both values and the remedy.
    """
    for name, flag in OF_RUN_JSON.items():
        if info.get(name) != started[name]:
            raise _differs(flag, f"{name} {info.get(name)}", started[name])


def _differs(flag: str, old: Any, new: Any) -> UserError:
    return UserError(
        f"{flag}: the run was started with {old}, now it is {new}; give the same value, or start another run with "
        "another --output"
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
