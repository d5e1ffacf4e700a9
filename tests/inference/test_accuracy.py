"""Accuracy, GAP and their intervals: by hand, and by the definitions written out; the summary of an evaluation."""

import json
import math
import random

import numpy as np
import pytest

from timm_landmark.data.layout import ClassRow
from timm_landmark.inference.metrics.accuracy import gap, gap_interval, wilson
from timm_landmark.inference.metrics.summary import summarise
from timm_landmark.inference.split_predictions import Prediction, render_predictions


@pytest.mark.parametrize(("correct", "images"), [(0, 1), (1, 1), (0, 40), (7, 40), (40, 40), (325, 500), (9999, 10000)])
def test_wilson_solves_the_equation_it_is_defined_by(correct, images):
    """|share - p| = z * sqrt(p (1 - p) / n) at both ends, for the p that the interval bounds."""
    low, high = wilson(correct, images)
    share = correct / images
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(share - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / images), rel=1e-5)
    if 0 < correct < images:
        assert low < share < high


def test_wilson_of_nothing_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


def slow_gap(confidences, correct, ids):
    """The definition, written out."""
    ranked = sorted(zip(confidences, ids, correct, strict=True), key=lambda row: (-row[0], row[1]))
    total = 0.0
    for i, (_, _, relevant) in enumerate(ranked, start=1):
        precision = sum(hit for _, _, hit in ranked[:i]) / i
        total += precision * relevant
    return total / len(ranked)


@pytest.mark.parametrize("seed", range(5))
def test_gap_is_the_definition(seed):
    generator = random.Random(seed)
    n = 60
    confidences = [round(generator.random(), 1) for _ in range(n)]  # many ties
    correct = [generator.random() < 0.6 for _ in range(n)]
    ids = [f"{generator.getrandbits(64):016x}" for _ in range(n)]
    assert gap(confidences, correct, ids) == pytest.approx(slow_gap(confidences, correct, ids), abs=1e-12)


def test_gap_by_hand():
    assert gap([0.9, 0.8, 0.7], [True, False, True]) == pytest.approx((1 + 2 / 3) / 3)
    assert gap([0.9, 0.8], [True, True]) == 1.0
    assert gap([0.9, 0.8], [False, False]) == gap([], []) == 0.0


def test_equal_confidences_are_ordered_by_id():
    assert gap([0.5, 0.5], [True, False], ["b", "a"]) == 0.25
    assert gap([0.5, 0.5], [True, False], ["a", "b"]) == 0.5


def test_the_gaps_interval_covers_it_and_narrows():
    generator = np.random.default_rng(1)
    widths = []
    for n in (50, 800):
        correct = generator.random(n) < 0.7
        confidences = np.where(correct, 0.5, 0.3) + generator.random(n) / 2
        low, high = gap_interval(confidences, correct)
        assert low < gap(confidences, correct) < high
        assert gap_interval(confidences, correct) == (low, high)
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5


ROWS = [ClassRow(f"000{i}", str(i), f"Class {i}", 9, 9, 9) for i in range(7)]


def prediction(image_id, folder, *top, confidence=0.5):
    return Prediction(image_id, folder, top, confidence)


def test_summary_of_known_predictions():
    predictions = [
        prediction("a", "0000", "0000", "0001", "0002", "0003", "0004", confidence=0.9),
        prediction("b", "0000", "0001", "0002", "0000", "0003", "0004", confidence=0.8),
        prediction("c", "0001", "0002", "0003", "0004", "0005", "0006", confidence=0.7),
        prediction("d", "0001", "0001", "0002", "0003", "0004", "0005", confidence=0.6),
    ]
    result = summarise(predictions, ROWS)
    assert result["images"] == 4
    assert (result["top1"]["value"], result["top1"]["correct"]) == (0.5, 2)
    assert (result["top5"]["value"], result["top5"]["correct"]) == (0.75, 3)
    assert result["top1"]["interval"] == list(wilson(2, 4))
    assert result["gap"]["value"] == pytest.approx((1 + 2 / 4) / 4)
    per_class = {row["class"]: (row["correct"], row["images"], row["value"]) for row in result["per_class"]}
    assert per_class["0000"] == per_class["0001"] == (1, 2, 0.5)
    assert per_class["0006"] == (0, 0, None)
    assert sum(row["images"] for row in result["per_class"]) == 4
    json.dumps(result, allow_nan=False)


def test_predictions_as_csv():
    text = render_predictions([prediction("0123", "0000", "0001", "0000", confidence=0.25)])
    assert text == "image_id,class,prediction,confidence,top5\n0123,0000,0001,0.250000,0001 0000\n"
