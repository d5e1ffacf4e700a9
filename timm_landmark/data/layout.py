"""The files of a prepared data set, which ``prepare`` and ``synthesize`` write and everything else reads.

DATA/train|validation|test/<class folder>/<image_id>.jpg   or, in shards, DATA/<split>-NNNNNN.tar and DATA/_info.json
DATA/classes.csv     class,landmark_id,name,train,validation,test   (class index = line order)
DATA/class_map.txt   one class folder per line (timm's --class-map)
DATA/manifest.csv    image_id,landmark_id,class,split,sha256,source (sorted by image_id)
DATA/rejects.csv     image_id,landmark_id,reason
DATA/dataset.json    source release, arguments, seed, counts, digest (see ``data_digest``), version
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from timm_landmark.data.address import Place
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_atomic

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
_QUOTED = re.compile(r'[,"\r\n]')
FILES: dict[type, str] = {ClassRow: "classes.csv", ManifestRow: "manifest.csv", RejectRow: "rejects.csv"}


def _columns(row_type: type) -> list[str]:
    return ["class" if field.name == "folder" else field.name for field in fields(row_type)]


def folder_name(index: int, classes: int) -> str:
    """Zero-padded class folder (at least four digits), so that all readers sort the classes the same way."""
    return f"{index:0{max(4, len(str(classes - 1)))}d}"


def render_rows(row_type: type[Row], rows: Iterable[Row]) -> str:
    """The CSV text of a table of the data set, with LF line endings."""
    return "".join(map(csv_line, [_columns(row_type), *map(astuple, rows)]))


def csv_line(fields: Iterable[object]) -> str:
    """Renders one line of CSV with LF; unlike ``csv.writer``, it quotes a lone CR, which readers would not accept."""
    texts = ["" if field is None else str(field) for field in fields]
    doubled = ((text, text.replace('"', '""')) for text in texts)
    return ",".join(f'"{quoted}"' if _QUOTED.search(text) else text for text, quoted in doubled) + "\n"


def write_rows(data: Path, row_type: type[Row], rows: Iterable[Row]) -> None:
    """Writes classes.csv, manifest.csv or rejects.csv, as given by ``row_type``, into ``data``, atomically."""
    write_atomic(data / FILES[row_type], render_rows(row_type, rows))


def read_rows(data: Place, row_type: type[Row]) -> list[Row]:
    """Reads classes.csv, manifest.csv or rejects.csv of a prepared data set.

    Raises:
        UserError: If the file is missing or cannot be read, or it has other columns.
    """
    try:
        return [_parse(row_type, line) for line in _lines(data, row_type)]
    except (TypeError, ValueError) as error:
        columns = ",".join(_columns(row_type))
        raise UserError(f"{data / FILES[row_type]}: a line does not fit the columns {columns} ({error})") from None


def data_digest(data: Place) -> str:
    """Hex SHA-256 that identifies a prepared data set by its images' ids, labels, classes, splits and source bytes.

    It is the hash of manifest.csv without its last column, ``source``: the same photos give the same digest wherever
    they were read from. (``cut -d, -f1-5 manifest.csv | sha256sum``, where no id is quoted.)

    Raises:
        UserError: As for ``read_rows``.
    """
    digest = hashlib.sha256(csv_line(_columns(ManifestRow)[:-1]).encode())
    for line in _lines(data, ManifestRow):  # one at a time: there may be millions
        digest.update(csv_line(line[:-1]).encode())
    return digest.hexdigest()


def _lines(data: Place, row_type: type) -> Iterator[list[str]]:
    """The fields of each line of a table, without its header."""
    path = data / FILES[row_type]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if header != _columns(row_type):
                raise UserError(f"{path}: columns {','.join(header)}, expected {','.join(_columns(row_type))}")
            yield from reader
    except FileNotFoundError:
        raise UserError(
            f"{data} is not a prepared data set ({path.name} is missing); make one with `timm-landmark prepare` or "
            "`timm-landmark synthesize`"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}); restore it or prepare the data set again") from None


def _parse(row_type: type[Row], line: Sequence[str]) -> Row:
    if len(line) != len(fields(row_type)):
        raise ValueError(f"{len(line)} fields in {','.join(line)!r}")
    values: list[Any] = [
        int(text) if field.type is int else text for field, text in zip(fields(row_type), line, strict=True)
    ]
    return row_type(*values)


def read_dataset_info(data: Place) -> dict[str, Any]:
    """Reads dataset.json.

    Raises:
        UserError: If it is missing or not a JSON object.
    """
    try:
        info = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{data} is not a prepared data set (dataset.json is missing); make one with `timm-landmark prepare`"
        ) from None
    except ValueError as error:
        raise UserError(f"{data / 'dataset.json'} is not JSON: {error}") from None
    if not isinstance(info, dict):
        raise UserError(f"{data / 'dataset.json'} is not a JSON object; restore it or prepare the data set again")
    return info
