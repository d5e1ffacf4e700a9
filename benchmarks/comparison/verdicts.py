"""Verdicts on the claims that need training, from the runs of one comparison, by the rules of ``PLAN.md``.

Each claim has one statistic, which is tested by its interval. Differences in test accuracy are judged on two levels:
for these runs (other photos) and for the method (other seeds too; both intervals are needed). Training curves are
judged over seeds only.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from benchmarks.comparison.intervals import Difference, Interval, paired_difference, student
from benchmarks.comparison.sets import Comparison, FinishedRun, claims

ABOUT = 0.02  # claim 8: "about" equal is within 2 points, about twice the paper's own difference of 0.9
PAPER_GAIN = 0.017  # claim 5
PA, V2, AT, XT = "inception_resnet_pa", "inception_resnet_v2", "resneat50", "resnext50_32x4d"
SE, BASE = "seresnet50", "resnet50"

Verdict = claims.Verdict


def judge(comparison: Comparison) -> dict[int, Verdict]:
    """Verdicts on claims 4 to 12 by number; a claim is not decidable if one of its models was not trained."""
    rules: dict[int, tuple[tuple[str, ...], Callable[[Comparison], Verdict]]] = {
        4: ((PA, V2), lambda c: _faster(c, PA, V2)),
        5: ((PA, V2), _gains),
        6: ((PA, V2), _steadier),
        8: ((AT, XT), _about_equal),
        9: ((AT, XT), lambda c: _faster(c, AT, XT)),
        10: ((PA, V2, AT, XT), _both_better),
        11: (claims.SEVEN, _best_and_baseline),
        12: ((V2, BASE), _like_baseline),
    }
    verdicts = {7: Verdict(claims.NOT_DECIDABLE, "no model was trained at two depths")}
    for number, (models, rule) in rules.items():
        missing = [model for model in models if model not in comparison.runs]
        if missing or not comparison.seeds(*models):
            verdicts[number] = Verdict(claims.NOT_DECIDABLE, f"not trained here: {', '.join(missing) or 'same seeds'}")
        else:
            verdicts[number] = rule(comparison)
    return verdicts


def seeds_compared(comparison: Comparison) -> list[int]:
    """With how many seeds the comparisons of the claims are made: those that all of their networks have."""
    groups = ((PA, V2), (AT, XT), claims.SEVEN)
    return sorted({len(comparison.seeds(*models)) for models in groups} - {0})


def difference(
    comparison: Comparison, model: str, other: str, intervals: int = 1, seeds: Sequence[int] | None = None
) -> Difference:
    """Test top-1 of one model minus that of another, on the same photos.

    Args:
        comparison: The runs.
        model: The first model.
        other: The model whose accuracy is subtracted.
        intervals: How many intervals share an error of 5 %.
        seeds: Seeds to use; by default all that both models have.
    """
    images, pairs = comparison.test_images, comparison.pairs(model, other)
    pairs = [pair for pair in pairs if seeds is None or pair[0].seed in seeds]
    return paired_difference([a.hits(1, images) for a, _ in pairs], [b.hits(1, images) for _, b in pairs], intervals)


def signed(d: Difference) -> str:
    """A difference in points of accuracy as text, with its interval for these runs and their seeds, if several."""
    text = f"{100 * d.estimate:+.1f} {_bounds(d.runs)}"
    return f"{text} ({len(d.seeds)} seeds)" if len(d.seeds) > 1 else text


def points(d: Difference) -> str:
    """A difference as text, in points of accuracy, with both intervals."""
    text = f"{100 * d.estimate:+.1f} points {_bounds(d.runs)} for {_these(d)}, n = {d.n}"
    return text if d.method is None else f"{text}; {_bounds(d.method)} for the method ({len(d.seeds)} seeds)"


def _bounds(interval: Interval) -> str:
    return f"[{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def _these(d: Difference) -> str:
    return "these runs" if len(d.seeds) > 1 else "this run (one seed)"


def above(interval: Interval | None) -> int:
    """1 if the interval lies above zero, -1 if below, 0 otherwise or without an interval."""
    return 0 if interval is None else (interval[0] > 0) - (interval[1] < 0)


def within(interval: Interval | None) -> int:
    """1 if the interval lies within the margin of "about", -1 if outside, 0 otherwise or without an interval."""
    if interval is None:
        return 0
    low, high = interval
    return (low >= -ABOUT and high <= ABOUT) - (low > ABOUT or high < -ABOUT)


def combined(d: Difference, test: Callable[[Interval | None], int] = above) -> str:
    """The verdict on a difference, from both levels."""
    runs, method = test(d.runs), test(d.method)
    if runs == 0:
        return _undecided(d)
    if runs == method:
        return claims.HOLDS if runs > 0 else claims.DOES_NOT_HOLD
    return f"{claims.HOLDS_ONLY} {_these(d)}" if runs > 0 else f"{claims.DOES_NOT_HOLD} in {_these(d)}"


def _undecided(d: Difference) -> str:
    return f"{claims.NOT_DECIDABLE} (n = {d.n}, interval {100 * d.runs[0]:+.1f} to {100 * d.runs[1]:+.1f})"


def _smallest(differences: Iterable[Difference]) -> Difference:
    return min(differences, key=lambda d: d.estimate)


def _gains(comparison: Comparison) -> Verdict:
    d = difference(comparison, PA, V2)
    inside = d.runs[0] <= PAPER_GAIN <= d.runs[1]
    place = f"{'inside' if inside else 'outside'} the interval for {_these(d)}"
    return Verdict(combined(d), f"{points(d)}; the paper's +1.7 lies {place}")


def _about_equal(comparison: Comparison) -> Verdict:
    d = difference(comparison, AT, XT)
    return Verdict(combined(d, within), f"{points(d)}; about equal: within {100 * ABOUT:.0f} points")


def _both_better(comparison: Comparison) -> Verdict:
    """A joint claim: it holds if both differences do, and fails if one does."""
    differences = {"Inception-Res-PA": difference(comparison, PA, V2), "ResNeAt": difference(comparison, AT, XT)}
    evidence = "; ".join(f"{name}: {points(d)}" for name, d in differences.items())
    evidence += "; Table 3 itself has ResNeAt below ResNeXt"
    better = [name for name, d in differences.items() if above(d.runs) > 0]
    if len(better) == 2:
        return Verdict(_weakest(list(differences.values())), evidence)
    if better:
        d = differences[better[0]]
        level = "" if above(d.method) > 0 else f", in {_these(d)}"
        return Verdict(f"{claims.HOLDS_ONLY} {better[0]}{level}", evidence)
    if failed := [d for d in differences.values() if above(d.runs) < 0]:
        return Verdict(_surest(failed), evidence)
    return Verdict(_undecided(_smallest(differences.values())), evidence)


def _surest(differences: Sequence[Difference]) -> str:
    """The verdict if one of these differences is enough: for the method if any of them is decided at that level."""
    return combined(next((d for d in differences if above(d.method)), differences[0]))


def _weakest(differences: Sequence[Difference]) -> str:
    """The verdict if all of them are needed: for the method only if all of them are decided at that level."""
    return combined(next((d for d in differences if not above(d.method)), differences[0]))


def _best_and_baseline(comparison: Comparison) -> Verdict:
    """Eleven differences: all must be above zero at 95 %; one below zero, at Bonferroni's level for eleven, refutes."""
    pairs = [(m, BASE) for m in claims.SEVEN if m != BASE]
    pairs += [(SE, m) for m in claims.SEVEN if m not in (SE, BASE)]
    held = {pair: difference(comparison, *pair) for pair in pairs}
    failed = {pair: difference(comparison, *pair, intervals=len(pairs)) for pair in pairs}
    failed = {pair: d for pair, d in failed.items() if above(d.runs) < 0}
    ranked = sorted(held.items(), key=lambda item: -item[1].estimate)
    over_base = ", ".join(f"{m} {signed(d)}" for (m, other), d in ranked if other == BASE)
    of_best = ", ".join(f"{other} {signed(d)}" for (_, other), d in ranked if other != BASE)
    evidence = f"points over the baseline: {over_base}; points of SE-Net over the others: {of_best}"
    if failed:
        below = [m for m, other in failed if other == BASE]
        best = [other for _, other in failed if other != BASE]
        words = [f"below the baseline: {', '.join(below)}"] * bool(below)
        words += [f"above SE-Net: {', '.join(best)}"] * bool(best)
        return Verdict(_surest(list(failed.values())), f"{'; '.join(words)}; {evidence}")
    if all(above(d.runs) > 0 for d in held.values()):
        return Verdict(_weakest(list(held.values())), evidence)
    return Verdict(_undecided(_smallest(held.values())), evidence)


def _over_seeds(differences: Sequence[float], evidence: str) -> Verdict:
    """The verdict on a statistic of training curves that is above zero if the claim is right."""
    seeds, interval = len(differences), student(differences)
    if interval is None:
        return Verdict(f"{claims.NOT_DECIDABLE} (one seed)", evidence)
    evidence += (
        f"; mean difference {_mean(differences):+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}] for the method, of the "
        f"claimed sign in {sum(d > 0 for d in differences)} of {seeds} seeds"
    )
    open_ = f"{claims.NOT_DECIDABLE} ({seeds} seeds, interval {interval[0]:+.2f} to {interval[1]:+.2f})"
    return Verdict({1: claims.HOLDS, -1: claims.DOES_NOT_HOLD, 0: open_}[above(interval)], evidence)


def _faster(comparison: Comparison, model: str, other: str) -> Verdict:
    """Faster: a higher validation top-1, averaged over the epochs (the area under the curve)."""
    areas = [[_mean(run.curve("eval_top1")) for run in pair] for pair in comparison.pairs(model, other)]
    means = [_mean(values) for values in zip(*areas, strict=True)]
    evidence = f"mean validation top-1 over the epochs {means[0]:.1f} and {means[1]:.1f} %"
    return _over_seeds([a - b for a, b in areas], evidence)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _drops(run: FinishedRun) -> float:
    return sum(max(0.0, before - after) for before, after in pairwise(run.curve("eval_top1")))


def _steadier(comparison: Comparison) -> Verdict:
    """Steadier: a smaller sum of the drops in validation top-1 from one epoch to the next."""
    drops = [[_drops(run) for run in pair] for pair in comparison.pairs(PA, V2)]
    means = [_mean(values) for values in zip(*drops, strict=True)]
    evidence = f"sum of the drops in validation top-1: {means[0]:.1f} and {means[1]:.1f} points"
    return _over_seeds([v2 - pa for pa, v2 in drops], evidence)


def _gap(a: FinishedRun, b: FinishedRun) -> float:
    return _mean([abs(x - y) for x, y in zip(a.curve("train_loss"), b.curve("train_loss"), strict=True)])


def _like_baseline(comparison: Comparison) -> Verdict:
    """Like: the training-loss curves differ no more than those of two seeds of the same model."""
    gaps = [_gap(a, b) for a, b in comparison.pairs(V2, BASE)]
    own = [
        _gap(a, b)
        for model in (V2, BASE)
        for i, a in enumerate(comparison.runs[model])
        for b in comparison.runs[model][i + 1 :]
    ]
    evidence = f"mean distance of the training losses {_mean(gaps):.2f}"
    if not own:
        return Verdict(f"{claims.NOT_DECIDABLE} (one seed)", evidence)
    return _over_seeds(
        [max(own) - gap for gap in gaps], f"{evidence}; two seeds of one model differ by up to {max(own):.2f}"
    )
