"""The stand-in: trains without timm's train.py, which timm's wheels do not include.

It is built from timm's own parts, supports the command line options that the recipes use and rejects all others. With
the same seed it writes the same files as timm's script and the same ``summary.csv``. It runs in one process, without
mixed precision or distillation; use timm's script for those. Model, data, optimizer and batches are created in the
order of the script, because random numbers are drawn in that order.
"""

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import timm.scheduler
import torch
import yaml
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler.scheduler import Scheduler
from timm.task import ClassificationTask, resume_task_checkpoint
from timm.utils import AverageMeter, CheckpointSaver, ParseKwargs, accuracy, random_seed, update_summary
from torch import nn

from timm_landmark.runs.loaders import validation_loader
from timm_landmark.runs.model import build_model
from timm_landmark.utils.parser import Parser

KIND = "stand-in"  # in run.json


class StandIn:
    """Used instead of :class:`timm_landmark.training.timm_script.TrainScript`."""

    title = "the built-in stand-in (timm's train.py was not found; see --train-script and --fetch-script)"

    def __init__(self) -> None:
        self.parser = _parser()

    def describe(self) -> dict[str, str | None]:
        """What ``run.json`` records about the trainer."""
        return {"kind": KIND, "timm": timm.__version__, "script_commit": None, "script_sha256": None}

    def run(self, argv: Sequence[str]) -> None:
        """Trains as ``python train.py *argv`` would.

        Raises:
            UserError: For an option that the stand-in does not have.
        """
        config = Parser(prog="stand-in", add_help=False, allow_abbrev=False)
        config.add_argument("-c", "--config", type=Path)
        known, remaining = config.parse_known_args(argv)
        parser = _parser()  # a new one, without the defaults of an earlier run
        if known.config:
            parser.set_defaults(**yaml.safe_load(known.config.read_text(encoding="utf-8")))
        _train(parser.parse_args(remaining))


def _parser() -> argparse.ArgumentParser:
    """The options of timm's train.py that the recipes and ``timm-landmark train`` use, with its types and defaults."""
    parser = Parser(prog="stand-in for timm's train.py", add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("--data-dir")
    add("--dataset", default="")
    add("--class-map", default="")
    add("--train-split", default="train")
    add("--val-split", default="validation")
    add("--model", default="resnet50")
    add("--model-kwargs", nargs="*", default={}, action=ParseKwargs)
    add("--initial-checkpoint", default="")
    add("--num-classes", type=int)
    add("--resume", default="")
    add("--img-size", type=int)
    add("--crop-pct", type=float)
    add("--mean", type=float, nargs="+")
    add("--std", type=float, nargs="+")
    add("--interpolation", default="")
    add("-b", "--batch-size", type=int, default=128)
    add("-vb", "--validation-batch-size", type=int)
    add("--device", default="cuda")
    add("--opt", default="sgd")
    add("--opt-eps", type=float)
    add("--opt-betas", type=float, nargs="+")
    add("--momentum", type=float, default=0.9)
    add("--weight-decay", type=float, default=2e-5)
    add("--layer-decay", type=float)
    add("--layer-decay-min-scale", type=float, default=0)
    add("--sched", default="cosine", choices=("plateau", "cosine"))  # those in the recipes; timm's script has more
    add("--sched-on-updates", action="store_true", default=False)
    add("--lr", type=float)
    add("--warmup-lr", type=float, default=1e-5)
    add("--min-lr", type=float, default=0)
    add("--epochs", type=int, default=300)
    add("--warmup-epochs", type=int, default=5)
    add("--patience-epochs", type=int, default=10)
    add("--decay-rate", "--dr", type=float, default=0.1)
    add("--scale", type=float, nargs="+", default=[0.08, 1.0])
    add("--ratio", type=float, nargs="+", default=[3.0 / 4.0, 4.0 / 3.0])
    add("--hflip", type=float, default=0.5)
    add("--color-jitter", type=float, default=0.4)
    add("--train-interpolation", default="random")
    add("--smoothing", type=float, default=0.1)
    add("--drop", type=float, default=0.0)
    add("--seed", type=int, default=42)
    add("-j", "--workers", type=int, default=4)
    add("--checkpoint-hist", type=int, default=10)
    add("--eval-metric", default="top1")
    add("--output", default="")
    add("--experiment", default="")
    return parser


def _train(args: argparse.Namespace) -> None:
    options = yaml.safe_dump(vars(args), default_flow_style=False)
    device = torch.device(args.device)
    if device.type == "cuda":  # like the script
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    random_seed(args.seed, 0)
    model = build_model(vars(args), drop_rate=args.drop, checkpoint_path=args.initial_checkpoint).to(device)
    train_loader, eval_loader = _loaders(args, model, device)
    loss = LabelSmoothingCrossEntropy(args.smoothing) if args.smoothing else nn.CrossEntropyLoss()
    task = ClassificationTask(model, criterion=loss.to(device), device=device, verbose=False)
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(cfg=args))
    start = resume_task_checkpoint(task, args.resume, optimizer, log_info=False) or 0 if args.resume else 0
    output = Path(args.output) / args.experiment
    output.mkdir(parents=True, exist_ok=True)
    (output / "args.yaml").write_text(options, encoding="utf-8")
    saver = CheckpointSaver(
        model=model,
        optimizer=optimizer,
        args=args,
        checkpoint_dir=str(output),
        recovery_dir=str(output),
        decreasing=args.eval_metric == "loss",
        max_history=args.checkpoint_hist,
        task=task,
    )
    schedule: dict[str, Any] = timm.scheduler.scheduler_kwargs(args)
    scheduler, epochs = timm.scheduler.create_scheduler_v2(optimizer, **schedule, updates_per_epoch=len(train_loader))
    assert scheduler is not None  # it is only for `--sched none`
    if start and args.sched_on_updates:
        scheduler.step_update(start * len(train_loader))
    elif start:
        scheduler.step(start)
    for epoch in range(start, epochs):
        if hasattr(train_loader.dataset, "set_epoch"):
            train_loader.dataset.set_epoch(epoch)
        trained = _train_epoch(epoch, model, task, train_loader, optimizer, scheduler)
        validated = _validate(model, eval_loader, device)
        rates = [group["lr"] for group in optimizer.param_groups]
        update_summary(
            epoch,
            trained,
            validated,
            filename=str(output / "summary.csv"),
            lr=sum(rates) / len(rates),
            write_header=epoch == 0,
        )
        saver.save_checkpoint(epoch, metric=validated[args.eval_metric])
        scheduler.step(epoch + 1, validated[args.eval_metric])


def _loaders(args: argparse.Namespace, model: nn.Module, device: torch.device) -> tuple[Any, Any]:
    config = resolve_data_config(vars(args), model=model)
    mode = "RGB" if config["input_size"][0] == 3 else "L"
    sets: list[Any] = [
        create_dataset(
            args.dataset,
            root=args.data_dir,
            split=split,
            is_training=training,
            class_map=args.class_map,
            batch_size=args.batch_size,
            seed=args.seed,
            input_img_mode=mode,
        )
        for split, training in ((args.train_split, True), (args.val_split, False))
    ]
    train_loader = create_loader(
        sets[0],
        input_size=config["input_size"],
        batch_size=args.batch_size,
        is_training=True,
        scale=args.scale,
        ratio=args.ratio,
        hflip=args.hflip,
        color_jitter=args.color_jitter,
        interpolation=args.train_interpolation or config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        num_workers=args.workers,
        device=device,
    )
    batch_size = args.validation_batch_size or args.batch_size
    eval_loader = validation_loader(sets[1], config, batch_size, args.workers, device)
    return train_loader, eval_loader


def _train_epoch(
    epoch: int,
    model: nn.Module,
    task: ClassificationTask,
    loader: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler,
) -> OrderedDict[str, float]:
    model.train()
    losses = AverageMeter()
    optimizer.zero_grad()
    for index, (images, target) in enumerate(loader):
        loss = task(images, target)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.update(loss.item(), len(target))
        scheduler.step_update(num_updates=epoch * len(loader) + index + 1, metric=losses.avg)
    return OrderedDict(loss=losses.avg)


def _validate(model: nn.Module, loader: Any, device: torch.device) -> OrderedDict[str, float]:
    model.eval()
    loss = nn.CrossEntropyLoss().to(device)
    meters = OrderedDict((name, AverageMeter()) for name in ("loss", "top1", "top5"))
    with torch.inference_mode():
        for images, target in loader:
            output = model(images)
            values = (loss(output, target), *accuracy(output, target, topk=(1, 5)))
            for meter, value in zip(meters.values(), values, strict=True):
                meter.update(value.item(), len(target))
    return OrderedDict((name, meter.avg) for name, meter in meters.items())
