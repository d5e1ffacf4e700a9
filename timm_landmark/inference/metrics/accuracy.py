"""Metrics for classification of a fixed set of landmarks, with confidence intervals; does not need torch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(correct: int, images: int) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927) for the proportion of ``correct`` in ``images``.

    Unlike the normal approximation, it stays in 0..1 and is accurate for few images and for values near 0 and 1.
    """
    if images == 0:
        return 0.0, 1.0
    share, spread = correct / images, Z95 * Z95 / images
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / images + spread / (4 * images)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def share(correct: int, images: int) -> dict[str, Any]:
    """A proportion as in run.json: ``value`` (None for no images), ``correct``, ``images``, ``interval`` (Wilson)."""
    value = correct / images if images else None
    return {"value": value, "correct": correct, "images": images, "interval": list(wilson(correct, images))}


def gap(
    confidences: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    ties: Sequence[str] | None = None,
) -> float:
    """Global average precision, Kaggle's micro-AP with one prediction per image: (1/M) sum P(i) rel(i).

    Args:
        confidences: One per image; P(i) is the precision of the i most confident predictions.
        correct: rel(i), whether the prediction is correct; M is the number of images, as all show a landmark.
        ties: Image ids, which order equal confidences; by default these keep the given order.

    Returns:
        A value in 0..1; 0 for no images.
    """
    if not len(confidences):
        return 0.0
    score = -np.asarray(confidences, dtype=np.float64)
    order = np.argsort(score, kind="stable") if ties is None else np.lexsort((np.asarray(ties), score))
    hits = np.asarray(correct, dtype=bool)[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / len(hits))


def gap_interval(
    confidences: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray, samples: int = 1000
) -> tuple[float, float]:
    """The 95 % percentile interval of the GAP over ``samples`` bootstrap samples of the images (fixed seed)."""
    if not len(confidences):
        return 0.0, 1.0
    generator = np.random.default_rng(0)
    score, hits = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    values = []
    for _ in range(samples):
        chosen = generator.integers(0, len(hits), len(hits))
        values.append(gap(score[chosen], hits[chosen]))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
