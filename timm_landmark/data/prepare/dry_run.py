"""``prepare --dry-run``: counts, a histogram, and disk and time estimates from decoding a few photos."""

import argparse
import time
from collections.abc import Iterable

from timm_landmark.data.images import RejectedImage, decode_rgb, encode_jpeg, resize
from timm_landmark.data.prepare.metadata import Metadata
from timm_landmark.data.prepare.selection import SelectedClass, Selection
from timm_landmark.data.prepare.sources import Location, Reader, find_sources, locate
from timm_landmark.utils.text import printable

_TRIED = 24


def describe(args: argparse.Namespace, metadata: Metadata, selection: Selection) -> list[str]:
    """Describes what a run would do; it writes only the index of an archive, to the cache.

    Args:
        args: The command's arguments.
        metadata: The metadata.
        selection: The selected classes and images.

    Returns:
        The lines to print.
    """
    sizes = [len(selected.ids) for selected in selection.classes]
    lines = [
        f"{metadata.release}: {len(metadata.ids)} photos of {len(metadata.landmarks)} landmarks"
        f" ({metadata.unlabelled} rows without a label, {metadata.repeated} repeated, "
        f"{len(metadata.contradictory)} ids under two labels)",
        f"selected: {len(sizes)} classes, {sum(sizes)} photos; a class has {min(sizes)} to {max(sizes)}",
        *histogram(sizes),
        "largest: " + "; ".join(map(_titled, selection.classes[:5])),
    ]
    if args.download and not args.images:
        lines.append("estimate: not available with --download, which fetches 500 shards of 1 GB, one at a time")
        return lines
    remaining, found = set(selection.landmark), dict[str, Location]()
    for source in find_sources(args.images):
        found |= locate(source, remaining, metadata.paths)
        remaining -= found.keys()
    lines.append(f"found: {len(found)} photos, {len(remaining)} missing")
    lines += _estimate(args, found)
    return lines


def _titled(selected: SelectedClass) -> str:
    return f"{printable(selected.name or selected.landmarks[0], 80)} ({len(selected.ids)})"


def histogram(sizes: list[int], width: int = 40) -> list[str]:
    """Lines of a histogram: classes by number of photos, in steps that double."""
    steps: dict[int, int] = {}
    for size in sizes:
        step = max(size.bit_length() - 1, 0)
        steps[step] = steps.get(step, 0) + 1
    most = max(steps.values())
    return [
        f"  {2**step:>6}-{2 ** (step + 1) - 1:<6} {'#' * max(1, round(width * count / most))} {count} classes"
        for step, count in sorted(steps.items())
    ]


def _estimate(args: argparse.Namespace, found: dict[str, Location]) -> Iterable[str]:
    reader, sizes = Reader(), []
    begun = time.perf_counter()
    for key in sorted(found)[:: max(1, len(found) // _TRIED)][:_TRIED]:
        try:
            image = decode_rgb(reader.read(found[key]), args.max_pixels)
        except (RejectedImage, OSError):
            continue
        sizes.append(len(encode_jpeg(resize(image, args.size, args.resize))))
    if not sizes:
        yield "estimate: not available, none of the photos tried could be decoded"
        return
    each = (time.perf_counter() - begun) / len(sizes)
    yield (
        f"estimate from {len(sizes)} photos: {sum(sizes) / len(sizes) * len(found) / 1e9:.2f} GB on disk, "
        f"{each * len(found) / 60:.1f} minutes with one worker"
    )
