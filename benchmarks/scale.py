"""Measures how the attention unit's Scale varies over channels and photos, before, during and after training.

Usage::

    python -m benchmarks.scale RUN --data DATA                                # into benchmarks/results/scale.json
    python -m benchmarks.scale RUN --data DATA --results RESULTS/NAME         # into RESULTS/NAME/<run>/scale.json
    python -m benchmarks.scale RUN --data DATA --batch-statistics --output benchmarks/results/scale_224.json

RUN is a run of ResNeAt or of a variant from ``ablations.py``. If it was trained with ``--checkpoint-hist E``, where E
is its number of epochs, it still has the checkpoint of every epoch, and each of them is measured.

For each unit, over the photos of a split: the mean of Scale; its standard deviation over the channels (of one photo)
and over the photos (of one channel); the standard deviation of the logits within a row, for the first photo of each
batch. Before training, BatchNorm uses the statistics of the batch, as in the first update. With
``--batch-statistics``, it does so after training, too: after few updates, its running statistics are not yet those of
its inputs. For the best checkpoint, also the share of photos whose prediction changes if every unit's Scale is replaced
by its mean, and the parameters and MACs of the model with 1000 classes at 224 pixels.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import ablations
from timm_landmark.accounting.macs import count_model
from timm_landmark.data.layout import SPLITS
from timm_landmark.inference.split_predictions import photo_loader
from timm_landmark.layers import ChannelAttention2d, attention_scale
from timm_landmark.runs.checkpoints import checkpoint_epoch
from timm_landmark.runs.model import Run, build_model, load_run, load_run_model
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_json

OUTPUT = Path(__file__).parent / "results" / "scale.json"

Rows = list[dict[str, Any]]


def attention_units(net: nn.Module) -> dict[str, Any]:
    """The units with a Scale, by name, in the order of the network."""
    with_scale = (ChannelAttention2d, ablations.MeanOfValues)
    return {name: unit for name, unit in net.named_modules() if isinstance(unit, with_scale)}


def scale_of(unit: Any, x: torch.Tensor) -> torch.Tensor:
    """Scale (B, ch) of the package's unit or of a variant."""
    if hasattr(unit, "scale"):
        return unit.scale(x)
    return attention_scale(x, unit.query.weight, unit.key.weight, unit.value.weight, unit.groups)


def logits_of(unit: Any, x: torch.Tensor) -> torch.Tensor | None:
    """The logits (B, ch, ch) of a unit's softmax, or None if it has no softmax."""
    if hasattr(unit, "logits"):
        return unit.logits(x)
    if not isinstance(unit, ChannelAttention2d):
        return None
    q, k = (F.conv2d(x, part.weight, groups=unit.groups).flatten(2) for part in (unit.query, unit.key))
    return q @ k.transpose(1, 2) / q.shape[2] ** 0.5


def scale_statistics(net: nn.Module, batches: Iterable[torch.Tensor], training: bool = False) -> Rows:
    """Mean and standard deviations of Scale, and the standard deviation of the logits, for each unit.

    Args:
        net: A ResNeAt or a variant.
        batches: Images (B, 3, H, W).
        training: Whether BatchNorm uses the statistics of the batch. Needed before training, when its running
            statistics are not those of its inputs: activations would vanish in deep layers.
    """
    return statistics_and_answers(net, batches, training)[0]


def statistics_and_answers(
    net: nn.Module, batches: Iterable[torch.Tensor], training: bool = False
) -> tuple[Rows, torch.Tensor]:
    """``scale_statistics``, and the predicted class of every photo (photos,), in one pass."""
    units = attention_units(net)
    scales: dict[str, list[torch.Tensor]] = {name: [] for name in units}
    logits: dict[str, list[float]] = {name: [] for name in units}

    def keep(name: str, unit: Any, x: torch.Tensor) -> torch.Tensor:
        scale = scale_of(unit, x)
        scales[name].append(scale.double())
        if (rows := logits_of(unit, x[:1])) is not None:
            logits[name].append(float(rows.double().std(2).mean()))
        return scale[:, :, None, None]

    with scaled_by(net, keep):
        predicted = answers(net, batches, training)
    rows = []
    for name, seen in scales.items():
        scale = torch.cat(seen)  # (photos, channels)
        row = dict(unit=name, channels=scale.shape[1], mean=float(scale.mean()))
        row |= dict(over_channels=float(scale.std(1).mean()), over_photos=float(scale.std(0).mean()))
        if logits[name]:
            row["logits"] = sum(logits[name]) / len(logits[name])
        rows.append(row)
    return rows, predicted


def answers(net: nn.Module, batches: Iterable[torch.Tensor], training: bool = False) -> torch.Tensor:
    """The predicted class of every photo, in evaluation or training mode."""
    before = net.training
    net.train(training)
    with torch.inference_mode():
        found = torch.cat([net(images).argmax(1) for images in batches])
    net.train(before)
    return found


@contextmanager
def scaled_by(net: nn.Module, scale: Callable[[str, Any, torch.Tensor], torch.Tensor | float]) -> Iterator[None]:
    """Within this context, Scale is computed by this function from a unit's name, the unit and its input.

    The units do not compute Scale themselves: it is the most expensive part of the network.
    """
    units = attention_units(net)

    def forward(name: str, unit: Any, x: torch.Tensor) -> torch.Tensor:
        return scale(name, unit, x) * unit.norm(unit.output(x))

    for name, unit in units.items():
        unit.forward = partial(forward, name, unit)
    try:
        yield
    finally:
        for unit in units.values():
            del unit.forward  # the class's own again


def constant_scale(net: nn.Module, rows: Rows) -> AbstractContextManager[None]:
    """Within this context every unit's Scale is replaced by its mean in ``rows``, for all channels and photos."""
    means = {row["unit"]: row["mean"] for row in rows}
    return scaled_by(net, lambda name, unit, x: means[name])


def main(argv: Sequence[str] | None = None) -> int:
    """Measures one run; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run of ResNeAt or one of its variants")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data set that it was trained on")
    parser.add_argument("--split", choices=SPLITS, default="validation", help="photos to use (default: validation)")
    parser.add_argument(
        "--batch-statistics", action="store_true", help="BatchNorm uses those of the batch; for a run of few updates"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE", help="default: results/scale.json")
    place.add_argument("--results", type=Path, metavar="DIR", help="folder of a comparison with the results of the run")
    args = parser.parse_args(argv)
    output = args.results / args.run.name / "scale.json" if args.results else args.output
    try:
        if not output.parent.is_dir():
            option = "--results" if args.results else "--output"
            raise UserError(f"{option}: no folder {output.parent}; collect the run with benchmarks.compare first")
        write_json(output, measure(args.run, args.data, args.split, args.batch_statistics))
    except UserError as error:
        print(f"scale.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(folder: Path, data: Path, split: str, batch_statistics: bool = False) -> dict[str, object]:
    """The content of scale.json for one run.

    Args:
        folder: The run.
        data: Its data set.
        split: The photos to use.
        batch_statistics: Whether BatchNorm of the trained network uses the statistics of the batch.
    """
    run = load_run(folder)
    trained = load_run_model(run)
    loader, photos = photo_loader(run, data, split)
    count = count_model(run.model)
    about: dict[str, object] = dict(
        model=run.model,
        run=folder.name,
        data_digest=run.info["data_digest"],
        split=split,
        photos=len(photos),
        batch_statistics=batch_statistics,
        params=count.params,
        macs=count.macs,
        macs_spent=count.macs_spent,
    )
    if not attention_units(trained):  # Scale = 1
        return about | dict(changed=0.0, untrained=[], trained=[], epochs={})
    return about | _measured(run, trained, [images for images, _ in loader], batch_statistics)


def _measured(run: Run, trained: nn.Module, batches: list[torch.Tensor], batch_statistics: bool) -> dict[str, object]:
    """Scale before training, after it, and after each epoch whose checkpoint was kept."""
    torch.manual_seed(run.info["seed"])
    untrained = build_model(run.args)
    rows, before = statistics_and_answers(trained, batches, batch_statistics)
    with constant_scale(trained, rows):
        changed = (answers(trained, batches, batch_statistics) != before).double().mean()
    files = run.path.glob("checkpoint-*.pth.tar")
    checkpoints = {epoch: file for file in files if (epoch := checkpoint_epoch(file)) is not None}
    best = run.best_epoch

    def of_epoch(epoch: int) -> Rows:
        if epoch == best:
            return rows
        net = load_run_model(replace(run, checkpoint=checkpoints[epoch]))
        return scale_statistics(net, batches, batch_statistics)

    return dict(
        changed=float(changed),
        untrained=scale_statistics(untrained, batches, training=True),
        trained=rows,
        epochs={str(epoch + 1): of_epoch(epoch) for epoch in sorted(checkpoints)},
    )


if __name__ == "__main__":
    sys.exit(main())
