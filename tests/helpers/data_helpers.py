"""Writes a small prepared data set, independently of the commands, for tests of its readers."""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from timm_landmark.data.check import stored_name, write_sums
from timm_landmark.data.layout import SPLITS, ClassRow, ManifestRow, RejectRow, data_digest, folder_name, write_rows
from timm_landmark.data.shards import plan_shards, write_shard, write_shard_info
from timm_landmark.utils.files import write_json

COUNTS = {"train": 6, "validation": 2, "test": 3}


def jpeg(seed: int, size: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def small_dataset(data: Path, classes: int = 3, form: str = "folder") -> tuple[list[ManifestRow], dict[str, bytes]]:
    """Writes the set; returns its manifest and the stored bytes by image id."""
    data.mkdir(parents=True)
    manifest, images = [], {}
    for index in range(classes):
        for split in SPLITS:
            for number in range(COUNTS[split]):
                name = hashlib.md5(f"{index}{split}{number}".encode()).hexdigest()[:16]
                images[name] = jpeg(len(images))
                digest = hashlib.sha256(images[name]).hexdigest()
                manifest.append(
                    ManifestRow(name, str(100 + index), folder_name(index, classes), split, digest, f"{name}.jpg")
                )
    manifest.sort(key=lambda row: row.image_id)
    rows = [
        ClassRow(folder_name(index, classes), str(100 + index), f"Place_{index}", *(COUNTS[split] for split in SPLITS))
        for index in range(classes)
    ]
    write_rows(data, ClassRow, rows)
    write_rows(data, ManifestRow, manifest)
    write_rows(data, RejectRow, [RejectRow("ffff", "100", "truncated: image file is truncated")])
    (data / "class_map.txt").write_text("".join(f"{row.folder}\n" for row in rows))
    if form == "webdataset":
        plan = plan_shards(manifest, seed=0)
        for name, members in plan.items():
            write_shard(
                data / name,
                members,
                {row.folder: index for index, row in enumerate(rows)},
                lambda row: images[row.image_id],
            )
        write_shard_info(data, plan)
    else:
        for row in manifest:
            path = data / stored_name(row)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images[row.image_id])
    info = {"release": "GLDv2", "version": "0", "seed": 0, "digest": data_digest(data)}
    write_json(data / "dataset.json", info)
    write_sums(data)
    return manifest, images
