"""Thresholds, unknown photos and retrieval: by hand, by the definition written out, and against scikit-learn."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from timm_landmark.inference.metrics import retrieval
from timm_landmark.inference.metrics.retrieval import average_precision, nearest, retrieve, unit_length
from timm_landmark.inference.metrics.selective import answers_from, choose_threshold, risk_coverage
from timm_landmark.inference.metrics.unknown import (
    auroc,
    choose_none_threshold,
    false_positives,
    gap_with_distractors,
    interval_of,
)

CONFIDENCES, CORRECT = [0.9, 0.8, 0.8, 0.6, 0.5], [True, True, False, True, False]


def test_risk_by_coverage_by_hand():
    """The two photos with 0.8 are answered together, so there are four points."""
    curve = risk_coverage(CONFIDENCES[::-1], CORRECT[::-1])
    assert curve["confidence"] == [0.9, 0.8, 0.6, 0.5]
    assert curve["coverage"] == pytest.approx([0.2, 0.6, 0.8, 1.0])
    assert curve["risk"] == pytest.approx([0, 1 / 3, 1 / 4, 2 / 5], abs=1e-6)


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    generator = np.random.default_rng(0)
    confidences, correct = generator.random(1000), generator.random(1000) < 0.7
    whole, some = risk_coverage(confidences, correct, 1000), risk_coverage(confidences, correct)
    assert len(whole["risk"]) == 1000 and len(some["risk"]) == 201
    points, chosen = (list(zip(*curve.values(), strict=True)) for curve in (whole, some))
    assert (chosen[0], chosen[-1]) == (points[0], points[-1]) and set(chosen) <= set(points)
    assert np.diff(some["coverage"]).min() > 0 and max(np.diff(some["coverage"])) < 0.01
    assert some["risk"][-1] == pytest.approx(1 - correct.mean())


@pytest.mark.parametrize(
    ("accuracy", "threshold", "answered", "right"),
    [(0.95, 0.9, 1, 1), (0.75, 0.6, 4, 3), (0.7, 0.6, 4, 3), (0.6, 0.5, 5, 3), (0.66, 0.6, 4, 3)],
)
def test_the_threshold_by_hand(accuracy, threshold, answered, right):
    """The smallest one that reaches the share, even if a higher one, such as 0.8, does not."""
    assert choose_threshold(CONFIDENCES, CORRECT, accuracy) == threshold
    assert answers_from(CONFIDENCES, CORRECT, threshold) == (answered, right)


def test_equal_confidences_are_answered_together_or_not_at_all():
    assert choose_threshold([0.8, 0.8, 0.7], [True, False, True], 0.9) is None
    assert choose_threshold([0.8, 0.8, 0.7], [True, False, True], 0.6) == 0.7


def test_a_share_that_is_not_reached_gives_no_threshold():
    assert choose_threshold([0.9, 0.8], [False, True], 0.6) is None
    assert choose_threshold([0.9], [False], 0.01) is None


@pytest.mark.parametrize("images", [20, 100, 300, 1000])
def test_a_share_that_is_just_reached_counts(images):
    """k / n is compared with the share, so that 55 of 100 is 0.55, which 0.55 * 100 is not."""
    for percent in (55, 70, 95):
        right = images * percent // 100
        correct = [True] * right + [False] * (images - right)
        confidences = [0.5] * images
        assert choose_threshold(confidences, correct, percent / 100) == 0.5
        assert choose_threshold(confidences, [False, *correct[1:]], percent / 100) is None


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_definition(seed):
    generator = np.random.default_rng(seed)
    confidences = generator.random(80).round(1 + seed % 2).tolist()
    correct = (generator.random(80) < np.sqrt(confidences)).tolist()
    for accuracy in (0.5, 0.8, 0.9, 0.95):
        good = [
            level
            for level in set(confidences)
            if np.mean([hit for each, hit in zip(confidences, correct, strict=True) if each >= level]) >= accuracy
        ]
        assert choose_threshold(confidences, correct, accuracy) == min(good, default=None)


def drawn(seed, known=70, unknown=50, digits=2):
    """Confidences with ties, higher for photos of a landmark."""
    generator = np.random.default_rng(seed)
    return generator.beta(4, 2, known).round(digits).tolist(), generator.beta(2, 3, unknown).round(digits).tolist()


def test_unknown_photos_by_hand():
    known, correct, unknown = [0.9, 0.7, 0.4], [True, False, True], [0.8, 0.4]
    assert auroc(known, unknown) == pytest.approx((2 + 1 + 0.5) / 6)
    assert false_positives(known, unknown) == 2  # all three must be accepted for a recall of 95 %
    # ranked: 0.9 right, 0.8 unknown, 0.7 wrong, then the right one and the unknown one with 0.4, by id
    assert gap_with_distractors(known, correct, unknown, ["a", "b", "c", "d", "e"]) == pytest.approx((1 + 2 / 4) / 3)
    assert gap_with_distractors(known, correct, unknown, ["a", "b", "e", "d", "c"]) == pytest.approx((1 + 2 / 5) / 3)


def test_distractors_do_not_count_as_queries_with_a_landmark():
    """Unknown photos below all others leave the GAP as it is; above all others, they lower it."""
    assert gap_with_distractors([0.9, 0.8], [True, True], [0.1] * 50) == pytest.approx(1)
    assert gap_with_distractors([0.9, 0.8], [True, True], [0.95] * 2) == pytest.approx((1 / 3 + 2 / 4) / 2)


@pytest.mark.parametrize("seed", range(4))
def test_auroc_and_false_positives_are_those_of_scikit_learn(seed):
    known, unknown = drawn(seed, digits=1 + seed)
    truth = [1] * len(known) + [0] * len(unknown)
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, known + unknown), abs=1e-12)
    accepted, recall, _ = roc_curve(truth, known + unknown, drop_intermediate=False)
    assert false_positives(known, unknown) / len(unknown) == pytest.approx(accepted[recall >= 0.95].min())


@pytest.mark.parametrize("known", [1, 19, 20, 21, 40, 60, 1000])
def test_the_recall_is_reached_exactly(known):
    """With n distinct confidences, the lowest 5 % (rounded down) may be refused."""
    confidences = [place / known for place in range(1, known + 1)]
    refused = known * 5 // 100
    assert false_positives(confidences, confidences) == known - refused


@pytest.mark.parametrize("seed", range(3))
def test_gap_with_distractors_is_scikit_learns_average_precision_scaled_to_m(seed):
    """Average precision divides by the relevant answers, GAP by the M queries that show a landmark."""
    known, unknown = drawn(seed, digits=9)
    correct = np.random.default_rng(seed).random(len(known)) < 0.7
    relevant = [*correct, *[False] * len(unknown)]
    expected = average_precision_score(relevant, known + unknown) * correct.sum() / len(known)
    assert gap_with_distractors(known, correct, unknown) == pytest.approx(expected, abs=1e-12)


def test_intervals_cover_the_value_and_narrow_with_more_photos():
    widths = []
    for factor in (1, 16):
        known, unknown = drawn(3, 40 * factor, 30 * factor, 4)
        correct = (np.random.default_rng(1).random(len(known)) < 0.8).tolist()
        low, high = interval_of(gap_with_distractors, known, correct, unknown)
        assert low < gap_with_distractors(known, correct, unknown) < high
        assert interval_of(gap_with_distractors, known, correct, unknown) == (low, high)
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5


def test_the_threshold_for_none_by_hand():
    """Weighted equally: one of two unknown photos weighs as much as two of four known ones."""
    known, unknown = [0.9, 0.8, 0.5, 0.2], [0.6, 0.1]
    assert choose_none_threshold(known, unknown, 0.9) == 0.2  # below 0.2: 1/2 of the unknown, 0 of the known
    assert choose_none_threshold(known, unknown, 2 / 3) == 0.8  # 1 and 1/2
    assert choose_none_threshold(known, unknown, 0.5) == 1.0
    assert choose_none_threshold(known, unknown, 2 / 3, most=0.3) == 0.3  # 1/2 and 1/4
    assert choose_none_threshold(known, [0.95, 0.97], 0.9) is None
    assert choose_none_threshold(known, [], 0.9) is choose_none_threshold([], unknown, 0.9) is None


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_for_none_is_the_definition(seed):
    known, unknown = drawn(seed, digits=1 + seed)

    def share(threshold):
        wrong, right = (np.mean([each < threshold for each in photos]) for photos in (known, unknown))
        return right / (right + wrong) if right else 0

    for accuracy in (0.6, 0.8, 0.95):
        found = choose_none_threshold(known, unknown, accuracy)
        good = [threshold for threshold in (*known, *unknown, 1.0) if share(threshold) >= accuracy]
        assert found == max(good, default=None)


def features(seed, images, classes=4, width=16, spread=1.0):
    """Unit-free features around one centre per class, and the classes as names."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    return 3 * (centres[labels] + spread * generator.normal(size=(images, width))), [f"{each:04d}" for each in labels]


def test_retrieval_by_hand():
    """Cosine similarity: the length of a vector does not matter."""
    index = np.array([[1, 0.1], [10, 4], [0, 1], [1, 1]])
    queries = np.array([[2.0, 0], [0, 0.1]])
    assert [found.tolist() for found in nearest(queries, index, 3)] == [[0, 1, 3], [2, 3, 1]]
    right, precisions = retrieve(queries, ["a", "b"], index, ["a", "b", "b", "a"])
    assert right == 2  # of four neighbours, two votes for each class: the nearest one decides
    assert precisions == pytest.approx([(1 + 2 / 3) / 2, (1 + 2 / 3) / 2])  # a b a b, and b a b a
    assert retrieve(queries, ["a", "c"], index, ["a", "b", "b", "a"])[1] == pytest.approx([5 / 6])  # no c in the index


def test_average_precision_by_hand():
    assert average_precision(np.array([True, False, True]), 2) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([False] * 3), 2) == 0
    assert average_precision(np.array([True] * 100), 300) == 1  # no more than 100 can be found
    assert average_precision(np.array([True, False]), 4) == 0.25


@pytest.mark.parametrize("images", [7, 300])
def test_neighbours_and_votes_are_those_of_scikit_learn(images, monkeypatch):
    monkeypatch.setattr(retrieval, "_VALUES", 10 * images)  # blocks of ten queries
    (queries, wanted), (index, known) = features(0, 64), features(1, images)
    k = min(100, images)
    reference = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(index)
    expected = reference.kneighbors(queries, return_distance=False)
    assert np.array_equal(np.array(list(nearest(queries, index, 100))), expected)
    right, precisions = retrieve(queries, wanted, index, known)
    for query, row, precision in zip(wanted, expected, precisions, strict=True):
        hits = [known[place] == query for place in row]
        total = sum(hit * np.mean(hits[: rank + 1]) for rank, hit in enumerate(hits))
        assert precision == pytest.approx(total / min(sum(name == query for name in known), 100))
    votes = KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(index, known)
    shares = votes.predict_proba(queries)
    clear = np.array([(row == row.max()).sum() == 1 for row in shares])  # scikit-learn decides ties differently
    assert clear.mean() > 0.5
    by_library = votes.predict(queries) == np.array(wanted)
    by_hand = [retrieve(queries[n : n + 1], wanted[n : n + 1], index, known)[0] for n in range(len(queries))]
    assert np.array_equal(by_library[clear], np.array(by_hand, dtype=bool)[clear]) and sum(by_hand) == right
    assert 0 < right < len(queries)


def test_ap_at_100_is_scikit_learns_average_precision_for_a_small_index():
    (queries, wanted), (index, known) = features(2, 20), features(3, 90)
    _, precisions = retrieve(queries, wanted, index, known)
    similarities = unit_length(queries) @ unit_length(index).T
    expected = [
        average_precision_score([name == query for name in known], row)
        for query, row in zip(wanted, similarities, strict=True)
    ]
    assert precisions == pytest.approx(expected, abs=1e-6)


def test_equally_near_images_keep_their_order_and_zeros_are_allowed():
    index = np.tile([[1.0, 0.0]], (300, 1))
    for found in nearest(np.array([[1.0, 0.0], [0.0, 0.0]]), index, 100):
        assert found.tolist() == list(range(100))


def test_memory_does_not_grow_with_the_number_of_similarities():
    """3000 x 3000 similarities in float32 are 36 MB; here they are computed 1 MB at a time."""
    queries, index = (np.random.default_rng(n).normal(size=(3000, 8)).astype(np.float16) for n in (0, 1))
    tracemalloc.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_VALUES", 1 << 18)
        assert sum(len(found) for found in nearest(queries, index, 100)) == 300_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6e6
