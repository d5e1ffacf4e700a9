"""Measures how well a data set is solved without learning: by the nearest training image in pixels, shape or colours.

Usage: python -m benchmarks.synthetic.nearest_neighbour DATA [--output FILE.json]

On a data set that is suitable for testing networks, these accuracies are far below those of a network.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from timm_landmark.data.check import stored_name
from timm_landmark.data.layout import ClassRow, ManifestRow, read_dataset_info, read_rows
from timm_landmark.inference.metrics.accuracy import wilson
from timm_landmark.utils.files import write_json
from timm_landmark.utils.machine import machine_info

SIDE, BINS = 16, 6


def pixels(image: Image.Image) -> np.ndarray:
    """The image as 16x16 RGB pixels (768,)."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32).ravel() / 255


def shape(image: Image.Image) -> np.ndarray:
    """The image as 16x16 grey pixels (256,), normalised in brightness and contrast."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32).ravel()
    return (grey - grey.mean()) / (grey.std() + 1e-6)


def colours(image: Image.Image) -> np.ndarray:
    """Square roots of the histogram of 6x6x6 colours (216,), so that distances are Hellinger distances."""
    cells = np.asarray(image).reshape(-1, 3).astype(np.int64) * BINS // 256
    counts = np.bincount(cells @ np.array([BINS * BINS, BINS, 1]), minlength=BINS**3)
    return np.sqrt(counts / len(cells)).astype(np.float32)


FEATURES: dict[str, Callable[[Image.Image], np.ndarray]] = {"pixels": pixels, "shape": shape, "colours": colours}


def nearest_neighbours(data: Path, split: str = "test") -> dict[str, Any]:
    """Top-1 of the nearest training image, for each feature.

    Args:
        data: A prepared data set in folders.
        split: The split to classify.

    Returns:
        For each feature the accuracy (value, correct, images, 95 % interval); and the share of the largest class.
    """
    rows: dict[str, list[ManifestRow]] = {"train": [], split: []}
    for row in read_rows(data, ManifestRow):
        if row.split in rows:
            rows[row.split].append(row)
    found: dict[str, list[np.ndarray]] = {f"{part} {name}": [] for part in rows for name in FEATURES}
    for part, members in rows.items():
        for row in members:
            with Image.open(data / stored_name(row)) as image:
                for name, feature in FEATURES.items():
                    found[f"{part} {name}"].append(feature(image))
    classes = np.array([row.folder for row in rows["train"]])
    truth = np.array([row.folder for row in rows[split]])
    result: dict[str, Any] = {}
    for name in FEATURES:
        known, asked = np.array(found[f"train {name}"]), np.array(found[f"{split} {name}"])
        # (asked, known), without the square of the asked image, which does not change the nearest
        distance = (known**2).sum(1) - 2 * asked @ known.T
        correct = int((classes[distance.argmin(1)] == truth).sum())
        interval = list(wilson(correct, len(truth)))
        result[name] = {
            "value": correct / len(truth),
            "correct": correct,
            "images": len(truth),
            "interval": interval,
        }
    largest = max(getattr(row, split) for row in read_rows(data, ClassRow))
    return {"split": split, **result, "largest_class": largest / len(truth)}


def main() -> None:
    """Prints the accuracies; --output also writes them, with the digest of the data set and the machine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="prepared data set")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    result = nearest_neighbours(options.data)
    print(json.dumps(result, indent=2))
    if options.output:
        info = read_dataset_info(options.data)
        about = {"arguments": info.get("arguments"), "data_digest": info.get("digest"), "machine": machine_info()}
        write_json(options.output, {**about, **result})


if __name__ == "__main__":
    main()
