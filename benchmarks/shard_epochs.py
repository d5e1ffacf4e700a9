"""Counts the images of an epoch that timm's shard reader repeats and leaves out, by number of processes and workers.

Usage: python -m benchmarks.shard_epochs [--output FILE.json]

The data sets are generated with the number of images of the real ones; each image has 8x8 pixels and its own label.
"""

import argparse
import io
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data.dataset_factory import create_dataset
from torch.utils.data import DataLoader

from timm_landmark.data import shard_reader
from timm_landmark.data.check import write_sums
from timm_landmark.data.layout import ManifestRow
from timm_landmark.data.shards import plan_shards, write_shard, write_shard_info
from timm_landmark.utils.files import write_json
from timm_landmark.utils.machine import machine_info

OUTPUT = Path(__file__).resolve().parent / "results" / "shard_epochs.json"
SETS = {"the paper's": (60_000, 10_000), "photos": (897, 450)}  # images to train and to validate
SETTINGS = [(1, 0), (1, 2), (1, 4), (2, 0), (2, 2), (2, 4), (3, 0), (3, 2), (3, 4)]  # processes, --workers
BATCH = 64


def write_set(data: Path, train: int, validation: int) -> None:
    """Writes shards in which the class index of an image is its number in the split."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    rows = [
        ManifestRow(f"{split}{number}", "", str(number), split, "", "")
        for split, count in (("train", train), ("validation", validation), ("test", 0))
        for number in range(count)
    ]
    index = {str(number): number for number in range(max(train, validation))}
    plan = plan_shards(rows, seed=0)
    for name, members in plan.items():
        write_shard(data / name, members, index, lambda row: buffer.getvalue())
    write_shard_info(data, plan)
    write_sums(data)


def make_loader(data: Path, split: str, processes: int, workers: int) -> DataLoader:
    """The loader of timm's script for the first epoch of one of several processes, without the pixels."""
    training, batch_size = split == "train", BATCH // processes
    if processes > 1 and not training:
        workers = min(workers, shard_reader.VALIDATION_WORKERS)
    with shard_reader.installed():
        dataset: Any = create_dataset("wds/", root=str(data), split=split, is_training=training, batch_size=batch_size)
    dataset.transform = str  # a string instead of the image
    dataset.set_loader_cfg(num_workers=workers)
    return DataLoader(dataset, batch_size, num_workers=workers, drop_last=training, collate_fn=_labels)


def _labels(batch: Iterable[tuple[Any, int]]) -> list[int]:
    return [label for _, label in batch]


def count_epoch(data: Path, split: str, images: int, processes: int, workers: int) -> dict[str, int]:
    """Counts how many images all processes together repeat, and how many they leave out."""
    read: Counter[int] = Counter()
    for rank in range(processes):
        loader = make_loader(data, split, processes, workers)
        dataset: Any = loader.dataset
        dataset.reader.dist_rank, dataset.reader.dist_num_replicas = rank, processes
        for labels in loader:
            read.update(labels)
    return {"repeated": read.total() - len(read), "left_out": images - len(read)}


def measure() -> list[dict[str, Any]]:
    """One row for each data set and setting."""
    rows = []
    for name, (train, validation) in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_set(Path(folder), train, validation)
            for processes, workers in SETTINGS:
                counts = {
                    split: count_epoch(Path(folder), split, images, processes, workers)
                    for split, images in (("train", train), ("validation", validation))
                }
                rows.append(dict(set=name, images=[train, validation], processes=processes, workers=workers, **counts))
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measures and writes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    write_json(parser.parse_args().output, {"batch": BATCH, "rows": measure(), "machine": machine_info()})


if __name__ == "__main__":
    main()
