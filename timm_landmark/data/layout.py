"""The prepared data set's files: what ``prepare`` and ``synthesize`` write and everything else reads.

DATA/train|validation|test/<class folder>/<image_id>.jpg   or, in shards, DATA/<split>-NNNNNN.tar and DATA/_info.json
DATA/classes.csv     class,landmark_id,name,train,validation,test   (class index = line order)
DATA/class_map.txt   one class folder a line (timm's --class-map)
DATA/manifest.csv    image_id,landmark_id,class,split,sha256,source (sorted by image_id)
DATA/rejects.csv     image_id,landmark_id,reason
DATA/dataset.json    source release, arguments, seed, counts, digest of the manifest, version
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from timm_landmark.data.address import Place
from timm_landmark.errors import UserError
from timm_landmark.files import write_atomic

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ClassRow:
    """One line of classes.csv; ``folder`` is the column ``class``, ``landmark_id`` joins several ids with spaces."""

    folder: str
    landmark_id: str
    name: str
    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class ManifestRow:
    """One line of manifest.csv; ``folder`` is the column ``class``, ``source`` is relative and never absolute."""

    image_id: str
    landmark_id: str
    folder: str
    split: str
    sha256: str
    source: str


@dataclass(frozen=True)
class RejectRow:
    """One line of rejects.csv."""

    image_id: str
    landmark_id: str
    reason: str


Row = TypeVar("Row", ClassRow, ManifestRow, RejectRow)
FILES = {ClassRow: "classes.csv", ManifestRow: "manifest.csv", RejectRow: "rejects.csv"}


def _columns(row_type: type) -> list[str]:
    return ["class" if field.name == "folder" else field.name for field in fields(row_type)]


def folder_name(index: int, classes: int) -> str:
    """Zero-padded class folder (at least four digits), so that every reader sorts the classes the same way."""
    return f"{index:0{max(4, len(str(classes - 1)))}d}"


def render_rows(row_type: type[Row], rows: Iterable[Row]) -> str:
    """The CSV text of one of the data set's tables, with LF line ends."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_columns(row_type))
    writer.writerows(astuple(row) for row in rows)
    return buffer.getvalue()


def write_rows(data: Path, row_type: type[Row], rows: Iterable[Row]) -> None:
    """Writes classes.csv, manifest.csv or rejects.csv (told by ``row_type``) into ``data``, atomically."""
    write_atomic(data / FILES[row_type], render_rows(row_type, rows))


def read_rows(data: Place, row_type: type[Row]) -> list[Row]:
    """Reads classes.csv, manifest.csv or rejects.csv of a prepared data set.

    Raises:
        UserError: If the file is missing or its columns are not the format's.
    """
    path = data / FILES[row_type]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            lines = list(reader)
    except FileNotFoundError:
        raise UserError(
            f"{data} is not a prepared data set ({path.name} is missing); make one with `timm-landmark prepare` or "
            "`timm-landmark synthesize`"
        ) from None
    if header != _columns(row_type):
        raise UserError(f"{path}: columns {','.join(header)}, expected {','.join(_columns(row_type))}")
    try:
        return [_parse(row_type, line) for line in lines]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: a line does not fit the columns {','.join(header)} ({error})") from None


def data_digest(data: Place) -> str:
    """Hex SHA-256 of manifest.csv, which names a prepared data set."""
    return hashlib.sha256((data / FILES[ManifestRow]).read_bytes()).hexdigest()


def _parse(row_type: type[Row], line: Sequence[str]) -> Row:
    if len(line) != len(fields(row_type)):
        raise ValueError(f"{len(line)} fields in {','.join(line)!r}")
    return row_type(
        *[int(text) if field.type is int else text for field, text in zip(fields(row_type), line, strict=True)]
    )


def read_info(data: Place) -> dict[str, Any]:
    """Reads dataset.json.

    Raises:
        UserError: If it is missing or not JSON.
    """
    try:
        return json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{data} is not a prepared data set (dataset.json is missing); make one with `timm-landmark prepare`"
        ) from None
    except ValueError as error:
        raise UserError(f"{data / 'dataset.json'} is not JSON: {error}") from None
