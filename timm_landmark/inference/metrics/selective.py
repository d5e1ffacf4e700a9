"""Answering only when the model is sure: the risk-coverage curve, and the confidence from which answers are right."""

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_POINTS = 201  # of a stored curve


def risk_coverage(confidences: Sequence[float], correct: Sequence[bool], points: int = MOST_POINTS) -> dict[str, Any]:
    """The risk-coverage curve (El-Yaniv and Wiener 2010).

    One point for each distinct confidence c, the highest first: the photos with a confidence of at least c are
    answered. A curve with more than ``points`` points is thinned evenly and keeps its ends.

    Args:
        confidences: One per image.
        correct: Whether the prediction is correct.
        points: The most points to return, at least 2.

    Returns:
        ``confidence``, ``coverage`` (share of the images that are answered, rising to 1) and ``risk`` (share of wrong
        answers among the answered), as lists with six decimals.
    """
    levels, answered, right = _levels(confidences, correct)
    if len(levels) > points:
        kept = np.unique(np.linspace(0, len(levels) - 1, points).round().astype(int))
        levels, answered, right = levels[kept], answered[kept], right[kept]
    return {
        "confidence": levels.tolist(),
        "coverage": [round(value, 6) for value in (answered / max(len(confidences), 1)).tolist()],
        "risk": [round(value, 6) for value in (1 - right / answered).tolist()],
    }


def choose_threshold(confidences: Sequence[float], correct: Sequence[bool], accuracy: float) -> float | None:
    """The smallest confidence c for which at least ``accuracy`` of the answers with confidence >= c are right.

    Images with equal confidence are answered together.

    Returns:
        One of the confidences, or None if no confidence reaches this accuracy.
    """
    levels, answered, right = _levels(confidences, correct)
    reached = np.flatnonzero(right / answered >= accuracy)
    return float(levels[reached[-1]]) if len(reached) else None


def answers_from(confidences: Sequence[float], correct: Sequence[bool], threshold: float) -> tuple[int, int]:
    """How many images have a confidence of at least ``threshold``, and how many of these are correct."""
    chosen = np.asarray(confidences, dtype=np.float64) >= threshold
    return int(chosen.sum()), int((chosen & np.asarray(correct, dtype=bool)).sum())


def _levels(confidences: Sequence[float], correct: Sequence[bool]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct confidences, the highest first, and the images and correct images at or above each."""
    score = np.asarray(confidences, dtype=np.float64)
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], np.asarray(correct, dtype=bool)[order]
    last = np.flatnonzero(np.diff(score, append=-np.inf))  # the last image of each confidence
    return score[last], last + 1, np.cumsum(hits)[last]
