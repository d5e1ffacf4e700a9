"""The options of ``prepare``, and the command line that makes a data set again."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from timm_landmark.data.images import MAX_PIXELS
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import escaped

DESCRIPTION = (
    "``timm-landmark prepare``: Google Landmarks, or a person's own photos, made a training set by one command."
)


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(prog="timm-landmark prepare", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "--metadata",
        type=Path,
        help="csv of a release, or path,label; without it, folders are classes",
    )
    add("--images", type=Path, nargs="+", default=[], help="folder (flat or a/b/c/), .tar, .zip, or several of them")
    add("--output", type=Path, required=True, help="the data set; a new or empty folder, or one to go on with")
    add("--classes", type=_positive, help="this many most frequent landmarks (default: all)")
    add("--min-per-class", type=_positive, help="least usable photos of a class (default: the number of splits)")
    draw = parser.add_mutually_exclusive_group()
    draw.add_argument("--ratio", type=_share, help="share of each class's photos to draw, such as 0.1")
    draw.add_argument("--cap", type=_positive, help="most photos of a class")
    add("--exclude", nargs="+", default=[], metavar="ID", help="landmark ids to leave out")
    add("--join-names", action="store_true", help="landmarks of one name become one class")
    add("--split", type=_weight, nargs=3, default=[6, 1, 1], metavar=("TRAIN", "VALIDATION", "TEST"))
    add("--split-by", choices=("group", "image"), default="group", help="group: near duplicates stay on one side")
    add("--size", type=_size, default=256, help="pixels (default 256)")
    add("--resize", choices=("squash", "short"), default="squash", help="short: keep the ratio, scale the short side")
    add("--max-pixels", type=_positive, default=MAX_PIXELS, help=f"limit of width x height (default {MAX_PIXELS})")
    add("--format", choices=("folder", "webdataset"), default="folder")
    add("--attribution", type=Path, help="train_attribution.csv (default: the one beside the metadata, if there)")
    add("--strict", action="store_true", help="any rejected photo is an error")
    add("--dry-run", action="store_true", help="print counts, a histogram and an estimate; leave OUTPUT alone")
    add("--download", action="store_true", help="fetch GLDv2's csv files and images, a shard at a time")
    add("--base-url", help="address of GLDv2 to download from (default: the official one)")
    add("--keep-shards", action="store_true", help="keep what --download fetched, in OUTPUT.download")
    add("--seed", type=int, default=0)
    add("--workers", type=_positive, help="processes (default: one a core)")
    return parser


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what the data set holds, as dataset.json and the work folder record them."""
    names = "classes min_per_class ratio cap join_names split_by size resize max_pixels format seed"
    return {name: getattr(args, name) for name in names.split()} | {
        "exclude": sorted(args.exclude),
        "split": list(args.split),
    }


def command_line(args: argparse.Namespace) -> str:
    """The command that makes the set again, with file names in place of this machine's paths."""
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


def _number(text: str, kind: type, low: float, high: float, what: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} must be {what}")
    return value


def _positive(text: str) -> int:
    return _number(text, int, 1, float("inf"), "a whole number from 1")


def _weight(text: str) -> int:
    return _number(text, int, 0, float("inf"), "a whole number from 0")


def _size(text: str) -> int:
    return _number(text, int, 8, 4096, "pixels from 8 to 4096")


def _share(text: str) -> float:
    return _number(text, float, 1e-9, 1, "above 0 and at most 1")
