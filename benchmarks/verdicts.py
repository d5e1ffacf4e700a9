"""Verdicts on the claims that need training, from the runs of one comparison; each rule is stated where it is applied.

A difference in test accuracy is judged by its 95 % interval on the same photos. With one seed a difference outside the
interval ``holds only for this run``, or fails in it: the interval knows the choice of photos, not the luck of a
training run. Curves are judged over seeds only (Student's t on the seeds' differences); with one seed they show figures
and decide nothing.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt

from comparison import Comparison, Run, claims
from intervals import Difference, T, paired_difference

ABOUT = 0.02  # claim 8: "about" equal is within 2 points, about twice the paper's own difference of 0.9
PA, V2, AT, XT, BASE = "inception_resnet_pa", "inception_resnet_v2", "resneat50", "resnext50_32x4d", "resnet50"

Verdict = claims.Verdict


def judge(comparison: Comparison) -> dict[int, Verdict]:
    """Verdicts on claims 4 to 12, by number; a claim whose models were not all trained is not decidable."""
    rules: dict[int, tuple[tuple[str, ...], Callable[[Comparison], Verdict]]] = {
        4: ((PA, V2), lambda c: _faster(c, PA, V2)),
        5: ((PA, V2), lambda c: _better(c, PA, V2)),
        6: ((PA, V2), _steadier),
        8: ((AT, XT), _about_equal),
        9: ((AT, XT), lambda c: _faster(c, AT, XT)),
        10: ((PA, V2, AT, XT), _both_better),
        11: (claims.SEVEN, _best_and_baseline),
        12: ((V2, BASE), _like_baseline),
    }
    verdicts = {7: Verdict(claims.NOT_DECIDABLE, "no pair of depths was trained")}
    for number, (models, rule) in rules.items():
        missing = [model for model in models if model not in comparison.runs]
        if missing or not comparison.seeds(*models):
            verdicts[number] = Verdict(claims.NOT_DECIDABLE, f"not trained here: {', '.join(missing) or 'same seeds'}")
        else:
            verdicts[number] = rule(comparison)
    return verdicts


def difference(comparison: Comparison, model: str, other: str, k: int = 1) -> Difference:
    """Test top-``k`` of one model minus the other's, on the same photos and over the seeds that both have."""
    images, pairs = comparison.test_images, comparison.pairs(model, other)
    return paired_difference([a.hits(k, images) for a, _ in pairs], [b.hits(k, images) for _, b in pairs])


def points(d: Difference) -> str:
    """A difference as text, in points of accuracy."""
    seeds = f"{d.seeds} seed{'s' * (d.seeds > 1)}"
    return f"{100 * d.estimate:+.1f} points [{100 * d.low:+.1f}, {100 * d.high:+.1f}], n = {d.n}, {seeds}"


def _better(comparison: Comparison, model: str, other: str) -> Verdict:
    d = difference(comparison, model, other)
    evidence = points(d) + ("" if d.p_value is None else f", McNemar p = {d.p_value:.2f}")
    if d.low > 0:
        return Verdict(_held(d), evidence)
    return Verdict(_failed(d) if d.high < 0 else _open(d), evidence)


def _held(d: Difference) -> str:
    return claims.HOLDS if d.seeds > 1 else f"{claims.HOLDS_ONLY} this run (one seed)"


def _failed(d: Difference) -> str:
    return claims.DOES_NOT_HOLD if d.seeds > 1 else f"{claims.DOES_NOT_HOLD} in this run (one seed)"


def _open(d: Difference) -> str:
    return f"{claims.NOT_DECIDABLE} (n = {d.n}, interval {100 * d.low:+.1f} to {100 * d.high:+.1f})"


def _about_equal(comparison: Comparison) -> Verdict:
    d = difference(comparison, AT, XT)
    if d.low >= -ABOUT and d.high <= ABOUT:
        return Verdict(_held(d), points(d))
    outside = d.high < -ABOUT or d.low > ABOUT
    return Verdict(_failed(d) if outside else _open(d), f"{points(d)}; about: within {100 * ABOUT:.0f} points")


def _both_better(comparison: Comparison) -> Verdict:
    pa, at = _better(comparison, PA, V2), _better(comparison, AT, XT)
    evidence = f"Inception-Res-PA: {pa.evidence}; ResNeAt: {at.evidence}; Table 3 itself has ResNeAt below ResNeXt"
    if at.verdict == pa.verdict == claims.HOLDS:
        return Verdict(claims.HOLDS, evidence)
    better = [
        name
        for name, verdict in (("Inception-Res-PA", pa), ("ResNeAt", at))
        if verdict.verdict.startswith(claims.HOLDS)
    ]
    if better:
        return Verdict(f"{claims.HOLDS_ONLY} {', '.join(better)}", evidence)
    if at.verdict.startswith(claims.DOES_NOT_HOLD):  # one that is less accurate is enough
        return Verdict(at.verdict, evidence)
    return Verdict(f"{claims.NOT_DECIDABLE} (n = {len(comparison.test_images)})", evidence)


def _best_and_baseline(comparison: Comparison) -> Verdict:
    """Seven models, eleven intervals of 95 % each: some may miss by chance, so a single one decides against only."""
    against_base = {m: difference(comparison, m, BASE) for m in claims.SEVEN if m != BASE}
    of_best = {m: difference(comparison, "seresnet50", m) for m in claims.SEVEN if m not in ("seresnet50", BASE)}
    beaten = [m for m, d in against_base.items() if d.low > 0]
    below = [m for m, d in against_base.items() if d.high < 0]
    better = [m for m, d in of_best.items() if d.high < 0]
    order = sorted(against_base, key=lambda m: -against_base[m].estimate)
    evidence = "points over the baseline: " + ", ".join(
        f"{m} {100 * d.estimate:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
        for m, d in ((m, against_base[m]) for m in order)
    )
    if below or better:
        words = [f"below the baseline: {', '.join(below)}"] * bool(below)
        words += [f"above SE-Net: {', '.join(better)}"] * bool(better)
        return Verdict(_failed(next(iter(against_base.values()))), f"{'; '.join(words)}; {evidence}")
    if len(beaten) == len(against_base) and all(d.low > 0 for d in of_best.values()):
        return Verdict(_held(next(iter(against_base.values()))), evidence)
    if beaten:
        return Verdict(f"{claims.HOLDS_ONLY} {', '.join(beaten)} over the baseline, by these runs", evidence)
    return Verdict(f"{claims.NOT_DECIDABLE} (n = {len(comparison.test_images)})", evidence)


def seed_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of a mean over seeds; none for a single seed."""
    n = len(differences)
    if n < 2:
        return None
    mean = sum(differences) / n
    spread = sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    half = T[min(n - 1, len(T)) - 1] * spread / sqrt(n)
    return mean - half, mean + half


def _over_seeds(differences: Sequence[float], evidence: str) -> Verdict:
    interval = seed_interval(differences)
    if interval is None:
        return Verdict(f"{claims.NOT_DECIDABLE} (one seed)", evidence)
    low, high = interval
    evidence += f"; mean difference over {len(differences)} seeds [{low:+.2f}, {high:+.2f}]"
    if low > 0:
        return Verdict(claims.HOLDS, evidence)
    return Verdict(claims.DOES_NOT_HOLD if high < 0 else f"{claims.NOT_DECIDABLE} ({len(differences)} seeds)", evidence)


def _faster(comparison: Comparison, model: str, other: str) -> Verdict:
    """Faster: a higher validation top-1 on average over the epochs (the area under the curve)."""
    pairs = comparison.pairs(model, other)
    areas = [(_mean(a.curve("eval_top1")), _mean(b.curve("eval_top1"))) for a, b in pairs]
    goal = 0.9 * min(max(run.curve("eval_top1")) for pair in pairs for run in pair)
    ours, its = ("/".join(str(_first_epoch(pair[i].curve("eval_top1"), goal)) for pair in pairs) for i in (0, 1))
    means = [_mean([pair[i] for pair in areas]) for i in (0, 1)]
    evidence = (
        f"mean validation top-1 over the epochs {means[0]:.1f} and {means[1]:.1f} %; "
        f"{goal:.0f} % reached in epoch {ours} and {its}"
    )
    return _over_seeds([a - b for a, b in areas], evidence)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _first_epoch(curve: Sequence[float], goal: float) -> int:
    return next(epoch for epoch, value in enumerate(curve, start=1) if value >= goal)


def _drops(run: Run) -> float:
    curve = run.curve("eval_top1")
    return sum(max(0.0, before - after) for before, after in pairwise(curve))


def _steadier(comparison: Comparison) -> Verdict:
    """Steadier: fewer points of validation top-1 lost from one epoch to the next, summed over the run."""
    pairs = [(_drops(pa), _drops(v2)) for pa, v2 in comparison.pairs(PA, V2)]
    evidence = (
        "validation top-1 lost from epoch to epoch, summed: "
        f"{_mean([a for a, _ in pairs]):.1f} and {_mean([b for _, b in pairs]):.1f} points"
    )
    return _over_seeds([v2 - pa for pa, v2 in pairs], evidence)


def _gap(a: Run, b: Run) -> float:
    return _mean([abs(x - y) for x, y in zip(a.curve("train_loss"), b.curve("train_loss"), strict=False)])


def _like_baseline(comparison: Comparison) -> Verdict:
    """Like: the mean distance of the two training-loss curves is within that of the baseline's own seeds."""
    pairs = comparison.pairs(V2, BASE)
    gap = _mean([_gap(a, b) for a, b in pairs])
    others = {
        model: _mean([_gap(a, b) for a, b in comparison.pairs(model, BASE)])
        for model in comparison.runs
        if model not in (V2, BASE) and comparison.seeds(model, BASE)
    }
    evidence = f"mean distance of training losses {gap:.2f}" + (
        f" (the others to the baseline: {min(others.values()):.2f} to {max(others.values()):.2f})" if others else ""
    )
    seeds = comparison.runs[BASE]
    if len(seeds) < 2:
        return Verdict(f"{claims.NOT_DECIDABLE} (one seed)", evidence)
    own = max(_gap(a, b) for i, a in enumerate(seeds) for b in seeds[i + 1 :])
    evidence += f"; the baseline's own seeds differ by up to {own:.2f}"
    return Verdict(claims.HOLDS if gap <= own else claims.DOES_NOT_HOLD, evidence)
