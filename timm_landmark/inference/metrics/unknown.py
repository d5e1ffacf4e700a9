"""Metrics with photos that show none of the classes: AUROC, false positives, GAP with distractors, a threshold."""

from collections.abc import Callable, Sequence

import numpy as np

from timm_landmark.inference.metrics.accuracy import gap

RECALL = 95  # percent of the photos of a landmark that are accepted, for the false-positive rate


def auroc(known: Sequence[float] | np.ndarray, unknown: Sequence[float] | np.ndarray) -> float:
    """The probability that a photo of a landmark has a higher confidence than an unknown photo; ties count half.

    Args:
        known: Confidences of photos of a landmark, at least one.
        unknown: Confidences of photos that show none, at least one.
    """
    ranked = np.sort(np.asarray(unknown, dtype=np.float64))
    below, up_to = (np.searchsorted(ranked, np.asarray(known, dtype=np.float64), side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(ranked))


def false_positives(known: Sequence[float], unknown: Sequence[float]) -> int:
    """The unknown photos that are accepted at the highest confidence that accepts 95 % of the known photos."""
    ranked = sorted(known, reverse=True)
    threshold = ranked[-(-RECALL * len(ranked) // 100) - 1]  # rounded up
    return sum(confidence >= threshold for confidence in unknown)


def gap_with_distractors(
    known: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    unknown: Sequence[float] | np.ndarray,
    ties: Sequence[str] | None = None,
) -> float:
    """GAP of Google Landmarks: (1/M) sum P(i) rel(i) over all queries, the most confident first.

    Unknown photos are queries for which no answer is relevant. M counts only the queries that show a landmark.

    Args:
        known: Confidences of the M photos of a landmark.
        correct: Whether their predictions are correct.
        unknown: Confidences of the other photos.
        ties: Ids of the known and then the unknown photos, which order equal confidences.
    """
    confidences = np.concatenate([known, unknown])
    relevant = np.concatenate([np.asarray(correct, dtype=bool), np.zeros(len(unknown), dtype=bool)])
    return gap(confidences, relevant, ties) * len(confidences) / len(known)


def interval_of(
    metric: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    known: Sequence[float],
    correct: Sequence[bool],
    unknown: Sequence[float],
    samples: int = 1000,
) -> tuple[float, float]:
    """The 95 % percentile interval of ``metric(known, correct, unknown)`` over bootstrap samples (fixed seed).

    The known and the unknown photos are sampled separately, because their numbers are a choice.
    """
    generator = np.random.default_rng(0)
    score, hits, others = np.asarray(known), np.asarray(correct, dtype=bool), np.asarray(unknown)
    values = []
    for _ in range(samples):
        first = generator.integers(0, len(score), len(score))
        second = generator.integers(0, len(others), len(others))
        values.append(metric(score[first], hits[first], others[second]))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def choose_none_threshold(
    known: Sequence[float], unknown: Sequence[float], accuracy: float, most: float | None = None
) -> float | None:
    """The largest t for which at least ``accuracy`` of the photos with confidence < t are unknown.

    Known and unknown photos have the same total weight, so that t does not depend on their numbers.

    Args:
        known: Confidences of photos of a landmark.
        unknown: Confidences of photos that show none.
        accuracy: The wanted share, in 0..1.
        most: The largest value to return, 1 by default.

    Returns:
        A value in 0..1, or None if there is no such t, or one of the lists is empty.
    """
    most = 1.0 if most is None else most
    if not len(known) or not len(unknown):
        return None
    landmarks, others = np.sort(np.asarray(known, dtype=np.float64)), np.sort(np.asarray(unknown, dtype=np.float64))
    steps = np.unique(np.concatenate([landmarks, others]))
    candidates = np.append(steps[steps < most], most)
    wrong, right = (np.searchsorted(each, candidates) / len(each) for each in (landmarks, others))  # shares below
    reached = np.flatnonzero((right > 0) & (right >= accuracy * (right + wrong)))
    return float(candidates[reached[-1]]) if len(reached) else None
