"""What accompanies a data set: attribution.csv, and README.md, its data card."""

import csv
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from timm_landmark.data.layout import SPLITS, ClassRow, ManifestRow, RejectRow, csv_line, read_dataset_info, read_rows
from timm_landmark.data.shards import in_shards
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_atomic
from timm_landmark.utils.text import markdown

if TYPE_CHECKING:
    import pyarrow as pa

ATTRIBUTION = "attribution.csv"
CARD = "README.md"
_COLUMNS = ("id", "url", "author", "license", "title")
_GLDV2 = (
    "Weyand, Araujo, Cao, Sim: Google Landmarks Dataset v2. A Large-Scale Benchmark for Instance-Level Recognition and "
    "Retrieval. CVPR 2020."
)
_GLDV1 = "Noh, Araujo, Sim, Weyand, Han: Large-Scale Image Retrieval with Attentive Deep Local Features. ICCV 2017."
_CLEAN = "Ozaki, Yokoo: Large-scale Landmark Retrieval/Recognition under a Noisy and Diverse Dataset. 2019."
_GLDV2_LICENCE = (
    "Annotations: CC BY 4.0, Google. Photos of the Google Landmarks v2 train set: CC BY without NonDerivs, some "
    "ShareAlike; their publishers ask users to verify each licence. Redistribute photos only with attribution."
)
_COMMONS = re.compile(r"https?://creativecommons\.org/[a-z0-9./-]*")  # these may stay links; Google's file has them
_UNKNOWN_LICENCE = "The licences of the photos are unknown. Do not redistribute a photo before you know its licence."


def write_attribution(data: Path, source: Path, ids: Collection[str]) -> int:
    """Writes attribution.csv: the rows of GLDv2's train_attribution.csv (4.1 million) for the images used.

    Args:
        data: The data set.
        source: train_attribution.csv, plain or ``.gz``; read in pieces, so that memory use does not grow with it.
        ids: Ids of the images used.

    Returns:
        Number of images without a row there.

    Raises:
        UserError: If the file cannot be read or a column is missing.
    """
    import pyarrow as pa
    from pyarrow import compute

    wanted = pa.array(sorted(ids), pa.binary())
    found: dict[bytes, list[bytes]] = {}
    with _attribution(source) as reader:
        for batch in reader:
            used = compute.is_in(batch["id"], value_set=wanted)  # pyright: ignore[reportAttributeAccessIssue]  # dynamic
            rows = batch.filter(used).select(_COLUMNS)
            for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                found.setdefault(row[0], list(row))
    rows = ([(field or b"").decode("utf-8", "replace") for field in found[key]] for key in sorted(found))
    write_atomic(data / ATTRIBUTION, "".join(map(csv_line, [_COLUMNS, *rows])))
    return len(ids) - len(found)


def check_attribution(source: Path) -> None:
    """Checks that a file can be read as train_attribution.csv, by its first rows.

    Raises:
        UserError: If the file cannot be read or a column is missing.
    """
    with _attribution(source):
        pass


@contextmanager
def _attribution(source: Path) -> "Iterator[Iterable[pa.RecordBatch]]":
    import pyarrow as pa
    from pyarrow import csv as arrow

    packed = "gzip" if source.suffix == ".gz" else None
    try:
        with open(source, "rb") as file, pa.input_stream(file, compression=packed) as stream, arrow.open_csv(
            stream,
            read_options=arrow.ReadOptions(block_size=1 << 24),
            parse_options=arrow.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda row: "skip"),
            convert_options=arrow.ConvertOptions(column_types={name: pa.binary() for name in _COLUMNS}),
        ) as reader:  # fmt: skip
            if missing := [name for name in _COLUMNS if name not in reader.schema.names]:
                raise UserError(
                    f"{source.name}: no column {', '.join(missing)}; its header is {','.join(reader.schema.names)}, "
                    f"GLDv2's train_attribution.csv has {','.join(_COLUMNS)}; give it with --attribution"
                )
            yield reader
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise UserError(
            f"cannot read {source}: {error}; give another train_attribution.csv with --attribution"
        ) from None


def write_card(data: Path, command: str, facts: Mapping[str, object]) -> None:
    """Writes README.md, the data card, from the data set's tables and, if it exists, attribution.csv.

    Args:
        data: The data set, with all of its tables.
        command: The command that reproduces it, without local paths.
        facts: Other facts for the reader (rules, seeds, group counts), as name -> value.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    info = read_dataset_info(data)
    classes, rejects = read_rows(data, ClassRow), read_rows(data, RejectRow)
    images = len(read_rows(data, ManifestRow))
    licences = _licences(data)
    release = str(info["release"])
    environment = Environment(loader=PackageLoader("timm_landmark.data", "."), undefined=StrictUndefined)
    text = environment.get_template("card.md.jinja").render(
        info=info,
        release=release,
        classes=classes,
        images=images,
        splits=[_split_row(split, [getattr(row, split) for row in classes]) for split in SPLITS],
        size_category=_size_category(images),
        command=command,
        facts=facts.items(),
        rejects=len(rejects),
        reasons=Counter(row.reason.partition(":")[0] for row in rejects).most_common(),
        licences=licences,
        shards=in_shards(data),
        **rights(release),
    )
    write_atomic(data / CARD, text)


def rights(release: str) -> dict[str, object]:
    """What the card states about a release's licences, and the papers to cite."""
    first, second, clean = ("GLDv1" in release, "GLDv2" in release, "clean" in release)
    citations = [_GLDV2] * second + [_GLDV1] * first + [_CLEAN] * clean
    known = second and not first
    return {"gldv2": known, "licence_text": _GLDV2_LICENCE if known else _UNKNOWN_LICENCE, "citations": citations}


def _licences(data: Path) -> list[tuple[str, int]]:
    if not (data / ATTRIBUTION).exists():
        return []
    with open(data / ATTRIBUTION, newline="", encoding="utf-8") as file:
        counts = Counter(row["license"] or "not stated" for row in csv.DictReader(file))
    return [(text if _COMMONS.fullmatch(text) else markdown(text), images) for text, images in counts.most_common()]


def _split_row(name: str, counts: list[int]) -> dict[str, object]:
    return {
        "name": name,
        "images": sum(counts),
        "smallest": min(counts, default=0),
        "median": f"{median(counts or [0]):g}",
        "largest": max(counts, default=0),
    }


def _size_category(images: int) -> str:
    """The Hub's size tag."""
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
    return names[sum(images >= limit for limit in (1_000, 10_000, 100_000, 1_000_000))]
