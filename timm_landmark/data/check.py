"""Checks a prepared data set for damage: its files against their checksums, and its tables against each other.

:mod:`timm_landmark.hub.check` is the command `timm-landmark check`, which calls this module for data sets and also
checks exported models and models on the Hub.

DATA/sha256sums.txt lists every other file of the data set, in the format of ``sha256sum --check``. The manifest's
sha256 is that of the *source* bytes, so that two data sets made from the same source agree, whichever decoder was used;
the checksums are those of the stored files.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from timm_landmark.data.address import Place
from timm_landmark.data.layout import (
    FILES,
    SPLITS,
    ClassRow,
    ManifestRow,
    RejectRow,
    data_digest,
    read_dataset_info,
    read_rows,
)
from timm_landmark.data.shards import INFO, in_shards, read_shard, read_shard_info, sample_key
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import sha256_file, write_atomic
from timm_landmark.utils.text import printable

SUMS = "sha256sums.txt"
_Result = TypeVar("_Result")


def stored_name(row: ManifestRow) -> str:
    """Path of an image in a data set with image folders, with forward slashes."""
    return f"{row.split}/{row.folder}/{row.image_id}.jpg"


def write_sums(data: Path, known: Mapping[str, str] | None = None) -> None:
    """Writes sha256sums.txt for every file in ``data``; it is the last file of a finished data set.

    Args:
        data: The data set.
        known: Path relative to ``data`` -> hex SHA-256 of files already hashed (the images); all others are read.
    """
    known = known or {}
    sums = {name: known.get(name) or sha256_file(data / name) for name in _files(data) if name != SUMS}
    write_atomic(data / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))


def read_sums(data: Place) -> dict[str, str]:
    """Path relative to ``data`` -> hex SHA-256, from sha256sums.txt.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        lines = (data / SUMS).read_bytes().decode().split("\n")  # not splitlines, which has more line ends
    except FileNotFoundError:
        raise UserError(f"{SUMS} is missing: the run that made {data} was interrupted; repeat it to finish") from None
    except UnicodeDecodeError:
        raise UserError(f"{SUMS} is damaged: not UTF-8") from None
    if lines.pop():
        raise UserError(f"{SUMS} is damaged: its last line is incomplete")
    pairs = [line.partition("  ") for line in lines]
    if broken := [number for number, (digest, _, name) in enumerate(pairs, 1) if len(digest) != 64 or not name]:
        raise UserError(f"{SUMS} is damaged: line {broken[0]} is not 'sha256  path'")
    return {name: digest for digest, _, name in pairs}


def check_dataset(data: Path) -> list[str]:
    """Checks a prepared data set for damage: every file, table and shard.

    Args:
        data: The folder that ``prepare`` or ``synthesize`` wrote, with images in folders or in shards.

    Returns:
        One line per problem, with the name of the file; empty if there is no damage.

    Raises:
        UserError: If ``data`` is not a prepared data set at all.
    """
    data = Path(data)
    info = read_dataset_info(data)
    problems: list[str] = []
    sums = _or_problem(problems, lambda: read_sums(data)) or {}
    if sums:
        problems += check_files(data, sums)
    classes = _or_problem(problems, lambda: read_rows(data, ClassRow))
    manifest = _or_problem(problems, lambda: read_rows(data, ManifestRow))
    rejects = _or_problem(problems, lambda: read_rows(data, RejectRow))
    if classes is not None and manifest is not None and rejects is not None:
        problems += _check_tables(data, info, classes, manifest, rejects)
        problems += _check_images(data, sums, classes, manifest)
    return list(dict.fromkeys(problems))


def _or_problem(problems: list[str], read: Callable[[], _Result]) -> _Result | None:
    """The result of ``read``; if it fails, None, and ``problems`` gets a line."""
    try:
        return read()
    except UserError as error:
        problems.append(str(error))
    except (OSError, ValueError) as error:
        problems.append(f"cannot be read: {error}")
    return None


def _files(data: Path) -> Iterable[str]:
    return (path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_symlink() or not path.is_dir())


def check_files(data: Path, sums: Mapping[str, str]) -> Iterable[str]:
    """Compares every file below ``data`` with ``sums``; yields a line for each changed, missing or unexpected file."""
    from tqdm import tqdm

    for name, digest in tqdm(sums.items(), desc="check", unit=" files", disable=None, leave=False):
        try:
            if sha256_file(data / name) != digest:
                yield f"{name}: changed: its checksum differs from {SUMS}"
        except FileNotFoundError:
            yield f"{name}: missing"
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            yield f"{printable(name)}: cannot be read ({getattr(error, 'strerror', None) or error})"
    for name in sorted(_files(data)):
        if name not in sums and name != SUMS:
            yield f"{name}: unexpected, not listed in {SUMS}"


def _check_tables(
    data: Path, info: Mapping[str, Any], classes: list[ClassRow], manifest: list[ManifestRow], rejects: list[RejectRow]
) -> Iterable[str]:
    if info.get("digest") != data_digest(data):
        yield f"dataset.json: the digest does not match {FILES[ManifestRow]}"
    ids = [row.image_id for row in manifest]
    if ids != sorted(ids):
        yield f"{FILES[ManifestRow]}: not sorted by image_id"
    for name, count in Counter(ids).items():
        if count > 1:
            yield f"{FILES[ManifestRow]}: image {name} is listed {count} times"
    for name in sorted(set(ids) & {row.image_id for row in rejects}):
        yield f"{FILES[RejectRow]}: image {name} is also in {FILES[ManifestRow]}"
    folders = {row.folder: row for row in classes}
    if (data / "class_map.txt").exists():
        listed = (data / "class_map.txt").read_text(encoding="utf-8", errors="replace").split()
        if listed != list(folders):
            yield "class_map.txt: does not list the classes of classes.csv in order"
    for row in manifest:
        if row.split not in SPLITS or row.folder not in folders:
            yield f"{FILES[ManifestRow]}: image {row.image_id} has split {row.split!r} and class {row.folder!r}"
        elif row.landmark_id not in folders[row.folder].landmark_id.split(" "):
            yield f"{FILES[ManifestRow]}: image {row.image_id}: landmark {row.landmark_id} is not of class {row.folder}"
    counts = Counter((row.folder, row.split) for row in manifest)
    for row in classes:
        for split in SPLITS:
            if getattr(row, split) != counts[row.folder, split]:
                yield (
                    f"{FILES[ClassRow]}: class {row.folder} has {getattr(row, split)} images in {split}, "
                    f"{FILES[ManifestRow]} has {counts[row.folder, split]}"
                )


def _check_images(
    data: Path, sums: Mapping[str, str], classes: list[ClassRow], manifest: list[ManifestRow]
) -> Iterable[str]:
    """Checks that exactly the images of the manifest are stored, each under its class."""
    if INFO in sums or in_shards(data):
        yield from _check_shards(data, {row.folder: index for index, row in enumerate(classes)}, manifest)
        return
    wanted = {stored_name(row) for row in manifest}
    recorded = {name for name in sums if name.endswith(".jpg")}
    for name in sorted(wanted - recorded) if sums else ():
        yield f"{name}: in {FILES[ManifestRow]} but not in {SUMS}"
    for name in sorted(recorded - wanted):
        yield f"{name}: in {SUMS} but not in {FILES[ManifestRow]}"


def _check_shards(data: Path, class_index: Mapping[str, int], manifest: list[ManifestRow]) -> Iterable[str]:
    import tarfile

    try:
        shards = read_shard_info(data)
    except UserError as error:
        yield str(error)
        return
    listed = [(split, *pair) for split in SPLITS for pair in shards[split].items()]
    wanted = {(row.split, sample_key(row.image_id)): class_index.get(row.folder) for row in manifest}
    for split, name, length in listed:
        try:
            with open(data / name, "rb") as file:
                samples = read_shard(file)
        except (OSError, tarfile.TarError, KeyError, ValueError) as error:
            yield f"{name}: cannot be read as a shard ({error})"
            continue
        if len(samples) != length:
            yield f"{name}: {len(samples)} images, but {INFO} lists {length}"
        for key, (index, _) in samples.items():
            if wanted.pop((split, key), None) != index:
                yield f"{name}: image {key} with class index {index} does not match {FILES[ManifestRow]}"
    for split, key in wanted:
        yield f"image {key} of {split}: in {FILES[ManifestRow]} but in no readable shard"
