"""WebDataset shards: images and labels in tars, which timm's ``wds/`` reader trains from.

DATA/<split>-000000.tar ...   <image_id>.jpg and <image_id>.cls (the class index) for every image
DATA/_info.json               name, num_samples, filenames and shard_lengths of each split
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from timm_landmark.data.address import Address, Place
from timm_landmark.data.layout import SPLITS, ManifestRow
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import atomic_path, write_json

INFO = "_info.json"
SHARD_IMAGES = 500  # at most: about 20 MB
SHARES = 96  # timm assigns whole shards to loading processes; multiples of 96 divide by 1, 2, 3, 4, 6, 8, ... 96


def sample_key(image_id: str) -> str:
    """The key of an image in a shard: its id, with the dots and slashes escaped that WebDataset splits at."""
    return quote(image_id, safe="").replace(".", "%2E")


def stored_order(rows: Iterable[ManifestRow], seed: int) -> list[ManifestRow]:
    """The order of a split's images in its shards: by the hash of seed and id, independent of everything else.

    timm's reader only shuffles shards and a window of samples, so the classes must already be mixed.
    """
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row.image_id}".encode()).digest())


def plan_shards(rows: Iterable[ManifestRow], seed: int) -> dict[str, list[ManifestRow]]:
    """Divides every split, in its stored order, into shards of nearly equal length.

    Args:
        rows: The manifest.
        seed: The data set's seed.

    Returns:
        File name -> its images in order; names sort by split and number.
    """
    plan: dict[str, list[ManifestRow]] = {}
    rows = list(rows)
    for split in SPLITS:
        members = stored_order((row for row in rows if row.split == split), seed)
        shards = min(len(members), SHARES * -(-len(members) // (SHARES * SHARD_IMAGES)))
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
        stored: Returns the JPEG bytes of an image.

    Raises:
        OSError: If the disk is full or not writable; then no tar is left.
    """
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        for row in rows:
            key = sample_key(row.image_id)
            _add(archive, f"{key}.cls", str(class_index[row.folder]).encode())
            _add(archive, f"{key}.jpg", stored(row))


def shard_holds(path: Path, rows: Sequence[ManifestRow], class_index: Mapping[str, int]) -> bool:
    """Whether ``path`` is a shard with exactly these images and labels, for example from an interrupted run."""
    try:
        with open(path, "rb") as file:
            samples = read_shard(file)
    except (OSError, tarfile.TarError, KeyError, ValueError):
        return False
    found = [(key, index) for key, (index, _) in samples.items()]
    return found == [(sample_key(row.image_id), class_index[row.folder]) for row in rows]


def write_shard_info(data: Path, plan: Mapping[str, Sequence[ManifestRow]]) -> None:
    """Writes ``_info.json``, from which timm's reader takes split sizes and file names."""
    splits = {}
    for split in SPLITS:
        names = [name for name in plan if name.startswith(f"{split}-")]
        lengths = [len(plan[name]) for name in names]
        splits[split] = {"name": split, "num_samples": sum(lengths), "filenames": names, "shard_lengths": lengths}
    write_json(data / INFO, {"splits": splits})


def read_shard(file: BinaryIO) -> dict[str, tuple[int, bytes]]:
    """The samples of one shard: key -> (class index, JPEG bytes).

    Raises:
        tarfile.TarError, KeyError, ValueError: If the file is not such a shard.
    """
    parts: dict[str, bytes] = {}
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            if member.size < 0:  # older Python versions would follow it backwards forever
                raise tarfile.ReadError(f"{member.name!r} has a negative size")
            content = archive.extractfile(member)
            parts[member.name] = content.read() if content else b""
    keys = [name[:-4] for name in parts if name.endswith(".jpg")]
    return {key: (int(parts[f"{key}.cls"]), parts[f"{key}.jpg"]) for key in keys}


def in_shards(data: Place) -> bool:
    """Whether the images of a prepared data set are in shards, as they always are at an address."""
    return isinstance(data, Address) or (data / INFO).exists()


def read_shard_info(data: Place) -> dict[str, dict[str, int]]:
    """Reads ``_info.json``: for each split, in order, the file names of its shards -> number of images.

    Raises:
        UserError: If it is missing or damaged. Other file names count as damage, because a shell command may get them.
    """
    try:
        splits = json.loads((data / INFO).read_text(encoding="utf-8"))["splits"]
        return {split: _lengths(split, splits[split]) for split in SPLITS}
    except FileNotFoundError:
        raise UserError(f"{data / INFO} is missing; {data} contains no shards, or the data set is incomplete") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{data / INFO} cannot be read ({error!r}); restore it or prepare the data set again") from None


def _lengths(split: str, info: Mapping[str, Any]) -> dict[str, int]:
    lengths = dict(zip(info["filenames"], info["shard_lengths"], strict=True))
    if foreign := [name for name in lengths if not re.fullmatch(rf"{split}-\d{{6,}}\.tar", name)]:
        raise ValueError(f"{foreign[0]!r} is not the name of a shard of {split}")
    if len(lengths) != len(info["filenames"]) or sum(lengths.values()) != info["num_samples"]:
        raise ValueError(f"{split}: num_samples is not the sum of shard_lengths")
    return lengths


def read_samples(data: Place, name: str, images: int, sums: Mapping[str, str]) -> dict[str, tuple[int, bytes]]:
    """The samples of one shard, as from :func:`read_shard`, after comparing it with its checksum.

    Args:
        data: The data set.
        name: The shard's file name.
        images: Number of its images according to ``_info.json``.
        sums: File name -> SHA-256, from sha256sums.txt.

    Raises:
        UserError: If the shard is missing or damaged, or has another number of images.
    """
    remedy = "restore it or prepare the data set again"
    try:
        content = (data / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != sums.get(name):
            raise UserError(f"{data / name} is damaged: its checksum is not the one in sha256sums.txt; {remedy}")
        samples = read_shard(io.BytesIO(content))
    except FileNotFoundError:
        raise UserError(f"{data / name} is missing; {remedy}") from None
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise UserError(f"{data / name} cannot be read as a shard ({error}); {remedy}") from None
    if len(samples) != images:
        raise UserError(f"{data / name} has {len(samples)} images, but {INFO} lists {images}; {remedy}")
    return samples


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # time 0, owner 0, mode 0644: the bytes depend only on name and content
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
