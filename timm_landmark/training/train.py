"""``timm-landmark train``: timm's own train script with the paper's recipe and learning rate rule."""

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from filelock import FileLock
from timm.utils import is_distributed_env, world_info_from_env

from timm_landmark.data import shard_reader
from timm_landmark.data.address import place
from timm_landmark.data.layout import data_digest
from timm_landmark.data.shards import in_shards
from timm_landmark.runs.checkpoints import LAST, settle
from timm_landmark.runs.folder import read_run_info, update_info
from timm_landmark.training import checks, init_from, processes, rate_rule
from timm_landmark.training.run_folder import Usual, finished_epochs, planned_epochs, prepare_folder, run_lock
from timm_landmark.training.timm_script import COMMIT, Trainer, fetch_script, find_script, load_script
from timm_landmark.utils.device import check_device, default_device
from timm_landmark.utils.errors import UserError, first_line, without_traceback
from timm_landmark.utils.machine import project_commit
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import say

PAPER, FINETUNE = RECIPES = ("paper", "finetune")


def main(argv: list[str]) -> int:
    """Runs the command.

    Returns:
        0, 1 if ``--fetch-script`` kept no script, 2 if another process has reported the same error, 130 after Ctrl-C.

    Raises:
        UserError: For a mistake in the options, data set, model or run folder, and for a loss that is not finite.
    """
    try:
        return _main(argv)
    except UserError as error:
        if processes.first_to_report(str(error)):
            raise
        return 2


def _main(argv: list[str]) -> int:
    own, extra = _parser().parse_known_args(argv)
    if own.fetch_script is not None:
        return 0 if fetch_script(own.fetch_script, own.sha256) else 1
    if own.sha256:
        raise UserError(f"--sha256 {own.sha256}: only valid with --fetch-script")
    if not argv or argv[0].startswith("-"):
        raise UserError("the first argument must be MODEL, such as resneat50")
    for name in ("data", "output"):
        if getattr(own, name) is None:
            raise UserError(f"--{name} is missing; see `timm-landmark train --help`")
    lock = run_lock(own.output)
    try:
        return _train(argv[0], own, extra[1:], lock)
    finally:
        lock.release()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="timm-landmark train",
        usage="timm-landmark train MODEL --data DATA --output RUN [options] [any option of timm's train.py]",
        description=(
            "Train MODEL (one of the paper's seven models or any other timm model) with the paper's recipe and timm's "
            "train.py. The learning rate is halved when validation top-1 is lower than one epoch before; --recipe "
            "finetune, --sched or -c selects one of timm's schedulers instead. The batch size (-b, 64) is global: with "
            "torchrun, the processes share it."
        ),
        epilog=(
            "With --workers 0, a resumed run ends with the same summary.csv as an uninterrupted one; with more workers "
            "only the learning rates and the list of epochs are the same. To use several GPUs: torchrun "
            "--nproc-per-node N -m timm_landmark.cli train MODEL ..."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        type=place,
        help="data set made by timm-landmark prepare or synthesize: a folder, or an http(s):// or pipe: address",
    )
    parser.add_argument(
        "--output", type=Path, metavar="RUN", help="folder of this run; must be new unless --resume is given"
    )
    parser.add_argument(
        "--init-from",
        metavar="SOURCE",
        help="copy every tensor with the same name and shape from a run, an exported folder, hf-hub:ORG/NAME, a "
        "pretrained timm model or a checkpoint",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --output after an interruption")
    parser.add_argument("--seed", help="random seed (default: 42)")
    parser.add_argument("--epochs", help="number of epochs (default: 25; finetune: 15)")
    parser.add_argument("--img-size", metavar="P", help="image size, PxP pixels (default: the paper's 224)")
    parser.add_argument("--device", help="torch device (default: cuda if available, else mps, else cpu)")
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="paper (default): from scratch; finetune: a few photos of your own, starting from --init-from",
    )
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="your own recipe instead of a built-in one")
    group = parser.add_argument_group("timm's train.py (timm's wheels do not include it)")
    group.add_argument(
        "--train-script", metavar="F", help="path of train.py (default: $TIMM_TRAIN_SCRIPT or the downloaded one)"
    )
    group.add_argument(
        "--fetch-script",
        metavar="REVISION",
        nargs="?",
        const=COMMIT,
        help="download train.py, verify its checksum, store it in the cache and exit; a REVISION of timm's repository "
        "other than the tested one is stored only if you repeat the printed command with --sha256",
    )
    group.add_argument("--sha256", metavar="SUM", help="with --fetch-script REVISION: the expected checksum")
    return parser


def recipe_path(name: str = PAPER) -> Path:
    """A recipe that comes with this package, one of ``RECIPES``; it does not depend on the model."""
    return Path(str(files("timm_landmark.training"))) / "recipes" / f"{name}.yaml"


def _recipe(own: argparse.Namespace) -> Path:
    """The file of the chosen recipe."""
    if own.config is not None:
        if own.recipe:
            raise UserError(f"--recipe {own.recipe} and -c {own.config}: two recipes; give one of them")
        return own.config
    started = own.resume and (own.output / init_from.FILE).exists()
    if own.recipe == FINETUNE and not own.init_from and not started:
        raise UserError(
            f"--recipe {FINETUNE} starts from a trained network: give it with --init-from (a run, an exported folder, "
            f"hf-hub:ORG/NAME, a pretrained timm model or a checkpoint), or train from scratch with --recipe {PAPER}"
        )
    return recipe_path(own.recipe or PAPER)


def _train(model: str, own: argparse.Namespace, extra: Sequence[str], lock: FileLock) -> int:
    _, rank, world_size = world_info_from_env() if is_distributed_env() else (0, 0, 1)
    trainer = _trainer(own.train_script, world_size)
    given = checks.parse_options(trainer.parser, extra, trainer.title)
    recipe = _recipe(own)
    config = checks.read_config(trainer.parser, recipe, trainer.title)
    paper = recipe == recipe_path(PAPER) and "sched" not in given
    classes = checks.check_data(own.data)
    if given.get("num_classes", len(classes)) != len(classes):
        raise UserError(f"--num-classes {given['num_classes']}: {own.data} has {len(classes)} classes; leave it out")
    folder = own.output.resolve()  # has a name even if --output is "."
    options = [*extra, *_forwarded(own, model, len(classes), own.device or config.get("device"))]
    options += [f"--experiment={folder.name}", f"--output={folder.parent}"]
    defaults = {name: action.default for name, action in checks.options_of(trainer.parser).items()}
    usual = defaults | config
    trainer.parser.set_defaults(**config)
    args = trainer.parser.parse_args(options)
    checks.check_values(args, usual, paper)
    checks.check_splits(own.data, [args.train_split, args.val_split], classes)
    if in_shards(own.data):
        shard_reader.check_shards(own.data, classes, args, world_size)
    share = checks.batch_share(args.batch_size, world_size, getattr(args, "grad_accum_steps", 1))
    info = {
        "model": model,
        "recipe": recipe.name,
        "seed": args.seed,
        "img_size": args.img_size,
        "epochs": args.epochs,
        "rate_rule": "paper" if paper else f"timm {args.sched}",
        "data_digest": data_digest(own.data),
        "num_classes": len(classes),
        "global_batch": args.batch_size,
        "processes": world_size,
        "batch_per_process": share,
        "trainer": trainer.describe(),
        "project": project_commit(),
    }
    options += ["--batch-size", str(share)]
    finished = 0
    if rank == 0:
        suspects = {name: usual[name] for name, value in vars(args).items() if value != usual[name]}
        suspects |= {name: defaults[name] for name in config if own.config and name not in suspects}
        finished = prepare_folder(own, trainer, args, info, classes, Usual(defaults, suspects), lock)
        if finished >= planned_epochs(own.output, args.epochs, info["rate_rule"]):
            if not read_run_info(own.output).get("finished"):  # killed after the last checkpoint
                update_info(own.output, epochs_finished=finished, finished=True)
            say(f"{own.output} is finished: {finished} epoch{'s' * (finished != 1)}")
            return 0
    elif own.resume:
        read_run_info(own.output)  # fails if this machine does not share the folder
        finished = finished_epochs(own.output)
        if finished >= planned_epochs(own.output, args.epochs, info["rate_rule"]):
            return 0
    if finished:
        options += ["--resume", str(own.output / LAST)]
    elif own.init_from or (own.output / init_from.FILE).exists():
        options += ["--initial-checkpoint", str(own.output / init_from.FILE)]
    return _run(trainer, ["-c", str(recipe), *options], own.output, args, rank, paper)


def _trainer(given: str | None, world_size: int) -> Trainer:
    """The train script of timm, or the stand-in if there is none."""
    path = find_script(given)
    if path is not None:
        return load_script(path)
    if world_size > 1:
        raise UserError(
            "several processes need timm's train.py: pass its path with --train-script, or download it with "
            "--fetch-script"
        )
    from timm_landmark.training.stand_in import StandIn

    return StandIn()


def _forwarded(own: argparse.Namespace, model: str, classes: int, device: str | None) -> list[str]:
    """The options of ``timm-landmark train`` as options of timm's train script."""
    device = device or default_device()
    check_device(device)
    # shards contain class indices, which timm would look up among the names of a class map
    dataset, class_map = (shard_reader.NAME, "") if in_shards(own.data) else ("", own.data / "class_map.txt")
    options = [f"--model={model}", f"--data-dir={own.data}", f"--dataset={dataset}", f"--class-map={class_map}"]
    options += [f"--num-classes={classes}", f"--device={device}"]
    for name in ("seed", "epochs", "img_size"):
        if getattr(own, name) is not None:
            options.append(f"--{name.replace('_', '-')}={getattr(own, name)}")
    return options


def _run(trainer: Trainer, options: list[str], run: Path, args: argparse.Namespace, rank: int, paper: bool) -> int:
    before = read_run_info(run).get("wall_seconds", 0.0) if rank == 0 else 0.0
    started = time.monotonic()

    def after_epoch(finished: int) -> None:
        update_info(run, epochs_finished=finished, wall_seconds=round(before + time.monotonic() - started, 1))

    epochs = args.epochs

    def before_training(_: Any, steered: rate_rule.Steered) -> None:
        nonlocal epochs
        if rank == 0 and steered.epochs != epochs:
            epochs = steered.epochs  # longer: timm's schedulers add a cooldown, for example
            update_info(run, epochs=epochs)
        if is_distributed_env():
            processes.watch()

    if rank == 0:
        say(f"training {args.model} for {args.epochs} epoch{'s' * (args.epochs != 1)} with {trainer.title} into {run}")
    try:
        with (
            rate_rule.installed(run, args.seed, rank, paper, after_epoch, before_training),
            shard_reader.installed(),
            processes.parallel_on(args.device),
        ):
            trainer.run(options)
    except KeyboardInterrupt:
        pass  # timm's script ends its loop in the same way
    except UserError as error:
        raise without_traceback(error) from None
    except (OSError, RuntimeError) as error:
        if is_distributed_env() and processes.lost_another(error):
            processes.report_lost_process()
            return 1
        if isinstance(error, OSError) or "out of memory" in str(error) or "PytorchStreamWriter" in str(error):
            raise UserError(f"{first_line(error)}; fix the cause and continue with --resume") from error
        raise
    if rank != 0:
        return 0
    finished = settle(run, args.eval_metric, args.checkpoint_hist)
    if finished < (getattr(args, "stop_epoch", None) or epochs):
        say(
            "",
            f"interrupted after {finished} of {epochs} epochs; continue with the same command and --resume",
            file=sys.stderr,
        )
        return 130
    update_info(run, finished=True)
    say(
        f"{run}: {finished} epoch{'s' * (finished != 1)}; the best checkpoint is model_best.pth.tar, "
        f"evaluate it with `timm-landmark evaluate {run}`"
    )
    return 0
