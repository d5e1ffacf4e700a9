"""Intervals for the difference of two models, on two levels.

* For these runs: the same trained networks on other photos. Paired bootstrap over the photos, with fixed seeds.
* For the method: training with other seeds. Student's t interval over the paired differences of the seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

SAMPLES = 10_000

# Two-sided Student's t for 1 to 10 degrees of freedom (2 to 11 seeds), by the number of intervals that share an error
# of 5 %: a single interval, and the eleven of claim 11 (Bonferroni's correction).
T = {
    1: (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    11: (140.054, 14.782, 7.704, 5.747, 4.882, 4.405, 4.105, 3.900, 3.751, 3.639),
}

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """Accuracy of one model minus that of another, as fractions.

    Attributes:
        estimate: Mean over the seeds.
        runs: Interval for these runs.
        method: Interval for the method; None with one seed.
        n: Number of photos.
        seeds: Difference of each seed.
    """

    estimate: float
    runs: Interval
    method: Interval | None
    n: int
    seeds: tuple[float, ...]


def paired_difference(
    ours: Sequence[Sequence[bool]], other: Sequence[Sequence[bool]], intervals: int = 1
) -> Difference:
    """The difference of two models on the same photos, with 95 % intervals.

    Args:
        ours: One row per seed, one value per photo: whether the model was right.
        other: The same for the other model, with the same photos and seeds.
        intervals: How many intervals share an error of 5 %, a key of ``T``.
    """
    differences = np.asarray(ours, dtype=np.int8) - np.asarray(other, dtype=np.int8)  # (seeds, photos)
    seeds = tuple(differences.mean(1).tolist())
    photos = differences.mean(0)
    return Difference(
        estimate=float(photos.mean()),
        runs=bootstrap(photos, intervals),
        method=student(seeds, intervals),
        n=len(photos),
        seeds=seeds,
    )


def bootstrap(values: Sequence[float], intervals: int = 1) -> Interval:
    """Percentile bootstrap interval of the mean.

    There are few distinct values, so each sample draws their counts instead of single values. The stream of RandomState
    is frozen: every version of NumPy gives the same interval.
    """
    kinds, counts = np.unique(np.asarray(values), return_counts=True)
    n = counts.sum()
    means = np.random.RandomState(0).multinomial(n, counts / n, SAMPLES) @ kinds / n
    tail = 2.5 / intervals
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def student(values: Sequence[float], intervals: int = 1) -> Interval | None:
    """Student's t interval of the mean, with one value per seed; None for a single value."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    spread = sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    table = T[intervals]
    half = table[min(n - 1, len(table)) - 1] * spread / sqrt(n)
    return mean - half, mean + half
