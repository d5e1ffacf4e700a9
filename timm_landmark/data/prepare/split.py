"""Splits images into train, validation and test, as a function only of the seed and one class's ids and groups."""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping

from timm_landmark.data.layout import SPLITS


def draw(seed: int, purpose: str, key: str) -> str:
    """Hex SHA-256 of seed, purpose and key: sorting by it gives a random order that is the same on every machine."""
    return hashlib.sha256(f"{seed}:{purpose}:{key}".encode()).hexdigest()


def sample(ids: Collection[str], seed: int, ratio: float | None, cap: int | None) -> list[str]:
    """Draws images of one class without replacement.

    Args:
        ids: The class's images.
        seed: The data set's seed.
        ratio: Share to keep, rounded up; None for all.
        cap: Maximum number of images to keep; None for no limit.

    Returns:
        The ids kept, sorted. A larger ratio or cap keeps every id that a smaller one keeps.
    """
    count = drawn_count(len(ids), ratio, cap)
    if count == len(ids):  # nothing to draw: hashing every id of a large release is slow
        return sorted(ids)
    return sorted(sorted(ids, key=lambda name: draw(seed, "sample", name))[:count])


def drawn_count(available: int, ratio: float | None, cap: int | None) -> int:
    """Number of images that ``sample`` keeps of a class."""
    count = available if ratio is None else math.ceil(round(available * ratio, 9))  # 0.7 of 10 is 7, not 7.000...01
    return count if cap is None else min(count, cap)


def split_class(groups: Mapping[str, str], weights: tuple[int, int, int], seed: int) -> dict[str, str] | None:
    """Splits one class without dividing a group.

    Groups are assigned largest first (equal sizes in an order drawn from seed and key), each to the split that is
    furthest below its share of the images; no split stays empty. If every image is its own group, this is the paper's
    random split, a function only of seed and ids.

    Args:
        groups: image_id -> group key, for all images of the class.
        weights: Shares of train, validation and test; a split of weight 0 stays empty.
        seed: The data set's seed.

    Returns:
        image_id -> split, or None if the class has fewer groups than there are splits to fill.
    """
    members: dict[str, list[str]] = {}
    for name, key in groups.items():
        members.setdefault(key, []).append(name)
    open_splits = [split for split, weight in zip(SPLITS, weights, strict=True) if weight]
    if len(members) < len(open_splits):
        return None
    shares = {split: len(groups) * weight / sum(weights) for split, weight in zip(SPLITS, weights, strict=True)}
    held = dict.fromkeys(open_splits, 0)
    result: dict[str, str] = {}
    order = sorted(members, key=lambda key: (-len(members[key]), draw(seed, "split", key)))
    for position, key in enumerate(order):
        empty = [split for split in open_splits if not held[split]]
        choice = empty if len(order) - position == len(empty) else open_splits
        split = max(choice, key=lambda split: shares[split] - held[split])  # ties: train before validation before test
        held[split] += len(members[key])
        result.update(dict.fromkeys(members[key], split))
    return result


def image_groups(ids: Iterable[str]) -> dict[str, str]:
    """Makes every image its own group, for the split by image."""
    return {name: name for name in ids}
