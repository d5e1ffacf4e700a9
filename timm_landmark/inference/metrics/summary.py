"""The results of ``evaluate`` as they are stored in run.json, computed from predictions and features."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from timm_landmark.data.layout import ClassRow
from timm_landmark.inference.metrics.accuracy import gap, gap_interval, share
from timm_landmark.inference.metrics.retrieval import NEIGHBOURS, retrieve
from timm_landmark.inference.metrics.selective import answers_from, choose_threshold, risk_coverage
from timm_landmark.inference.metrics.unknown import (
    auroc,
    choose_none_threshold,
    false_positives,
    gap_with_distractors,
    interval_of,
)
from timm_landmark.inference.split_predictions import Prediction
from timm_landmark.runs.thresholds import DIGITS, Thresholds

BY_BOOTSTRAP = "bootstrap of the images, 1000 samples"


def summarise(predictions: Sequence[Prediction], classes: Sequence[ClassRow]) -> dict[str, Any]:
    """Computes top-1, top-5, GAP and top-1 per class, as values in 0..1 with 95 % intervals; and the risk by coverage.

    ``top_k`` is 5, or the number of classes if there are fewer.
    """
    hits = [prediction.correct for prediction in predictions]
    within = [prediction.folder in prediction.top for prediction in predictions]
    confidences = [prediction.confidence for prediction in predictions]
    images = Counter(prediction.folder for prediction in predictions)
    correct = Counter(prediction.folder for prediction in predictions if prediction.correct)
    low, high = gap_interval(confidences, hits)
    return {
        "images": len(predictions),
        "top_k": len(predictions[0].top),
        "top1": share(sum(hits), len(hits)),
        "top5": share(sum(within), len(within)),
        "gap": {
            "value": gap(confidences, hits, [prediction.image_id for prediction in predictions]),
            "interval": [low, high],
            "interval_by": BY_BOOTSTRAP,
        },
        "per_class": [
            {"class": row.folder, "name": row.name, **share(correct[row.folder], images[row.folder])} for row in classes
        ],
        "risk_coverage": risk_coverage(stored(predictions), hits),
    }


def stored(predictions: Sequence[Prediction]) -> list[float]:
    """The confidences as they are stored, so that thresholds are the same from a file and from a pass."""
    return [round(prediction.confidence, DIGITS) for prediction in predictions]


def choose_thresholds(validation: Sequence[Prediction], accuracy: float) -> dict[str, Any]:
    """The entry ``thresholds`` of run.json: the threshold for named answers, chosen on validation."""
    hits = [prediction.correct for prediction in validation]
    certain = choose_threshold(stored(validation), hits, accuracy)
    answered, correct = (0, 0) if certain is None else answers_from(stored(validation), hits, certain)
    return {
        **Thresholds(certain, None, accuracy).as_dict(),
        "split": "validation",
        "images": len(validation),
        "answered": answered,
        "correct": correct,
    }


def selective(predictions: Sequence[Prediction], threshold: float | None) -> dict[str, Any] | None:
    """How many images have an answer with at least this confidence, and how many of these answers are right."""
    if threshold is None:
        return None
    answered, correct = answers_from(stored(predictions), [each.correct for each in predictions], threshold)
    found = share(correct, answered)
    return {
        "threshold": threshold,
        "answered": answered,
        "images": len(predictions),
        "correct": correct,
        "value": found["value"],
        "interval": found["interval"],
    }


def retrieval(
    predictions: Sequence[Prediction],
    pooled: np.ndarray | None,
    validation: Sequence[Prediction],
    index: np.ndarray | None,
) -> dict[str, Any] | None:
    """k-nearest-neighbour top-1 and mAP@100 of the images among those of validation, by their pooled features.

    The definitions are in :func:`timm_landmark.inference.metrics.retrieval.retrieve`.

    Args:
        predictions: n, the queries, whose true classes are used.
        pooled: Their features, shape (n, features), or None.
        validation: m, the index.
        index: Its features, shape (m, features), or None.

    Returns:
        None without features, or if some are not finite in float16.
    """
    if pooled is None or index is None or not (np.isfinite(pooled).all() and np.isfinite(index).all()):
        return None
    folders = [prediction.folder for prediction in predictions]
    right, precisions = retrieve(pooled, folders, index, [prediction.folder for prediction in validation])
    return {
        "index": "validation",
        "index_images": len(validation),
        "knn_top1": {"k": min(NEIGHBOURS, len(validation)), **share(right, len(folders))},
        "map100": {"value": float(np.mean(precisions)) if precisions else None, "queries": len(precisions)},
    }


def summarise_unknown(
    test: Sequence[Prediction],
    validation: Sequence[Prediction],
    unknown: Sequence[tuple[str, float]],
    thresholds: Thresholds,
) -> tuple[float | None, dict[str, Any]]:
    """Chooses the threshold ``none``, and computes the results with photos that show none of the classes.

    The threshold is chosen on validation and the unknown photos with an even SHA-256, and measured on test and the
    others. The other results are of test and all unknown photos.

    Args:
        test: The predictions for test.
        validation: The predictions for validation.
        unknown: The SHA-256 and the confidence of each photo, at least one.
        thresholds: With the threshold ``certain``, above which ``none`` has no effect.

    Returns:
        The threshold, or None if ``target_accuracy`` is not reached; and the entry ``unknown`` of run.json.
    """
    known, hits = [each.confidence for each in test], [each.correct for each in test]
    others = [confidence for _, confidence in unknown]
    ids = [*(each.image_id for each in test), *(digest for digest, _ in unknown)]
    halves: tuple[list[float], list[float]] = ([], [])
    for digest, confidence in unknown:
        halves[int(digest[-1], 16) % 2].append(round(confidence, DIGITS))
    none = choose_none_threshold(stored(validation), halves[0], thresholds.target_accuracy, thresholds.certain)
    accepted = false_positives(known, others)
    result: dict[str, Any] = {
        "photos": len(others),
        "calibration": len(halves[0]),
        "images": len(test),
        "auroc": auroc(known, others),
        "auroc_interval": list(interval_of(lambda known, _, unknown: auroc(known, unknown), known, hits, others)),
        "fpr95": accepted / len(others),
        "fpr95_accepted": accepted,
        "gap": gap_with_distractors(known, hits, others, ids),
        "gap_interval": list(interval_of(gap_with_distractors, known, hits, others)),
        "interval_by": BY_BOOTSTRAP,
        "none": None,
    }
    if none is not None:
        decide = Thresholds(thresholds.certain, none, thresholds.target_accuracy).decide
        sides = {"unknown": halves[1], "landmark": stored(test)}
        shares = {}
        for side, confidences in sides.items():
            found = share(sum(decide(confidence) == "none" for confidence in confidences), len(confidences))
            shares[side] = {"said": found.pop("correct"), "photos": found.pop("images"), **found}
        result["none"] = {"threshold": none, **shares}
    return none, result
