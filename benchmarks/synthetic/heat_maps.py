"""Measures whether heat maps lie on the landmark, on procedural landmarks, whose masks are known.

Usage::

    timm-landmark synthesize --output DATA --images 80 --size 110
    timm-landmark train resnet50 --data DATA --output RUN --img-size 96 ...
    python -m benchmarks.synthetic.heat_maps RUN --data DATA

writes benchmarks/results/heat_maps.json and docs/explained.png.

For each photo of a split: the share of the heat of the first guess that lies on the landmark, and the share of the
network's input that the landmark covers. Heat that knows nothing of the landmark has the same share of both, or more if
it is drawn to the middle, where landmarks tend to be. Therefore also: the share on the landmarks of the other photos,
and both for networks with random weights (with BatchNorm statistics of the photos, else their maps would fade).
"""

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from timm.data import create_transform
from torch import nn

from timm_landmark.data.check import stored_name
from timm_landmark.data.images import settle_process
from timm_landmark.data.layout import SPLITS, ManifestRow, read_dataset_info, read_rows
from timm_landmark.data.synthetic.synthesize import class_names, landmark, view, view_mask
from timm_landmark.inference.heat_maps import load_explainer, overlay, uncropped
from timm_landmark.inference.metrics.accuracy import wilson
from timm_landmark.runs.model import Run, build_model, load_run, load_run_model
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_json
from timm_landmark.utils.machine import machine_info

ROOT = Path(__file__).parents[2]
SEEDS = range(5)  # of random weights
SAMPLES = 1000  # of the bootstrap
SHOWN = 6  # photos in the figure


@dataclass(frozen=True)
class Photos:
    """The photos of a split, n of them; inputs and masks are what the network sees.

    Attributes:
        pictures: RGB images.
        whole_masks: Grey images, 255 on the landmark.
        inputs: Shape (n, C, P, P).
        masks: Shape (n, P, P), float32 in 0..1.
        classes: Class indices, shape (n,).
        names: Class names.
    """

    pictures: list[Image.Image]
    whole_masks: list[Image.Image]
    inputs: torch.Tensor
    masks: np.ndarray
    classes: torch.Tensor
    names: list[str]


def load_photos(run: Run, data: Path, split: str) -> Photos:
    """Renders the photos of a split again, with their masks.

    Raises:
        UserError: If the data set is not synthetic, or was rendered by other versions.
    """
    info = read_dataset_info(data)
    if info.get("release") != "synthetic":
        raise UserError(f"--data {data}: not made by timm-landmark synthesize, so the landmarks' masks are unknown")
    size, seed, count = (info["arguments"][name] for name in ("size", "seed", "classes"))
    settings: dict[str, Any] = dict(input_size=run.input_size, crop_pct=run.crop_pct, interpolation=run.interpolation)
    as_input: Any = create_transform(**settings, mean=run.mean, std=run.std)
    as_mask: Any = create_transform(**settings, mean=(0.0,) * 3, std=(1.0,) * 3)
    rows = [row for row in read_rows(data, ManifestRow) if row.split == split]
    models = [landmark(seed, index) for index in range(count)]
    pictures, whole_masks, classes = [], [], []
    for row in rows:
        _, _, index, number = row.source.split("/")
        place = seed, int(index), int(number), size
        content = view(models[int(index)], *place)
        if content != (data / stored_name(row)).read_bytes():
            raise UserError(f"--data {data}: {stored_name(row)} was rendered by other versions; synthesize it again")
        pictures.append(Image.open(io.BytesIO(content)).convert("RGB"))
        whole_masks.append(view_mask(models[int(index)], *place))
        classes.append(int(index))
    masks = torch.stack([as_mask(mask.convert("RGB"))[0] for mask in whole_masks])
    inputs = torch.stack([as_input(picture) for picture in pictures])
    return Photos(pictures, whole_masks, inputs, masks.numpy(), torch.tensor(classes), class_names(seed, count))


def guess_and_heat(model: nn.Module, run: Run, photos: Photos) -> tuple[torch.Tensor, np.ndarray, str]:
    """The first guesses (n,), their heat (n, P, P), and the name of the layer."""
    explainer = load_explainer(model, run.input_size)
    guesses, heats = [], []
    for images in photos.inputs.split(32):
        with torch.inference_mode():
            guesses.append(model(images).argmax(1))
        heats.append(explainer.heat(images, guesses[-1]))
    return torch.cat(guesses), np.concatenate(heats), explainer.layer


def random_model(run: Run, photos: Photos, seed: int) -> nn.Module:
    """The run's network with random weights, and BatchNorm statistics of the photos."""
    torch.manual_seed(seed)
    model = build_model(run.args, in_chans=run.input_size[0])
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.reset_running_stats()
    with torch.no_grad():
        for images in photos.inputs.split(32):
            model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def shares(heat: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of each map's heat that lies on its own mask, and the mean share on the masks of the other photos.

    Args:
        heat: Shape (n, P, P).
        masks: Shape (n, P, P), in 0..1.

    Returns:
        Shape (n,) each; NaN for a map without any heat.
    """
    flat, masks = heat.reshape(len(heat), -1).astype(np.float64), masks.reshape(len(masks), -1).astype(np.float64)
    total = flat.sum(1)
    every = flat @ masks.T / np.where(total > 0, total, np.nan)[:, None]  # (n, P P) @ (P P, n) -> (n, n)
    own = np.diag(every)
    return own, (every.sum(1) - own) / (len(own) - 1)


def summary(own: np.ndarray, others: np.ndarray, area: np.ndarray) -> dict[str, Any]:
    """Mean shares and what they are relative to the area, with 95 % intervals from a bootstrap of the photos.

    Args:
        own: Share of the heat on the photo's landmark, shape (n,); NaN is left out.
        others: Share of the heat on the landmarks of other photos, shape (n,).
        area: Share of the input that the landmark covers, shape (n,).
    """
    there = np.isfinite(own)
    own, others, area = own[there], others[there], area[there]
    drawn = np.random.default_rng(0).integers(0, len(own), (SAMPLES, len(own)))
    ratios = own[drawn].mean(1) / area[drawn].mean(1)
    differences = (own - others)[drawn].mean(1)
    return {
        "photos": len(own),
        "heat": float(own.mean()),
        "area": float(area.mean()),
        "ratio": {"value": float(own.mean() / area.mean()), "interval": _interval(ratios)},
        "more_than_its_area": int((own > area).sum()),
        "heat_of_other_photos": float(others.mean()),
        "difference": {"value": float((own - others).mean()), "interval": _interval(differences)},
    }


def _interval(values: np.ndarray) -> list[float]:
    return np.quantile(values, (0.025, 0.975)).tolist()


def measure(run: Run, data: Path, split: str, figure: Path | None) -> dict[str, Any]:
    """The content of heat_maps.json."""
    photos = load_photos(run, data, split)
    area = photos.masks.mean((1, 2), dtype=np.float64)
    guesses, heat, layer = guess_and_heat(load_run_model(run), run, photos)
    correct = int((guesses == photos.classes).sum())
    random = [guess_and_heat(random_model(run, photos, seed), run, photos)[1] for seed in SEEDS]
    found = [shares(each, photos.masks) for each in random]
    own, others = np.mean(found, 0)  # over the seeds
    if figure:
        draw(figure, photos, {"trained": heat, "random weights": random[0]}, guesses, run.crop_pct)
    return {
        "model": run.model,
        "layer": layer,
        "img_size": run.input_size[1],
        "epochs": run.info["epochs"],
        "data": read_dataset_info(data)["arguments"],
        "data_digest": run.info["data_digest"],
        "split": split,
        "photos": len(area),
        "top1": {"value": correct / len(area), "correct": correct, "interval": list(wilson(correct, len(area)))},
        "interval_by": f"bootstrap of the photos, {SAMPLES} samples",
        "trained": summary(*shares(heat, photos.masks), area),
        "random": {
            **summary(own, others, area),
            "seeds": [{"seed": seed, **summary(*each, area)} for seed, each in zip(SEEDS, found, strict=True)],
        },
        "machine": machine_info(),
    }


def draw(path: Path, photos: Photos, heats: dict[str, np.ndarray], guesses: torch.Tensor, crop_pct: float) -> None:
    """Draws the first photo of each of the first classes: the photo, the mask, and the heat over it."""
    first = [int(torch.nonzero(photos.classes == index)[0]) for index in range(min(SHOWN, len(photos.names)))]
    rows: dict[str, list[Image.Image]] = {"photo": photos.pictures, "landmark": photos.whole_masks}
    for name, heat in heats.items():
        rows[name] = [
            overlay(photo, uncropped(each, crop_pct)) for photo, each in zip(photos.pictures, heat, strict=True)
        ]
    figure = Figure(figsize=(1.7 * len(first), 1.85 * len(rows)), layout="constrained")
    for line, (name, pictures) in zip(figure.subplots(len(rows), len(first)), rows.items(), strict=True):
        for axes, number in zip(line, first, strict=True):
            axes.imshow(pictures[number], cmap="gray", interpolation="bicubic")
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
        if name in ("photo", "trained"):
            for axes, number in zip(line, first, strict=True):
                index = photos.classes[number] if name == "photo" else guesses[number]
                axes.set_title(photos.names[int(index)].replace(" ", "\n", 1), fontsize=8)
    figure.savefig(path, dpi=90, metadata={"Software": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Measures one run; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a run on a data set of timm-landmark synthesize")
    parser.add_argument("--data", type=Path, required=True, help="that data set")
    parser.add_argument("--split", choices=SPLITS, default="test", help="photos to use (default: test)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/heat_maps.json", metavar="FILE.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/explained.png", metavar="FILE.png")
    args = parser.parse_args(argv)
    settle_process()
    try:
        write_json(args.output, measure(load_run(args.run), args.data, args.split, args.figure))
    except UserError as error:
        print(f"heat_maps.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
