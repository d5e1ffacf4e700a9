"""A few colored JPEGs as a prepared data set, for the tests of training and everything after it."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from timm_landmark.data.check import stored_name, write_sums
from timm_landmark.data.layout import SPLITS, ClassRow, ManifestRow, RejectRow, folder_name, read_rows, write_rows
from timm_landmark.data.shards import plan_shards, write_shard, write_shard_info
from timm_landmark.utils.files import sha256_file


def make_data(
    path: Path, classes: int = 3, images: tuple[int, int, int] = (12, 6, 6), size: int = 64, contrast: float = 1.0
) -> Path:
    """Writes ``classes`` classes with ``images`` in train, validation and test, each of ``size`` x ``size`` pixels.

    With a lower ``contrast`` the colors of the classes are more similar and harder to tell apart.
    """
    generator = np.random.default_rng(0)
    manifest = []
    for index in range(classes):
        folder = folder_name(index, classes)
        color = 128 + contrast * (generator.integers(0, 256, 3) - 128)
        for split, count in zip(SPLITS, images, strict=True):
            (path / split / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image_id = hashlib.sha256(f"{folder} {split} {number}".encode()).hexdigest()[:16]
                noise = generator.integers(-90, 91, (size, size, 3))
                pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
                file = path / split / folder / f"{image_id}.jpg"
                Image.fromarray(pixels).save(file, quality=95)
                manifest.append(ManifestRow(image_id, str(index), folder, split, sha256_file(file), f"{image_id}.jpg"))
    folders = [folder_name(index, classes) for index in range(classes)]
    write_rows(path, ClassRow, [ClassRow(folder, str(i), f"Class {i}", *images) for i, folder in enumerate(folders)])
    write_rows(path, ManifestRow, sorted(manifest, key=lambda row: row.image_id))
    write_rows(path, RejectRow, [])
    (path / "class_map.txt").write_text("".join(f"{folder}\n" for folder in folders))
    (path / "dataset.json").write_text(json.dumps({"source": "test", "version": "test"}))
    return path


def pack(data: Path, target: Path) -> Path:
    """Writes the data set ``data`` to ``target`` with its images in shards."""
    target.mkdir()
    for file in data.iterdir():
        if file.is_file():
            shutil.copy2(file, target)
    index = {row.folder: number for number, row in enumerate(read_rows(data, ClassRow))}
    plan = plan_shards(read_rows(data, ManifestRow), seed=0)
    for name, rows in plan.items():
        write_shard(target / name, rows, index, lambda row: (data / stored_name(row)).read_bytes())
    write_shard_info(target, plan)
    write_sums(target)
    return target
