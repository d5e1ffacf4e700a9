"""95 % intervals for differences of two models on the same photos, and over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt

from comparison import metrics

# 97.5 % points of Student's t for 1 to 10 degrees of freedom: differences over 2 to 11 seeds.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Difference:
    """Accuracy of one model minus another's on the same photos, as fractions.

    Attributes:
        estimate: The plain difference.
        low: Lower end of the 95 % interval.
        high: Upper end.
        n: Photos.
        seeds: Pairs of runs averaged.
        p_value: Exact McNemar test, for a single pair of runs; ``None`` for several.
    """

    estimate: float
    low: float
    high: float
    n: int
    seeds: int
    p_value: float | None


def paired_difference(ours: Sequence[Sequence[bool]], other: Sequence[Sequence[bool]]) -> Difference:
    """The difference of two models that saw the same photos.

    One seed: Agresti and Min's interval for paired proportions (half a photo added to each cell of the 2x2 table). It
    covers the choice of test photos, not the luck of a training run. Several seeds: per photo the mean over seeds, and
    Student's t over the seeds' differences where that is the wider interval.

    Args:
        ours: One row a seed, one truth value a photo: was the model right?
        other: The same for the other model, photos in the same order, seeds paired.
    """
    seeds, n = len(ours), len(ours[0])
    photos = [sum(row[i] - its[i] for row, its in zip(ours, other, strict=True)) / seeds for i in range(n)]
    estimate = sum(photos) / n
    centre = sum(photos) / (n + 2)
    variance = (sum(d * d for d in photos) + 1) / (n + 2) - centre * centre
    half = metrics.Z95 * sqrt(variance / (n + 2))
    p_value = None
    if seeds == 1:
        p_value = mcnemar(sum(d > 0 for d in photos), sum(d < 0 for d in photos))
    else:
        each = [(sum(row) - sum(its)) / n for row, its in zip(ours, other, strict=True)]
        spread = sqrt(sum((d - estimate) ** 2 for d in each) / (seeds - 1))
        half = max(half, T[min(seeds - 1, len(T)) - 1] * spread / sqrt(seeds))
        centre = estimate
    return Difference(estimate, max(-1.0, centre - half), min(1.0, centre + half), n, seeds, p_value)


def mcnemar(only_ours: int, only_other: int) -> float:
    """Exact two-sided McNemar test: are the photos that just one model gets right evenly shared?"""
    n = only_ours + only_other
    tail = sum(comb(n, i) for i in range(min(only_ours, only_other) + 1)) / 2**n
    return min(1.0, 2 * tail)
