"""``timm-landmark train``: timm's own train script with the paper's recipe and rule for the learning rate."""

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from timm_landmark.data import shard_reader
from timm_landmark.data.address import place
from timm_landmark.data.layout import ClassRow, data_digest, write_rows
from timm_landmark.data.shards import in_shards
from timm_landmark.runs.checkpoints import LAST, PARTIAL, checkpoint_epoch, settle
from timm_landmark.runs.folder import read_run_info, update_info
from timm_landmark.training import checks as checks
from timm_landmark.training import init_from
from timm_landmark.training.timm_script import COMMIT, fetch_script, find_script, load_script
from timm_landmark.utils.device import check_device, default_device
from timm_landmark.utils.errors import UserError, first_line, without_traceback
from timm_landmark.utils.machine import machine_info, project_commit
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import say


def main(argv: list[str]) -> int:
    """Runs the verb; returns 0, or 130 after Ctrl-C.

    Raises:
        UserError: For a mistake in options, data, model, or what is found in the run folder, and for a NaN loss.
    """
    own, extra = _parser().parse_known_args(argv)
    if own.fetch_script is not None:
        return 0 if fetch_script(own.fetch_script, own.sha256) else 1
    if own.sha256:
        raise UserError(f"--sha256 {own.sha256}: only with --fetch-script, which it tells what to expect")
    if not argv or argv[0].startswith("-"):
        raise UserError("the first argument must be MODEL, such as resneat50")
    for name in ("data", "output"):
        if getattr(own, name) is None:
            raise UserError(f"--{name} is missing; see `timm-landmark train --help`")
    return _train(argv[0], own, extra[1:])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="timm-landmark train",
        usage="timm-landmark train MODEL --data DATA --output RUN [options] [any option of timm's train.py]",
        description=(
            "Trains MODEL (the paper's seven, or any other) with the paper's recipe, through timm's train.py. "
            "The learning rate is halved when validation top-1 fell below the epoch before; with --sched or -c, timm's "
            "scheduler steers it instead. The batch (-b, 64) is global: under torchrun each process takes its share."
        ),
        epilog=(
            "With --workers 0 a resumed run ends with the same summary.csv as an uninterrupted one; "
            "with workers only the rates and the set of epochs are promised. Several GPUs: torchrun --nproc-per-node N "
            "-m timm_landmark.cli train MODEL ..."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data", type=place, help="prepared data set (timm-landmark prepare or synthesize): a folder, or an address"
    )
    parser.add_argument("--output", type=Path, metavar="RUN", help="folder of this run; must be new unless --resume")
    parser.add_argument(
        "--init-from",
        metavar="SOURCE",
        help="start from the tensors of equal name and shape of a timm model, hf-hub:ORG/NAME or a file",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output after an interruption")
    parser.add_argument("--seed", help="random seed (default: 42)")
    parser.add_argument("--epochs", help="number of epochs (default: the paper's 25)")
    parser.add_argument("--img-size", metavar="P", help="train on PxP pixels (default: the paper's 224)")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="a recipe of your own instead of the paper's")
    group = parser.add_argument_group("timm's train.py (in no wheel of timm's)")
    group.add_argument("--train-script", metavar="F", help="the script (default: $TIMM_TRAIN_SCRIPT, or as fetched)")
    group.add_argument(
        "--fetch-script",
        metavar="REVISION",
        nargs="?",
        const=COMMIT,
        help="download it, check its sum, keep it and stop; another REVISION of timm's repository than the listed one "
        "is only shown, with the command that accepts it",
    )
    group.add_argument("--sha256", metavar="SUM", help="with --fetch-script REVISION: the sum to expect")
    return parser


def recipe_path() -> Path:
    """The shipped recipe, the paper's; it names no model."""
    return Path(str(files("timm_landmark.training"))) / "recipes" / "paper.yaml"


def _train(model: str, own: argparse.Namespace, extra: Sequence[str]) -> int:
    from timm.utils import is_distributed_env, world_info_from_env

    _, rank, processes = world_info_from_env() if is_distributed_env() else (0, 0, 1)
    trainer = _trainer(own.train_script, processes)
    given = checks.parse_options(trainer.parser, extra, trainer.title)
    recipe = own.config or recipe_path()
    config = checks.read_config(trainer.parser, recipe, trainer.title)
    paper = own.config is None and "sched" not in given
    classes = checks.check_data(own.data)
    if given.get("num_classes", len(classes)) != len(classes):
        raise UserError(f"--num-classes {given['num_classes']}: {own.data} has {len(classes)} classes; leave it out")
    folder = own.output.resolve()  # has a name also where --output is "."
    options = [*extra, *_forwarded(own, model, len(classes))]
    options += [f"--experiment={folder.name}", f"--output={folder.parent}"]
    defaults = {action.dest: action.default for action in trainer.parser._actions}
    usual = defaults | config
    trainer.parser.set_defaults(**config)
    args = trainer.parser.parse_args(options)
    checks.check_values(args, usual, paper)
    checks.check_splits(own.data, [args.train_split, args.val_split])
    if in_shards(own.data):
        shard_reader.check_shards(own.data, classes, args, processes)
    accumulation = getattr(args, "grad_accum_steps", 1)
    share = checks.batch_share(args.batch_size, processes, accumulation)
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
        "processes": processes,
        "batch_per_process": share,
        "trainer": trainer.describe(),
        "project": project_commit(),
    }
    options += ["--batch-size", str(share)]
    finished = 0
    if rank == 0:
        suspects = {name: usual[name] for name, value in vars(args).items() if value != usual[name]}
        suspects |= {name: defaults[name] for name in config if own.config and name not in suspects}
        finished = _prepare_folder(own, trainer, args, info, classes, suspects)
        if finished >= args.epochs:
            if not read_run_info(own.output).get("finished"):  # killed after the last checkpoint
                update_info(own.output, epochs_finished=finished, finished=True)
            say(f"{own.output} is finished: {finished} epochs")
            return 0
    elif own.resume:
        read_run_info(own.output)  # says if this machine does not see the folder
        finished = _finished(own.output)
        if finished >= args.epochs:
            return 0
    if finished:
        options += ["--resume", str(own.output / LAST)]
    elif own.init_from or (own.output / init_from.FILE).exists():
        options += ["--initial-checkpoint", str(own.output / init_from.FILE)]
    return _run(trainer, ["-c", str(recipe), *options], own.output, args, rank, paper)


def _trainer(given: str | None, processes: int) -> Any:
    """The train script of timm, or the stand-in where there is none."""
    path = find_script(given)
    if path is not None:
        return load_script(path)
    if processes > 1:
        raise UserError("several processes need timm's train.py: give --train-script, or fetch it with --fetch-script")
    from timm_landmark.training.stand_in import StandIn

    return StandIn()


def _forwarded(own: argparse.Namespace, model: str, classes: int) -> list[str]:
    """The verb's own options in the words of timm's train script."""
    device = own.device or default_device()
    check_device(device)
    # shards hold class indices, and timm would look them up among the names of a class map
    dataset, class_map = (shard_reader.NAME, "") if in_shards(own.data) else ("", own.data / "class_map.txt")
    options = [f"--model={model}", f"--data-dir={own.data}", f"--dataset={dataset}", f"--class-map={class_map}"]
    options += [f"--num-classes={classes}", f"--device={device}"]
    for name in ("seed", "epochs", "img_size"):
        if getattr(own, name) is not None:
            options.append(f"--{name.replace('_', '-')}={getattr(own, name)}")
    return options


def _finished(run: Path) -> int:
    """The number of finished epochs, whether rank 0 has settled the folder yet or not."""
    epochs = [checkpoint_epoch(run / name) for name in (PARTIAL, LAST)]
    return max((epoch + 1 for epoch in epochs if epoch is not None), default=0)


def _prepare_folder(
    own: argparse.Namespace,
    trainer: Any,
    args: argparse.Namespace,
    info: dict[str, Any],
    classes: list[ClassRow],
    suspects: dict[str, Any],
) -> int:
    """Checks what is costly to check, settles or makes the run folder, and writes run.json; returns epochs finished."""
    from timm_landmark.training.rehearsal import rehearse

    run = own.output
    if not own.resume and run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"--output {run} exists; give --resume to go on with it, or another folder")
    if own.resume:
        read_run_info(run)  # says what is missing
    images = sum(row.train for row in classes)
    if images < info["batch_per_process"] * info["processes"]:
        raise UserError(f"-b {args.batch_size}: {own.data} has only {images} training images; give a smaller batch")
    checks.check_name(args.model)
    finished = _finished(run) if own.resume else 0
    if finished:
        checks.check_resume(run, args, info, classes)
    if finished < args.epochs:
        share = {**vars(args), "batch_size": info["batch_per_process"]}
        info["parameters"] = rehearse(trainer, share, suspects, info["rate_rule"] == "paper")
    if own.resume:
        finished = settle(run, args.eval_metric, args.checkpoint_hist)
    if finished:
        if finished < args.epochs:
            session = {"from_epoch": finished, **{key: info[key] for key in ("trainer", "project", "processes")}}
            sessions = [*read_run_info(run).get("sessions", []), session]
            update_info(run, epochs=args.epochs, finished=False, sessions=sessions)
        return finished
    if own.resume:
        say(f"{run} holds no finished epoch yet: it starts from the beginning")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {run} cannot be made ({error.strerror}); give another folder") from None
    if own.init_from:
        info["init_from"] = init_from.write_start(args, own.init_from, run / init_from.FILE)
    write_rows(run, ClassRow, classes)  # the run tells its classes without the data set
    update_info(run, **info, machine=machine_info(), epochs_finished=0, wall_seconds=0.0, finished=False, sessions=[])
    return 0


def _run(trainer: Any, options: list[str], run: Path, args: argparse.Namespace, rank: int, paper: bool) -> int:
    from timm.utils import is_distributed_env

    from timm_landmark.training import processes
    from timm_landmark.training.rate_rule import installed

    before = read_run_info(run).get("wall_seconds", 0.0) if rank == 0 else 0.0
    started = time.monotonic()

    def after_epoch(finished: int) -> None:
        update_info(run, epochs_finished=finished, wall_seconds=round(before + time.monotonic() - started, 1))

    def begun(*_: Any) -> None:
        if is_distributed_env():
            processes.watch()

    if rank == 0:
        say(f"{args.model} is trained by {trainer.title}, {args.epochs} epochs, into {run}")
    try:
        with (
            installed(run, args.seed, rank, paper, after_epoch, begun),
            shard_reader.installed(),
            processes.parallel_on(args.device),
        ):
            trainer.run(options)
    except KeyboardInterrupt:
        pass  # as timm's script ends its loop
    except UserError as error:
        raise without_traceback(error) from None
    except (OSError, RuntimeError) as error:
        if is_distributed_env() and processes.lost_another(error):
            processes.tell()
            return 1
        if isinstance(error, OSError) or "out of memory" in str(error) or "PytorchStreamWriter" in str(error):
            raise UserError(f"{first_line(error)}; when that is mended, go on with --resume") from error
        raise
    if rank != 0:
        return 0
    finished = settle(run, args.eval_metric, args.checkpoint_hist)
    if finished < (getattr(args, "stop_epoch", None) or args.epochs):
        say(
            "",
            f"interrupted after {finished} of {args.epochs} epochs; go on with the same command and --resume",
            file=sys.stderr,
        )
        return 130
    update_info(run, finished=True)
    say(f"{run}: {finished} epochs, the best checkpoint is model_best.pth.tar; `timm-landmark evaluate {run}` tests it")
    return 0
