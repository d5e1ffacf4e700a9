"""Tables of several comparisons side by side, and of the variants of the attention unit in one comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.comparison.intervals import Difference, Interval
from benchmarks.comparison.sets import Comparison, FinishedRun, claims
from benchmarks.comparison.verdicts import AT, XT, above, combined, difference, points, signed, within
from benchmarks.rendering.tables import accuracy, interval_text, limits, markdown, percent

# Number in PLAN.md and description; only variants with no more weights than the paper's unit may be chosen.
VARIANTS = {
    AT: ("1", "the paper's unit"),
    "resneat50_scale1": ("2", "Scale = 1"),
    "resneat50_mean": ("3", "one number per photo"),
    "resneat50_large": ("4", "larger initial Q, K, V"),
    "resneat50_cosine": ("5", "cosine attention"),
    "resneat50_dense": ("6", "dense last 1x1"),
    "resneat50_scale1_shuffle": ("7", "Scale = 1, shuffle"),
    "resneat50_shuffle": ("8", "the paper's unit, shuffle"),
    "resneat50_cosine_shuffle": ("9", "cosine attention, shuffle"),
}
DENSE, SCALE_1 = "resneat50_dense", "resneat50_scale1"
INERT = 0.01  # share of predictions that change with Scale replaced by its mean, below which the attention is inert
NAMES = {number: model for model, (number, _) in VARIANTS.items()} | {"ResNeXt": XT}
CONTRASTS = (
    ("gain from the paper's attention", ("1 - 2",)),
    ("gain from more than one number per photo", ("1 - 3",)),
    ("larger initial Q, K, V", ("4 - 1",)),
    ("cost of the groups in the last 1x1", ("6 - 1",)),
    ("channel shuffle", ("7 - 2", "8 - 1", "9 - 5")),
    ("rows of unit length, with the same initial weights", ("5 - 4",)),
    ("cosine attention instead of none", ("5 - 2", "9 - 7")),
    ("remaining difference to ResNeXt", tuple(f"ResNeXt - {number}" for number in "123456789")),
)


def sets_table(comparisons: Mapping[str, Comparison]) -> str:
    """The seven networks on several sets of photos, with a description of each set."""
    header = ["model", "paper top-1"]
    for title, comparison in comparisons.items():
        header += [f"{title}: top-1 [95 %]"] + ["each seed"] * _several(comparison.networks)
    models = [m for m in claims.SEVEN if any(m in comparison.runs for comparison in comparisons.values())]
    rows = []
    for model in models:
        name, _, paper = claims.PAPER_TABLE_3[model]
        row = [f"{name} (`{model}`)", percent(paper)]
        for comparison in comparisons.values():
            shown, images = comparison.shown.get(model, []), comparison.test_images
            row.append(interval_text(accuracy(shown, images, 1)) if shown else "")
            row += [_of_each(comparison.runs.get(model, []), images)] * _several(comparison.networks)
        rows.append(row)
    notes = "\n".join(f"* **{title}**: {limits(each)}{_halvings(each.networks)}" for title, each in comparisons.items())
    return f"{markdown(header, rows)}\n\n{notes}"


def _halvings(networks: Mapping[str, Sequence[FinishedRun]]) -> str:
    """When the paper's rule halved the learning rate of each run; empty if the runs used other rules."""
    found: dict[tuple[int, ...], dict[str, list[int]]] = {}
    for model, runs in networks.items():
        for run in runs:
            if run.info["rate_rule"] != "paper":
                return ""
            found.setdefault(tuple(run.halvings), {}).setdefault(model, []).append(run.seed)
    text = "; ".join(f"{_epochs(epochs)} for {_with_seeds(found[epochs])}" for epochs in sorted(found))
    return f" The paper's rule halved the learning rate before these epochs: {text}."


def _with_seeds(seeds: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"`{model}` ({_named(each)})" for model, each in seeds.items())


def _epochs(epochs: Sequence[int]) -> str:
    return _list(epochs) or "none"


def _several(runs: Mapping[str, Sequence[FinishedRun]]) -> bool:
    return any(len(each) > 1 for each in runs.values())


def _of_each(runs: Sequence[FinishedRun], images: Sequence[str]) -> str:
    return " ".join(percent(accuracy([run], images, 1)[0]) for run in runs)


def verdicts_table(verdicts: Mapping[str, Mapping[int, claims.Verdict]]) -> str:
    """The claims that need training, with verdict and evidence on each set of photos."""
    rows = [
        [
            str(claim.number),
            claim.text,
            *(f"**{judged[claim.number].verdict}**: {judged[claim.number].evidence}" for judged in verdicts.values()),
        ]
        for claim in claims.CLAIMS
        if all(claim.number in judged for judged in verdicts.values())
    ]
    return markdown(["", "claim", *verdicts], rows, left=2 + len(verdicts))


def variants(comparison: Comparison) -> list[str]:
    """The variants that were trained, with the paper's unit first."""
    return [model for model in VARIANTS if model in comparison.runs]


def choice(run: FinishedRun) -> float:
    """The criterion for choosing a variant: validation top-1, mean of the last three epochs."""
    last = run.curve("eval_top1")[-3:]
    return sum(last) / len(last)


def choices(comparison: Comparison) -> dict[str, float]:
    """The criterion of each variant that was trained with seed 0 and may be chosen."""
    first = {model: run for model in variants(comparison) for run in comparison.runs[model] if run.seed == 0}
    return {model: choice(run) for model, run in first.items() if model not in (AT, DENSE)}


def ablation_tables(comparison: Comparison) -> str:
    """The measurements of the variants, the chosen one and its confirmation; one line if none was trained."""
    if len(variants(comparison)) < 2 or AT not in comparison.runs:
        return "No variant has been trained yet."
    missing = [f"{number} ({what})" for model, (number, what) in VARIANTS.items() if model not in comparison.runs]
    parts = [_variants_table(comparison), _contrasts_table(comparison), attention(comparison)]
    parts += [_choice(comparison), *(_confirmation(comparison, model) for model in choices(comparison))]
    parts.append(f"Not trained: {', '.join(missing)}." if missing else "")
    return "\n\n".join(filter(None, parts))


def attention(comparison: Comparison) -> str:
    """What the paper's attention contributes, in the words of PLAN.md; empty unless it was trained without it too.

    Differences of the runs with seed 0, on the photos of the test split.
    """
    if any(0 not in comparison.seeds(model, SCALE_1) for model in (AT, XT)):
        return ""
    gain, groups = (difference(comparison, *pair, seeds=[0]) for pair in ((AT, SCALE_1), (SCALE_1, XT)))
    changed = next((run.scale["changed"] for run in comparison.runs[AT] if run.seed == 0 and run.scale), None)
    return (
        f"With seed 0, the paper's attention {_contribution(gain.runs, changed)}: {signed(gain)} points of test top-1 "
        "relative to the same network without it (Scale = 1). That network is ResNeXt with a grouped last "
        f"1x1 in each block; relative to ResNeXt, it has {signed(groups)} points. n = {gain.n}.{_scatter(comparison)}"
        f"{_won_back(comparison)}{_chosen_on_test(comparison)}"
    )


def _contribution(interval: Interval, changed: float | None) -> str:
    """What the difference to Scale = 1 and the share of changed predictions allow to say."""
    if sign := above(interval):
        return f"comes with a {'higher' if sign > 0 else 'lower'} accuracy"
    if within(interval) <= 0:
        return "may raise or lower the accuracy; this is not decidable here"
    inert = changed is not None and changed < INERT
    return f"{'is inert and ' * inert}contributes nothing that can be measured"


def _won_back(comparison: Comparison) -> str:
    """Which variants are not less accurate than ResNeXt, with seed 0; empty if fewer than two were trained."""
    able = [model for model in choices(comparison) if 0 in comparison.seeds(model, XT)]
    if len(able) < 2:
        return ""
    behind = {model: difference(comparison, model, XT, seeds=[0]) for model in able}
    names = {model: what for model, (_, what) in VARIANTS.items()}
    if equal := [names[model] for model, d in behind.items() if above(d.runs) >= 0]:
        return f" With seed 0, not less accurate than ResNeXt, within the interval: {', '.join(equal)}."
    closest = max(able, key=lambda model: behind[model].estimate)
    trained = "; ".join(names[model] for model in able)
    return (
        f" With seed 0, no variant trained so far ({trained}) is as accurate as ResNeXt; the closest is "
        f"{names[closest]}."
    )


def _scatter(comparison: Comparison) -> str:
    """How far seeds of one network lie apart, which the intervals of a single run do not cover."""
    images = comparison.test_images
    top1 = [[accuracy([run], images, 1)[0] for run in runs] for runs in comparison.networks.values()]
    apart = max(max(each) - min(each) for each in top1)
    return f" The seeds of one network differ by up to {100 * apart:.1f} points." if apart else ""


def _variants_table(comparison: Comparison) -> str:
    trained = {model: comparison.runs[model] for model in variants(comparison)}
    header = ["", "unit", "params M", "MACs G", "validation, last 3 epochs", "top-1 [95 %]"]
    header += ["each seed"] * _several(trained)
    header += ["rate halved before epoch", "Scale over channels", "over photos", "logits", "predictions changed"]
    rows = []
    for model, runs in trained.items():
        number, what = VARIANTS[model]
        row = [number, f"{what} (`{model}`)", *_cost(runs[0]), f"{choice(runs[0]):.1f}"]
        row.append(interval_text(accuracy(runs[:1], comparison.test_images, 1)))
        row += [_of_each(runs, comparison.test_images)] * _several(trained)
        rows.append([*row, _epochs(runs[0].halvings), *_spread(runs[0])])
    machines: dict[str, list[str]] = {}
    for model, runs in trained.items():
        machines.setdefault(runs[0].machine, []).append(VARIANTS[model][0])
    where = ", ".join(f"{machine} ({', '.join(numbers)})" for machine, numbers in machines.items())
    return (
        f"{markdown(header, rows, left=2)}\n\nFirst seed of each, trained on {where}. Parameters and MACs (plain "
        "path) with 1000 classes at 224 pixels. Standard deviations of Scale and of the logits within a row: smallest "
        "and largest of the units, before > after training. Predictions changed: by replacing every unit's Scale with "
        "its mean."
    )


def _cost(run: FinishedRun) -> list[str]:
    return [f"{run.scale['params'] / 1e6:.2f}", f"{run.scale['macs'] / 1e9:.2f}"] if run.scale else ["", ""]


def _spread(run: FinishedRun) -> list[str]:
    if not run.scale or not run.scale["trained"]:
        return [""] * 4
    cells = []
    for key in ("over_channels", "over_photos", "logits"):
        states = [[unit[key] for unit in run.scale[state] if key in unit] for state in ("untrained", "trained")]
        cells.append(" > ".join(f"{min(values):.1g}..{max(values):.1g}" for values in states if values))
    return [*cells, f"{100 * run.scale['changed']:.1f} %"]


def _contrasts_table(comparison: Comparison) -> str:
    rows = []
    for what, contrasts in CONTRASTS:
        for contrast in contrasts:
            model, other = (NAMES[number] for number in contrast.split(" - "))
            if 0 in comparison.seeds(model, other):
                one, two = next(pair for pair in comparison.pairs(model, other) if pair[0].seed == 0)
                mark = " †" * (one.halvings != two.halvings)
                rows.append([what, contrast + mark, signed(difference(comparison, model, other, seeds=[0]))])
    note = f"Test top-1, seed 0, n = {len(comparison.test_images)}; descriptive only, not used for the choice."
    if any("†" in contrast for _, contrast, _ in rows):
        note += " †: the learning rate was halved before other epochs, which may explain part of the difference."
    return f"{markdown(['', 'variants', 'points [95 %, these runs]'], rows, left=2)}\n\n{note}"


def _chosen(comparison: Comparison) -> str | None:
    """The variant that validation prefers; None if there is nothing to choose from."""
    able = choices(comparison)
    return max(able, key=able.__getitem__) if len(able) > 1 else None


def _choice(comparison: Comparison) -> str:
    """Which variant validation prefers; empty if there is nothing to choose from."""
    if not (best := _chosen(comparison)):
        return ""
    able = choices(comparison)
    what = "Chosen" if len(able) == len(VARIANTS) - 2 else "Best so far"
    numbers = ", ".join(VARIANTS[model][0] for model in able)
    return f"{what} on validation, seed 0, of {numbers}: {VARIANTS[best][0]}, {VARIANTS[best][1]} (`{best}`)."


def _new_seeds(comparison: Comparison, model: str, other: str) -> list[int]:
    """Seeds that both were trained with and that no choice was made by."""
    return [seed for seed in comparison.seeds(model, other) if seed != 0]


def _chosen_on_test(comparison: Comparison) -> str:
    """The confirmation of the variant that validation prefers, in short; empty if it was trained with seed 0 only."""
    if not (best := _chosen(comparison)) or not (seeds := _new_seeds(comparison, best, AT)):
        return ""
    statements = _statements(comparison, best)
    said = "; ".join(f"*{statement}*: {verdict}, {signed(d)}" for statement, verdict, d in statements)
    return f" The best variant on validation is {VARIANTS[best][1]}; on test with {_named(seeds)}: {said}."


def _confirmation(comparison: Comparison, model: str) -> str:
    """A variant compared with the paper's unit and with ResNeXt on test, with seeds that no choice was made by."""
    if not (seeds := _new_seeds(comparison, model, AT)):
        return ""
    said = "; ".join(f"*{text}*: **{verdict}**; {points(d)}" for text, verdict, d in _statements(comparison, model))
    compared = {each: [run for run in comparison.runs.get(each, []) if run.seed in seeds] for each in (model, AT, XT)}
    return f"`{model}` on test with {_named(seeds)}: {said}.{_halvings(compared)}"


def _statements(comparison: Comparison, model: str) -> list[tuple[str, str, Difference]]:
    """The two statements of PLAN.md on a variant: text, verdict and the difference it rests on."""
    seeds = _new_seeds(comparison, model, AT)
    d = difference(comparison, model, AT, seeds=seeds)
    if len(seeds) < 3:  # with two seeds Student's interval has one degree of freedom
        d = replace(d, method=None)
    same = all(each > 0 for each in d.seeds) or above(d.runs) <= 0
    verdict = combined(d) if same else f"{claims.NOT_DECIDABLE} (the seeds disagree in sign)"
    statements = [("better than the paper's unit", verdict, d)]
    if shared := _new_seeds(comparison, model, XT):
        d = difference(comparison, model, XT, seeds=shared)
        statements.append(("about as accurate as ResNeXt", combined(d, within), d))
    return statements


def _named(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {_list(seeds)}"


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
