"""WebDataset shards: the images, labels and manifest of the folders, in tars that timm's ``wds/`` reader trains from.

DATA/<split>-000000.tar ...   <image_id>.jpg and <image_id>.cls (the class index) for every image
DATA/_info.json               for each split its name, num_samples, filenames and shard_lengths
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from timm_landmark.data.layout import SPLITS, ManifestRow
from timm_landmark.files import atomic_path, write_json

INFO = "_info.json"
SHARD_IMAGES = 500  # about 20 MB
LEAST_SHARDS = 64  # timm deals whole shards to workers: each loader worker of every GPU needs one of its own


def sample_key(image_id: str) -> str:
    """The name of an image inside a shard: its id, with what WebDataset would split at (dots, slashes) escaped."""
    return quote(image_id, safe="").replace(".", "%2E")


def plan_shards(rows: Iterable[ManifestRow], seed: int) -> dict[str, list[ManifestRow]]:
    """Deals every split to shards of nearly equal length, classes mixed.

    The reader shuffles shards and a window of samples only, so the order inside must be random already: by the hash of
    seed and id, a function of these alone.

    Args:
        rows: The manifest.
        seed: The data set's seed.

    Returns:
        File name -> its images in order; names sort by split and number.
    """
    plan: dict[str, list[ManifestRow]] = {}
    rows = list(rows)
    for split in SPLITS:
        members = sorted(
            (row for row in rows if row.split == split),
            key=lambda row: hashlib.sha256(f"{seed}/{row.image_id}".encode()).digest(),
        )
        shards = max(-(-len(members) // SHARD_IMAGES), min(len(members), LEAST_SHARDS))
        for index in range(shards):
            start, stop = len(members) * index // shards, len(members) * (index + 1) // shards
            plan[f"{split}-{index:06d}.tar"] = members[start:stop]
    return plan


def write_shard(
    path: Path, rows: Sequence[ManifestRow], class_index: Mapping[str, int], stored: Callable[[ManifestRow], bytes]
) -> None:
    """Writes one shard, atomically; equal images give equal bytes.

    Args:
        path: The tar to write.
        rows: Its images, in order.
        class_index: Class folder -> class index.
        stored: Gives the JPEG bytes of an image.

    Raises:
        OSError: If the disk is full or cannot be written; no tar is then left.
    """
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        for row in rows:
            key = sample_key(row.image_id)
            _add(archive, f"{key}.cls", str(class_index[row.folder]).encode())
            _add(archive, f"{key}.jpg", stored(row))


def shard_holds(path: Path, rows: Sequence[ManifestRow], class_index: Mapping[str, int]) -> bool:
    """Whether ``path`` is a shard of exactly these images and labels, as an interrupted run may have left it."""
    try:
        with open(path, "rb") as file:
            samples = read_shard(file)
    except (OSError, tarfile.TarError, KeyError, ValueError):
        return False
    found = [(key, index) for key, (index, _) in samples.items()]
    return found == [(sample_key(row.image_id), class_index[row.folder]) for row in rows]


def write_shard_info(data: Path, plan: Mapping[str, Sequence[ManifestRow]]) -> None:
    """Writes ``_info.json``, the file that timm's reader takes split sizes and file names from."""
    splits = {}
    for split in SPLITS:
        names = [name for name in plan if name.startswith(f"{split}-")]
        lengths = [len(plan[name]) for name in names]
        splits[split] = {"name": split, "num_samples": sum(lengths), "filenames": names, "shard_lengths": lengths}
    write_json(data / INFO, {"splits": splits})


def read_shard(file: BinaryIO) -> dict[str, tuple[int, bytes]]:
    """The samples of one shard: key -> (class index, JPEG bytes).

    Raises:
        tarfile.TarError, KeyError, ValueError: If the file is not a shard of this kind.
    """
    parts: dict[str, bytes] = {}
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            if member.size < 0:  # older Pythons follow it back, for ever
                raise tarfile.ReadError(f"{member.name!r} has a negative size")
            content = archive.extractfile(member)
            parts[member.name] = content.read() if content else b""
    keys = [name[:-4] for name in parts if name.endswith(".jpg")]
    return {key: (int(parts[f"{key}.cls"]), parts[f"{key}.jpg"]) for key in keys}


def read_shard_info(data: Path) -> dict[str, dict]:
    """The splits of ``_info.json``."""
    return json.loads((data / INFO).read_text(encoding="utf-8"))["splits"]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # time 0, owner 0, mode 0644: the bytes depend on nothing else
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
