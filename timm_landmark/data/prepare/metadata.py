"""Reads which photo shows which landmark: the csv of any Google Landmarks release, or your own.

The columns determine the layout: ``id,url,landmark_id`` (GLDv1 and GLDv2), ``id,landmark_id`` (Kaggle 2020 and 2021),
``landmark_id,images`` (GLDv2 clean), ``path,label`` (your own). Ids are text, even if all digits. One copy of GLDv1 has
the literal ``None`` in its fields; it counts as no label.
"""

import csv
import gzip
import posixpath
import re
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote, unquote

import numpy as np

from timm_landmark.data.images import SUFFIXES
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.text import escaped

if TYPE_CHECKING:
    import pyarrow as pa

LAYOUTS: dict[tuple[str, ...], str] = {
    ("id", "url", "landmark_id"): "GLDv1 or GLDv2",
    ("id", "landmark_id"): "Kaggle 2020/2021 (GLDv2 clean)",
    ("landmark_id", "images"): "GLDv2 clean",
    ("path", "label"): "own photos",
}
NAMES, ATTRIBUTION = "train_label_to_category.csv", "train_attribution.csv"  # next to the metadata
_UNSAFE = re.compile("[% \x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # not allowed in landmark ids


@dataclass
class Metadata:
    """Images and their landmarks, as columns: row k is image ``ids[k]`` of landmark ``landmarks[codes[k]]``.

    Attributes:
        release: Name of the release.
        ids: Image ids without duplicates, (rows,).
        codes: Index into ``landmarks`` of each image, shape (rows,), int32.
        landmarks: Landmark ids.
        names: Landmark id -> readable name, where known.
        paths: Own photos only: image id -> path relative to the image folder.
        contradictory: Image id -> landmark ids, for ids listed under several labels (not in ``ids``).
        unlabelled: Rows without an id or a label.
        repeated: Rows that repeat another row.
        attribution: Path of train_attribution.csv, if it exists next to the metadata.
    """

    release: str
    ids: "pa.StringArray"
    codes: np.ndarray
    landmarks: list[str]
    names: dict[str, str] = field(default_factory=dict)
    paths: dict[str, str] | None = None
    contradictory: dict[str, list[str]] = field(default_factory=dict)
    unlabelled: int = 0
    repeated: int = 0
    attribution: Path | None = None


def read_metadata(path: Path) -> Metadata:
    """Reads a metadata csv, plain or ``.gz``, with or without quotes, byte-order mark or CRLF.

    Args:
        path: The file; the names come from ``train_label_to_category.csv`` next to it.

    Returns:
        Its images and landmarks.

    Raises:
        UserError: If the file is missing or not a readable csv, or its columns match no known layout.
    """
    header, example = _first_lines(path)
    columns = tuple(name.strip().lower() for name in header)
    if columns not in LAYOUTS:
        known = "; ".join(f"{','.join(layout)} ({name})" for layout, name in LAYOUTS.items())
        raise UserError(f"--metadata {path}: unknown columns {','.join(header)!r}; known layouts are {known}")
    named: dict[tuple[str, ...], tuple[str, str]] = {
        ("landmark_id", "images"): ("images", "landmark_id"),
        ("path", "label"): ("path", "label"),
    }
    nulls = [""] if columns == ("path", "label") else ["", "None"]
    wanted = [header[columns.index(name)] for name in named.get(columns, ("id", "landmark_id"))]
    ids, labels = _read_columns(path, header, wanted, nulls)
    if columns == ("landmark_id", "images"):
        ids, labels = _spread_images(ids, labels)
    names_file = path.parent / NAMES
    names = _read_names(names_file) if names_file.exists() and columns != ("path", "label") else {}
    release = LAYOUTS[columns]
    if columns == ("id", "url", "landmark_id"):
        release = _v1_or_v2(example, bool(names))
    if columns == ("path", "label"):
        metadata = _own(_relative(path, ids.to_pylist()), labels.to_pylist(), release)
    else:
        metadata = _settle(ids, labels, release, names)
    beside = path.with_name(ATTRIBUTION)
    metadata.attribution = beside if beside.exists() else None
    return metadata


def read_folders(root: Path) -> Metadata:
    """Reads your own photos: each subfolder of ``root`` is a class, and its name is the label.

    Raises:
        UserError: If there is no subfolder with photos.
    """
    paths, labels = [], []
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        for photo in sorted(folder.rglob("*")):
            if photo.suffix.lower() in SUFFIXES and photo.is_file():
                paths.append(photo.relative_to(root).as_posix())
                labels.append(folder.name)
    if not paths:
        raise UserError(
            f"--images {root}: no subfolder with photos ({', '.join(SUFFIXES)}); without --metadata each "
            "subfolder is a class; for Google Landmarks give its csv with --metadata"
        )
    return _own(paths, labels, "own photos")


def _own(paths: list[str], labels: list[str] | list[str | None], release: str) -> Metadata:
    """Derives ids from paths and landmark ids from labels, so that both are safe as file names.

    File and folder names may contain bytes that are not UTF-8, which are escaped in landmark ids and names.
    """
    import hashlib

    import pyarrow as pa

    errors = sys.getfilesystemencodeerrors()
    ids = [hashlib.sha256(path.encode("utf-8", errors)).hexdigest()[:16] if path else None for path in paths]
    safe = [label and _UNSAFE.sub(lambda found: quote(found[0], safe="", errors=errors), label) for label in labels]
    columns = pa.array(ids, pa.string()), pa.array(safe, pa.string())
    names = {key: escaped(_one_line(name)) for key, name in zip(safe, labels, strict=True) if key and name}
    metadata = _settle(*columns, release, names)
    metadata.paths = {key: path for key, path in zip(ids, paths, strict=True) if key}
    return metadata


def _one_line(name: str) -> str:
    """A name without control characters and line breaks, which a category may contain as ``%0D``."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", name).strip()


def _relative(metadata: Path, paths: list[str | None]) -> list[str]:
    """The normalized paths of your own csv; they must be below --images, so that the manifest has no local path."""
    below = [posixpath.normpath(PurePath(path).as_posix()) if path else "" for path in paths]
    for path, name in zip(paths, below, strict=True):
        if PurePath(name).anchor or name == ".." or name.startswith("../"):
            raise UserError(
                f"--metadata {metadata}: the path {path!r} is not below --images; make it relative to --images"
            )
    return below


def _first_lines(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with _open_text(path) as file:
            reader = csv.reader(file)
            header = next(reader, [])
            return header, [row for row, _ in zip(reader, range(1000), strict=False)]
    except FileNotFoundError:
        raise UserError(f"--metadata {path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise UserError(f"--metadata {path}: not a readable csv ({error})") from None


def _open_text(path: Path) -> TextIO:
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _read_columns(
    path: Path, header: list[str], wanted: list[str], nulls: list[str]
) -> "tuple[pa.ChunkedArray, pa.ChunkedArray]":
    """Two text columns of a csv of any size; the other columns are never in memory."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    text, packed = pa.string(), "gzip" if path.suffix == ".gz" else None
    try:  # pyarrow cannot open a file whose name is not UTF-8
        with open(path, "rb") as file, pa.input_stream(file, compression=packed) as stream, arrow.open_csv(
            stream,
            read_options=arrow.ReadOptions(block_size=1 << 23, column_names=header, skip_rows=1),
            convert_options=arrow.ConvertOptions(
                include_columns=wanted,
                column_types=dict(zip(wanted, (text, pa.dictionary(pa.int32(), text)), strict=True)),
                strings_can_be_null=True,
                null_values=nulls,
            ),
        ) as reader:  # fmt: skip
            batches = list(reader)
    except (OSError, pa.ArrowInvalid, EOFError, zlib.error) as error:
        raise UserError(f"--metadata {path}: not a readable csv ({error})") from None
    if not batches:
        raise UserError(f"--metadata {path}: contains a header but no rows")
    table = pa.Table.from_batches(batches)
    return table[wanted[0]], table[wanted[1]].unify_dictionaries()


def _spread_images(images: "pa.ChunkedArray", labels: "pa.ChunkedArray") -> "tuple[pa.ChunkedArray, pa.ChunkedArray]":
    """Expands GLDv2 clean, which has one row per landmark, its image ids separated by spaces."""
    import pyarrow as pa
    from pyarrow import compute as functions

    compute: Any = functions  # its functions are created at import, so type checkers do not know them
    lists = compute.split_pattern(compute.fill_null(images, ""), " ").combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    parents = compute.list_parent_indices(lists)
    return pa.chunked_array([compute.list_flatten(lists)]), pa.chunked_array([labels.combine_chunks().take(parents)])


def _settle(
    ids: "pa.Array | pa.ChunkedArray", labels: "pa.Array | pa.ChunkedArray", release: str, names: dict[str, str]
) -> Metadata:
    """Drops rows without a label, repeated rows, and every id listed under two labels."""
    import pyarrow as pa
    from pyarrow import compute as functions

    compute: Any = functions
    table = pa.table({"id": ids, "label": labels})
    valid = compute.and_(compute.is_valid(table["id"]), compute.is_valid(table["label"]))
    valid = compute.and_(valid, compute.not_equal(compute.fill_null(table["id"], ""), ""))
    rows = len(table)
    table = table.filter(valid).combine_chunks()
    unlabelled = rows - len(table)
    labels = _encoded(table["label"])
    codes = labels.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    landmarks = labels.dictionary.to_pylist()
    ids = table["id"]
    del table, valid  # for a full release the next line needs the memory
    encoded = _encoded(ids)
    numbers, ids = encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary
    repeated = 0
    contradictory: dict[str, set[str]] = {}
    if len(ids) < len(numbers):
        first = np.full(len(ids), -1, dtype=np.int64)
        first[numbers[::-1]] = np.arange(len(numbers))[::-1]
        for row in np.flatnonzero(codes[first[numbers]] != codes):
            name = ids[int(numbers[row])].as_py()
            contradictory.setdefault(name, {landmarks[codes[first[numbers[row]]]]}).add(landmarks[codes[row]])
        repeated = len(numbers) - len(ids)
        keep = np.ones(len(ids), dtype=bool)
        if contradictory:
            keep = ~compute.is_in(ids, value_set=pa.array(sorted(contradictory))).to_numpy(zero_copy_only=False)
        ids, codes = ids.filter(pa.array(keep)), codes[first[keep]]
    under = {name: sorted(found) for name, found in contradictory.items()}
    return Metadata(release, ids, codes, landmarks, names, None, under, unlabelled, repeated)


def _encoded(column: "pa.ChunkedArray") -> "pa.DictionaryArray":
    """A text column as one dictionary array, which has indices into its distinct values."""
    import pyarrow as pa

    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _v1_or_v2(example: list[list[str]], named: bool) -> str:
    """Tells the two apart, as they share columns: names or Wikimedia URLs mean v2, Google's hosts or ``None`` v1."""
    text = " ".join(" ".join(row) for row in example)
    if named or "wikimedia.org" in text:
        return "GLDv2"
    if "googleusercontent" in text or "ggpht" in text or "panoramio" in text or "None" in text.split():
        return "GLDv1"
    return LAYOUTS[("id", "url", "landmark_id")]


def _name_of(category: str) -> str:
    return _one_line(unquote(category).rpartition("Category:")[2].replace("_", " "))


def _read_names(path: Path) -> dict[str, str]:
    """Landmark id -> readable name, from the category column: a Commons URL or its last part."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := {"landmark_id", "category"} - set(reader.fieldnames or ()):
                raise UserError(
                    f"{path}: missing column {', '.join(sorted(missing))}; its columns are {reader.fieldnames}"
                )
            return {row["landmark_id"]: _name_of(row["category"] or "") for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable csv ({error})") from None
