"""What the attention unit's Scale does, in a trained ResNeAt and before: does it tell channels and photos apart?

Usage:
    python benchmarks/scale.py RUN --data DATA       # into benchmarks/results/scale.json

Of every unit: the mean of Scale, its standard deviation from channel to channel (within a photo) and from photo to
photo (of one channel), over the test split.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import timm
import torch

from timm_landmark.errors import UserError
from timm_landmark.evaluate import photo_loader
from timm_landmark.files import write_json
from timm_landmark.layers.channel_attention import ChannelAttention2d, attention_scale
from timm_landmark.runs import load_run, load_run_model

OUTPUT = Path(__file__).parent / "results" / "scale.json"


def scale_statistics(net: torch.nn.Module, batches: Sequence[torch.Tensor]) -> list[dict[str, float | str]]:
    """Mean and spreads of Scale by unit, in the network's order."""
    units = {name: unit for name, unit in net.named_modules() if isinstance(unit, ChannelAttention2d)}
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in units}

    def keep(name: str, unit: ChannelAttention2d, x: torch.Tensor) -> None:
        weights = (unit.query.weight, unit.key.weight, unit.value.weight)
        seen[name].append(attention_scale(x, *weights, unit.groups).double())

    handles = [
        unit.register_forward_pre_hook(lambda unit, inputs, name=name: keep(name, unit, inputs[0]))
        for name, unit in units.items()
    ]
    training = net.training
    net.eval()
    with torch.inference_mode():
        for images in batches:
            net(images)
    net.train(training)
    for handle in handles:
        handle.remove()
    rows = []
    for name, scales in seen.items():
        scale = torch.cat(scales)  # (photos, channels)
        spreads = dict(over_channels=float(scale.std(1).mean()), over_photos=float(scale.std(0).mean()))
        rows.append(dict(unit=name, channels=scale.shape[1], mean=float(scale.mean()), **spreads))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measures one run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run of a ResNeAt")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data set that it was trained on")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    try:
        run = load_run(args.run)
        trained = load_run_model(run)
        batches = [images for images, _ in photo_loader(run, args.data, "test")[0]]
    except UserError as error:
        print(f"scale.py: {error}", file=sys.stderr)
        return 2
    torch.manual_seed(run.info["seed"])
    untrained = timm.create_model(run.model, num_classes=run.num_classes)
    result = dict(
        model=run.model,
        run=args.run.name,
        data_digest=run.info["data_digest"],
        photos=sum(len(images) for images in batches),
        untrained=scale_statistics(untrained, batches),
        trained=scale_statistics(trained, batches),
    )
    write_json(args.output, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
