"""Near duplicates: a perceptual hash, and groups of images of one class that must end up in the same split.

The hash is the classic DCT hash: greyscale, 32x32, the 8x8 lowest frequencies of the cosine transform, one bit each for
above their median. It uses integers, so that equal pixels give equal bits on every machine. A photo taken a second
later and a re-encoded, recoloured or greyscale copy differ in a few bits, another view of the landmark in about half.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

THRESHOLD = 10  # bits of 64; on real photos, pairs up to here show one view, pairs from 12 on often two
FLOOR, SHARE = 20, 5  # a group above max(FLOOR, class / SHARE) images is a chain of look-alikes, not a series
_COSINES = np.rint(4096 * np.cos(np.pi / 32 * np.outer(np.arange(8), np.arange(32) + 0.5))).astype(np.int64)
_PIECE = 1 << 20  # pairs in memory at a time


def perceptual_hash(image: Image.Image) -> int:
    """64 bits, of which near duplicates share all but a few.

    Args:
        image: Any mode and size, upright; the squashed 256x256 picture works as well as the original.

    Returns:
        A number from 0 to 2**64 - 1.
    """
    small = image.reduce(8) if image.size == (256, 256) else image.convert("RGB").resize((32, 32), Image.Resampling.BOX)
    grey = np.frombuffer(small.convert("L").tobytes(), dtype=np.uint8).reshape(32, 32).astype(np.int64)
    low = (_COSINES @ grey @ _COSINES.T).ravel()  # (8, 32) @ (32, 32) @ (32, 8) -> (64,)
    return int.from_bytes(np.packbits(2 * low > np.sort(low)[31:33].sum()).tobytes(), "big")


def group_images(hashes: Mapping[str, int], threshold: int = THRESHOLD) -> dict[str, str]:
    """Groups the images of one class: within ``threshold`` bits of each other, directly or through others.

    In a large class, accidental look-alikes would chain half of it into one group. A group of more than
    max(20, a fifth of the class) images is therefore divided again with a threshold two bits smaller, and so on down
    to equal hashes, which always stay together.

    Args:
        hashes: image_id -> perceptual hash of all images of one class, in any order.
        threshold: Largest Hamming distance between neighbours of a group.

    Returns:
        image_id -> the smallest image_id of its group.
    """
    ids = np.array(sorted(hashes), dtype=object)
    bits, equal = np.unique(np.array([hashes[name] for name in ids], dtype=np.uint64), return_inverse=True)
    limit = max(FLOOR, len(ids) // SHARE)
    group = np.zeros(len(bits), dtype=np.int64)
    unsettled = np.arange(len(bits))
    while len(unsettled):
        group[unsettled] = unsettled[_components(bits[unsettled], group[unsettled], threshold)]
        sizes = np.bincount(group[equal], minlength=len(bits))
        unsettled = unsettled[sizes[group[unsettled]] > limit] if threshold > 0 else unsettled[:0]
        threshold = max(threshold - 2, 0)
    smallest: dict[int, str] = {}
    return {name: smallest.setdefault(key, name) for name, key in zip(ids, group[equal].tolist(), strict=True)}


def crossing_groups(groups: Mapping[str, str], splits: Mapping[str, str]) -> tuple[int, int]:
    """Counts the groups that a split divides.

    Args:
        groups: image_id -> group key, for any number of classes.
        splits: image_id -> split, for the same images.

    Returns:
        Number of groups with images in more than one split, and number of images in those groups.
    """
    members: dict[str, list[str]] = {}
    for name, key in groups.items():
        members.setdefault(key, []).append(name)
    divided = [names for names in members.values() if len({splits[name] for name in names}) > 1]
    return len(divided), sum(map(len, divided))


def describe_groups(groups: Mapping[str, str]) -> str:
    """One line: the number of images, of groups and of groups with several images, and the largest group."""
    sizes = Counter(groups.values())
    several = [size for size in sizes.values() if size > 1]
    return (
        f"{sum(sizes.values())} images in {len(sizes)} groups; {len(several)} groups of near duplicates "
        f"hold {sum(several)} images, the largest {max(several, default=0)}"
    )


def _components(bits: np.ndarray, part: np.ndarray, threshold: int) -> np.ndarray:
    """Connected components within equal ``part`` and distance <= ``threshold``: the smallest index of each, (n,)."""
    label = np.arange(len(bits))
    for first, second in _candidates(bits, threshold):
        near = (label[first] != label[second]) & (part[first] == part[second])
        first, second = first[near], second[near]
        near = np.bitwise_count(bits[first] ^ bits[second]) <= threshold
        _join(label, first[near], second[near])
    return label


def _join(label: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    while True:
        one, other = label[first], label[second]
        differ = one != other
        if not differ.any():
            return
        first, second, one, other = first[differ], second[differ], one[differ], other[differ]
        np.minimum.at(label, np.maximum(one, other), np.minimum(one, other))
        while (label[label] != label).any():
            label[:] = label[label]


def _candidates(bits: np.ndarray, threshold: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields index pairs in pieces, among them every pair within ``threshold`` bits, at near linear cost.

    The 64 bits are cut into enough bands that two hashes within the threshold differ by at most one bit in one of them
    (pigeonhole). Sorting a band finds the partners of each value and of its one-bit neighbours.
    """
    bands = threshold // 2 + 1
    edges = [64 * band // bands for band in range(bands + 1)]
    for start, stop in itertools.pairwise(edges):
        width = stop - start
        value = bits >> np.uint64(start) & np.uint64((1 << width) - 1)
        order = np.argsort(value, kind="stable")
        ordered = value[order]
        for flip in [0] + [1 << bit for bit in range(width) if threshold]:
            wanted = value ^ np.uint64(flip)
            left = np.searchsorted(ordered, wanted, "left")
            count = np.searchsorted(ordered, wanted, "right") - left
            yield from _expand(order, left, count)


def _expand(order: np.ndarray, left: np.ndarray, count: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields all pairs (i, order[left[i] + k]), k < count[i], with i < partner; about ``_PIECE`` pairs at a time."""
    piece = np.cumsum(count) // _PIECE
    for rows in np.split(np.arange(len(count)), np.flatnonzero(np.diff(piece)) + 1):
        first = np.repeat(rows, count[rows])
        offset = np.arange(len(first)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
        second = order[left[first] + offset]
        yield first[first < second], second[first < second]
