"""The options of ``prepare``, and the command line that reproduces a data set."""

import argparse
import shlex
from pathlib import Path
from typing import Any, TypeVar

from timm_landmark.data.images import MAX_PIXELS
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import escaped

_N = TypeVar("_N", int, float)
DESCRIPTION = (
    "Turns a Google Landmarks release, or your own photos, into a data set that `timm-landmark train` reads. An "
    "interrupted run continues when you repeat the command."
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = Parser(prog="timm-landmark prepare", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "--metadata",
        type=Path,
        help="csv of a release, or your own with the columns path,label; without it, each subfolder is a class",
    )
    add("--images", type=Path, nargs="+", default=[], help="folders (flat or a/b/c/), .tar and .zip files with photos")
    add("--output", type=Path, required=True, help="folder for the data set: new, empty, or from an interrupted run")
    add("--classes", type=_positive, help="number of landmarks to keep, the most frequent ones (default: all)")
    add(
        "--min-per-class",
        type=_positive,
        help="minimum of usable photos per class (default: the number of splits)",
    )
    draw = parser.add_mutually_exclusive_group()
    draw.add_argument("--ratio", type=_share, help="share of each class's photos to draw, e.g. 0.1")
    draw.add_argument("--cap", type=_positive, help="maximum number of photos per class")
    add("--exclude", nargs="+", default=[], metavar="ID", help="landmark ids to leave out")
    add("--join-names", action="store_true", help="merge landmarks that have the same name into one class")
    add(
        "--split",
        type=_weight,
        nargs=3,
        default=[6, 1, 1],
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="relative sizes of the splits (default: 6 1 1)",
    )
    add(
        "--split-by",
        choices=("group", "image"),
        default="group",
        help="group (default): near duplicates stay in one split; image: split at random",
    )
    add("--size", type=_size, default=256, help="size of the stored pictures in pixels (default: 256)")
    add(
        "--resize",
        choices=("squash", "short"),
        default="squash",
        help="squash (default): to a square; short: resize the short side and keep the aspect ratio",
    )
    add(
        "--max-pixels",
        type=_positive,
        default=MAX_PIXELS,
        help=f"reject larger photos, in width x height (default: {MAX_PIXELS})",
    )
    add(
        "--format",
        choices=("folder", "webdataset"),
        default="folder",
        help="folder (default): a folder per split and class; webdataset: tar shards",
    )
    add("--attribution", type=Path, help="train_attribution.csv (default: the one next to the metadata, if any)")
    add("--strict", action="store_true", help="fail if any photo is rejected")
    add("--dry-run", action="store_true", help="print counts, a histogram and an estimate; write nothing to OUTPUT")
    add("--download", action="store_true", help="download GLDv2's csv files and images, one shard at a time")
    add("--base-url", help="address to download GLDv2 from (default: the official one)")
    add("--keep-shards", action="store_true", help="keep the downloaded files, in OUTPUT.download")
    add("--seed", type=int, default=0, help="seed of the draw and the split (default: 0)")
    add("--workers", type=_positive, help="worker processes (default: one per core)")
    return parser


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that determine the data set, as dataset.json and the work folder record them."""
    names = "classes min_per_class ratio cap join_names split_by size resize max_pixels format seed"
    return {name: getattr(args, name) for name in names.split()} | {
        "exclude": sorted(args.exclude),
        "split": list(args.split),
    }


def command_line(args: argparse.Namespace) -> str:
    """The command that reproduces the data set, with file names instead of local paths."""
    words = ["timm-landmark", "prepare"]
    if args.metadata is not None:
        words += ["--metadata", args.metadata.name]
    words += ["--images", *(path.name or "IMAGES" for path in args.images)] if args.images else ["--download"]
    words += ["--output", "DATA"]
    parser = build_parser()
    for name, value in options_of(args).items():
        if value != parser.get_default(name) and value not in (None, [], False):
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else [str(item) for item in (value if isinstance(value, list) else [value])]
    return escaped(shlex.join(words))


def _number(text: str, convert: type[_N], low: float, high: float, what: str) -> _N:
    try:
        value = convert(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} must be {what}")
    return value


def _positive(text: str) -> int:
    return _number(text, int, 1, float("inf"), "a whole number, at least 1")


def _weight(text: str) -> int:
    return _number(text, int, 0, float("inf"), "a whole number, at least 0")


def _size(text: str) -> int:
    return _number(text, int, 8, 4096, "8 to 4096 pixels")


def _share(text: str) -> float:
    return _number(text, float, 1e-9, 1, "above 0 and at most 1")
