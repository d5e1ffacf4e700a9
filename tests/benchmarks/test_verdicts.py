"""Verdicts on the paper's claims: two levels of intervals, one statistic per claim, and the wording in each case."""

import math
import re
import shutil

import numpy as np
import pytest
from results_helpers import make_comparison, write_csv

from benchmarks.comparison import sets as comparison
from benchmarks.comparison.intervals import Difference, T, bootstrap, paired_difference, student
from benchmarks.comparison.sets import claims
from benchmarks.comparison.verdicts import above, combined, judge, within

SEVEN = claims.SEVEN


def all_models(value, **others):
    return {model: others.get(model, value) for model in SEVEN}


def row(right, n=100, first=0):
    """Correct on ``right`` of n photos, starting with photo ``first``."""
    return [(i - first) % n < right for i in range(n)]


def test_paired_difference_is_narrow_where_the_same_photos_are_wrong():
    nested = paired_difference([row(75)], [row(70)])
    crossed = paired_difference([row(75)], [row(70, first=50)])
    assert nested.estimate == crossed.estimate == pytest.approx(0.05)
    assert nested.runs[0] > 0 > crossed.runs[0]
    assert nested.runs[1] - nested.runs[0] < crossed.runs[1] - crossed.runs[0]
    assert (nested.n, nested.seeds, nested.method) == (100, (pytest.approx(0.05),), None)


def test_bootstrap_of_photos_is_that_of_drawing_them_one_by_one():
    values = np.random.RandomState(1).choice([-1 / 3, 0, 1 / 3, 1], 300, p=[0.1, 0.6, 0.2, 0.1])
    drawn = np.random.RandomState(2).choice(values, (20_000, 300)).mean(1)
    assert bootstrap(values) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.004)
    assert bootstrap(values) == bootstrap(values)
    low, high = bootstrap(values, 11)
    assert (low, high) == pytest.approx(np.percentile(drawn, [2.5 / 11, 100 - 2.5 / 11]), abs=0.01)
    assert low < bootstrap(values)[0] and high > bootstrap(values)[1]
    assert bootstrap([0.0, 0.0]) == (0.0, 0.0)


def test_student_over_seeds_by_hand():
    low, high = student([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)))
    assert student([0.5]) is None


@pytest.mark.parametrize("intervals", T)
def test_table_of_student(intervals):
    """P(|t| > T) by Simpson's rule, with t = sqrt(df) tan(u)."""
    for df, t in enumerate(T[intervals], start=1):
        u = np.linspace(0, math.atan(t / math.sqrt(df)), 2001)
        weights = np.array([1, *[4, 2] * 999, 4, 1]) * (u[1] / 3)
        constant = math.gamma((df + 1) / 2) / (math.sqrt(math.pi) * math.gamma(df / 2))
        tail = 1 - 2 * constant * (weights * np.cos(u) ** (df - 1)).sum()
        assert tail == pytest.approx(0.05 / intervals, rel=2e-3), df


def test_seeds_that_disagree_leave_the_method_open():
    agree = paired_difference([row(80), row(81)], [row(70), row(70)])
    disagree = paired_difference([row(95), row(75)], [row(70), row(70)])
    assert agree.runs[0] > 0 and agree.method[0] > 0
    assert disagree.runs[0] > 0 > disagree.method[0]
    assert disagree.seeds == pytest.approx((0.25, 0.05))
    assert combined(agree) == claims.HOLDS
    assert combined(disagree) == f"{claims.HOLDS_ONLY} these runs"


@pytest.mark.parametrize(
    ("runs", "method", "seeds", "verdict"),
    [
        ((0.01, 0.03), (0.01, 0.05), 3, "holds"),
        ((0.01, 0.03), (-0.01, 0.05), 3, "holds only for these runs"),
        ((0.01, 0.03), None, 1, "holds only for this run (one seed)"),
        ((-0.03, -0.01), (-0.05, -0.01), 3, "does not hold"),
        ((-0.03, -0.01), (-0.05, 0.01), 3, "does not hold in these runs"),
        ((-0.03, -0.01), None, 1, "does not hold in this run (one seed)"),
        ((-0.01, 0.03), (0.001, 0.019), 3, "not decidable here (n = 50, interval -1.0 to +3.0)"),  # wide for photos
        ((0.0, 0.03), None, 1, "not decidable here (n = 50, interval +0.0 to +3.0)"),
    ],
)
def test_both_levels_make_one_verdict(runs, method, seeds, verdict):
    assert combined(Difference(0.01, runs, method, 50, (0.01,) * seeds)) == verdict


def test_about_equal_needs_both_ends_within_the_margin():
    assert [
        within(interval) for interval in ((-0.019, 0.01), (-0.021, 0.01), (-0.01, 0.021), (-0.05, -0.021), None)
    ] == [
        1,
        0,
        0,
        -1,
        0,
    ]
    assert within((0.021, 0.05)) == -1
    assert [above(interval) for interval in ((0.1, 0.2), (0.0, 0.2), (-0.2, -0.1), None)] == [1, 0, -1, 0]


def verdicts(tmp_path, top1, **options):
    return judge(comparison.load(make_comparison(tmp_path / "c", top1, **options)))


def test_small_differences_are_not_decidable(tmp_path):
    shown = verdicts(tmp_path, all_models(0.6, inception_resnet_pa=0.605, resneat50=0.585), n=200)
    assert set(shown) == set(range(4, 13))
    for number in (5, 8, 10, 11):
        assert shown[number].verdict.startswith(f"{claims.NOT_DECIDABLE} (n = 200, interval "), number
    assert "n = 200" in shown[5].evidence and "+0.5 points [" in shown[5].evidence


def test_clear_differences_hold_for_this_run_only_or_not_at_all(tmp_path):
    models = all_models(0.6, inception_resnet_pa=0.7, resneat50=0.4, seresnet50=0.8)
    shown = verdicts(tmp_path, models, n=400)
    assert shown[5].verdict == f"{claims.HOLDS_ONLY} this run (one seed)"
    assert shown[8].verdict == f"{claims.DOES_NOT_HOLD} in this run (one seed)"
    assert shown[10].verdict == f"{claims.HOLDS_ONLY} Inception-Res-PA, in this run (one seed)"
    assert shown[11].verdict == f"{claims.DOES_NOT_HOLD} in this run (one seed)"
    assert "below the baseline: resneat50" in shown[11].evidence


def test_the_interval_is_the_only_test_of_claim_5(tmp_path):
    shown = verdicts(tmp_path, all_models(0.6, inception_resnet_pa=0.58), n=448)
    assert shown[5].verdict.startswith(claims.DOES_NOT_HOLD)  # 9 photos fewer, the others equal
    assert "the paper's +1.7 lies outside the interval for this run" in shown[5].evidence


def test_what_the_paper_says_would_be_seen_to_hold(tmp_path):
    ranking = dict(zip(SEVEN, (0.4, 0.55, 0.56, 0.45, 0.8, 0.6, 0.57), strict=True))
    shown = verdicts(tmp_path, ranking, n=1000, seeds=(0, 1, 2))
    for number in (4, 5, 9, 10, 11):
        assert shown[number].verdict == claims.HOLDS, number


def test_seeds_that_scatter_make_it_true_of_these_runs_only(tmp_path):
    ranking = all_models([0.4, 0.4, 0.4], inception_resnet_pa=[0.41, 0.5, 0.6], resneat50=[0.41, 0.5, 0.6])
    shown = verdicts(tmp_path, ranking | {"seresnet50": [0.7, 0.75, 0.9]}, n=1000, seeds=(0, 1, 2))
    assert shown[5].verdict == shown[10].verdict == f"{claims.HOLDS_ONLY} these runs"
    assert "for the method (3 seeds)" in shown[5].evidence


def test_one_of_eleven_refutes_claim_11_only_where_it_is_sure(tmp_path):
    """ResNeAt is wrong on 6 more photos than the baseline: below zero at 95 %, but not at the level for eleven."""
    ranking = dict(zip(SEVEN, (0.6, 0.65, 0.66, 0.65, 0.8, 0.65, 0.594), strict=True))
    shown = verdicts(tmp_path, ranking, n=1000)
    _, high = bootstrap([-1] * 6 + [0] * 994)
    assert high < 0 <= bootstrap([-1] * 6 + [0] * 994, 11)[1]
    low, high = (100 * bound for bound in bootstrap([-1] * 6 + [0] * 994))
    assert shown[11].verdict == f"{claims.NOT_DECIDABLE} (n = 1000, interval {low:+.1f} to {high:+.1f})"
    assert "points over the baseline: seresnet50 +20.0 [" in shown[11].evidence
    assert "points of SE-Net over the others: resneat50 +20.6 [" in shown[11].evidence
    assert verdicts(tmp_path / "b", ranking | {"resneat50": 0.57}, n=1000)[11].verdict.startswith(claims.DOES_NOT_HOLD)


def test_claim_11_says_which_differences_are_means_over_seeds(tmp_path):
    folder = make_comparison(tmp_path / "c", all_models(0.5, resnext50_32x4d=[0.5, 0.6]), seeds=(0, 1))
    for model in set(SEVEN) - {"resnet50", "resnext50_32x4d"}:
        shutil.rmtree(folder / f"{model}-s1")
    evidence = judge(comparison.load(folder))[11].evidence
    assert re.search(r"resnext50_32x4d \+5\.0 \[[^]]*\] \(2 seeds\)", evidence) and evidence.count("seeds)") == 1


def test_equal_within_the_margin(tmp_path):
    assert verdicts(tmp_path, all_models(0.6), n=3000, seeds=(0, 1))[8].verdict == claims.HOLDS


def test_curves_of_one_seed_decide_nothing(tmp_path):
    shown = verdicts(tmp_path, all_models(0.4, inception_resnet_pa=0.9, resneat50=0.9))
    for number in (4, 6, 9, 12):
        assert shown[number].verdict == f"{claims.NOT_DECIDABLE} (one seed)"


def test_claim_of_untrained_models_is_not_decidable(tmp_path):
    shown = verdicts(tmp_path, {"resnet50": 0.5, "resneat50": 0.5})
    assert shown[5].verdict == claims.NOT_DECIDABLE
    assert "inception_resnet_pa" in shown[5].evidence


def curves(tmp_path, **by_model):
    """Verdicts of a comparison with these columns, ``model=[(train_loss, eval_top1) of each seed]``."""
    seeds = range(len(next(iter(by_model.values()))))
    folder = make_comparison(tmp_path / "c", all_models(0.5), seeds=seeds)
    for model, runs in by_model.items():
        for seed, (losses, top1) in enumerate(runs):
            rows = [(epoch, *values) for epoch, values in enumerate(zip(losses, top1, strict=True))]
            write_csv(folder / f"{model}-s{seed}" / "summary.csv", ["epoch", "train_loss", "eval_top1"], rows)
    return judge(comparison.load(folder))


FLAT = (2.0, 1.0, 0.5, 0.25)


def test_faster_is_the_area_under_the_curve_and_steadier_the_summed_drops(tmp_path):
    """PA ends no higher than Inception-Res, but is above it by 10, 11 and 12 points before that, and never drops."""
    pa = [(FLAT, (40 + k, 60 + k, 60 + k, 60 + k)) for k in (0, 1, 2)]
    v2 = [(FLAT, (40, 50, 30, 60)) for _ in range(3)]
    shown = curves(tmp_path, inception_resnet_pa=pa, inception_resnet_v2=v2)
    assert shown[4].verdict == claims.HOLDS
    half = 4.303 / math.sqrt(3)
    interval = f"mean difference +11.00 [{11 - half:+.2f}, {11 + half:+.2f}] for the method"
    assert interval in shown[4].evidence and "sign in 3 of 3 seeds" in shown[4].evidence
    assert "56.0 and 45.0 %" in shown[4].evidence
    assert shown[6].verdict == claims.HOLDS and "0.0 and 20.0 points" in shown[6].evidence
    other = curves(tmp_path / "b", inception_resnet_pa=v2, inception_resnet_v2=pa)
    assert other[4].verdict == other[6].verdict == claims.DOES_NOT_HOLD


def test_a_curve_is_like_the_baselines_when_no_farther_than_two_seeds(tmp_path):
    top1 = (40, 50, 55, 60)

    def shifted(*shifts):
        return [([loss + shift for loss in FLAT], top1) for shift in shifts]

    near = curves(tmp_path, resnet50=shifted(0, 0.3, 0.6), inception_resnet_v2=shifted(0.1, 0.41, 0.7))
    assert near[12].verdict == claims.HOLDS
    assert "distance of the training losses 0.10; two seeds of one model differ by up to 0.60" in near[12].evidence
    far = curves(tmp_path / "b", resnet50=shifted(0, 0.1, 0.2), inception_resnet_v2=shifted(0.9, 1.0, 1.15))
    assert far[12].verdict == claims.DOES_NOT_HOLD
    open_ = curves(tmp_path / "d", resnet50=shifted(0, 0.1, 0.2), inception_resnet_v2=shifted(0.1, 0.4, 0.6))
    assert open_[12].verdict.startswith(f"{claims.NOT_DECIDABLE} (3 seeds")
