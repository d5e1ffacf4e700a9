"""WebDataset shards: the images and labels of the folders, in tars that timm's ``wds/`` reader trains from.

DATA/<split>-000000.tar ...   <image_id>.jpg and <image_id>.cls (the class index) for every image
DATA/_info.json               for each split its name, num_samples, filenames and shard_lengths
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from timm_landmark.data.address import Address, Place
from timm_landmark.data.layout import SPLITS, ManifestRow
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import atomic_path, write_json

INFO = "_info.json"
SHARD_IMAGES = 500  # at most: about 20 MB
SHARES = 96  # timm deals whole shards to loading processes; a multiple of 96 goes evenly to 1, 2, 3, 4, 6, 8, ... 96


def sample_key(image_id: str) -> str:
    """The name of an image inside a shard: its id, with what WebDataset would split at (dots, slashes) escaped."""
    return quote(image_id, safe="").replace(".", "%2E")


def stored_order(rows: Iterable[ManifestRow], seed: int) -> list[ManifestRow]:
    """The order in which shards hold the images of a split: by the hash of seed and id, a function of these alone.

    timm's reader shuffles shards and a window of samples only, so the classes must be mixed already.
    """
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row.image_id}".encode()).digest())


def plan_shards(rows: Iterable[ManifestRow], seed: int) -> dict[str, list[ManifestRow]]:
    """Deals every split, in its stored order, to shards of nearly equal length.

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


def in_shards(data: Place) -> bool:
    """Whether the images of a prepared data set are in shards, as they always are at an address."""
    return isinstance(data, Address) or (data / INFO).exists()


def read_shard_info(data: Place) -> dict[str, dict[str, int]]:
    """For each split, in order, its shards' file names and how many images each holds, from ``_info.json``.

    Raises:
        UserError: If it is missing or damaged. Names of other files are damage too: a name may go to a shell command.
    """
    try:
        splits = json.loads((data / INFO).read_text(encoding="utf-8"))["splits"]
        return {split: _lengths(split, splits[split]) for split in SPLITS}
    except FileNotFoundError:
        raise UserError(f"{data / INFO} is missing; {data} holds no shards, or not all of a data set") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{data / INFO} cannot be read ({error!r}); restore it or prepare the data set again") from None


def _lengths(split: str, info: Mapping) -> dict[str, int]:
    lengths = dict(zip(info["filenames"], info["shard_lengths"], strict=True))
    if foreign := [name for name in lengths if not re.fullmatch(rf"{split}-\d{{6,}}\.tar", name)]:
        raise ValueError(f"{foreign[0]!r} is not the name of a shard of {split}")
    if len(lengths) != len(info["filenames"]) or sum(lengths.values()) != info["num_samples"]:
        raise ValueError(f"{split}: num_samples is not the sum of shard_lengths")
    return lengths


def read_samples(data: Place, name: str, images: int, sums: Mapping[str, str]) -> dict[str, tuple[int, bytes]]:
    """The samples of one shard, as :func:`read_shard`, once it is seen to be the one that was written.

    Args:
        data: The data set.
        name: The shard's file name.
        images: How many it must hold, as ``_info.json`` says.
        sums: File name -> SHA-256, as sha256sums.txt says.

    Raises:
        UserError: If the shard is missing, cannot be read, or is another one.
    """
    remedy = "restore it or prepare the data set again"
    try:
        content = (data / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != sums.get(name):
            raise UserError(f"{data / name} is damaged: its bytes are not those that sha256sums.txt records; {remedy}")
        samples = read_shard(io.BytesIO(content))
    except FileNotFoundError:
        raise UserError(f"{data / name} is missing; {remedy}") from None
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise UserError(f"{data / name} cannot be read as a shard ({error}); {remedy}") from None
    if len(samples) != images:
        raise UserError(f"{data / name} holds {len(samples)} images, {INFO} says {images}; {remedy}")
    return samples


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # time 0, owner 0, mode 0644: the bytes depend on nothing else
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
