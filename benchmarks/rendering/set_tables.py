"""Tables of several comparisons side by side, and of the variants of the attention unit in one comparison."""

from collections.abc import Mapping, Sequence

from benchmarks.comparison.sets import Comparison, FinishedRun, claims
from benchmarks.comparison.verdicts import AT, XT, above, combined, difference, points, span, within
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
DENSE = "resneat50_dense"
NAMES = {number: model for model, (number, _) in VARIANTS.items()} | {"ResNeXt": XT}
CONTRASTS = (
    ("gain from the paper's attention", ("1 - 2",)),
    ("gain from more than one number per photo", ("1 - 3",)),
    ("larger initial Q, K, V", ("4 - 1",)),
    ("cost of the groups in the last 1x1", ("6 - 1",)),
    ("channel shuffle", ("7 - 2", "8 - 1", "9 - 5")),
    ("rows of unit length, with the same initial weights", ("5 - 4",)),
    ("cosine attention instead of none", ("5 - 2", "9 - 7")),
    (
        "remaining difference to ResNeXt",
        ("ResNeXt - 1", "ResNeXt - 2", "ResNeXt - 5", "ResNeXt - 6", "ResNeXt - 7", "ResNeXt - 9"),
    ),
)


def sets_table(comparisons: Mapping[str, Comparison]) -> str:
    """The seven networks on several sets of photos, with a description of each set."""
    header = ["model", "paper top-1"]
    for title, comparison in comparisons.items():
        header += [f"{title}: top-1 [95 %]"] + ["each seed"] * _several(comparison)
    models = [m for m in claims.SEVEN if any(m in comparison.runs for comparison in comparisons.values())]
    rows = []
    for model in models:
        name, _, paper = claims.PAPER_TABLE_3[model]
        row = [f"{name} (`{model}`)", percent(paper)]
        for comparison in comparisons.values():
            runs, images = comparison.runs.get(model, []), comparison.test_images
            row.append(interval_text(accuracy(runs, images, 1)) if runs else "")
            row += [_of_each(runs, images)] * _several(comparison)
        rows.append(row)
    notes = "\n".join(f"* **{title}**: {limits(comparison)}" for title, comparison in comparisons.items())
    return f"{markdown(header, rows)}\n\n{notes}"


def _several(comparison: Comparison) -> bool:
    return any(len(runs) > 1 for runs in comparison.networks.values())


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


def chosen(comparison: Comparison) -> str | None:
    """The best variant with seed 0 of those that may be chosen; None if none was trained."""
    first = {m: run for m in variants(comparison) for run in comparison.runs[m] if run.seed == 0}
    able = [model for model in first if model not in (AT, DENSE)]
    return max(able, key=lambda model: choice(first[model]), default=None)


def ablation_tables(comparison: Comparison) -> str:
    """The measurements of the variants, the chosen one and its confirmation; one line if none was trained."""
    best = chosen(comparison)
    if best is None or AT not in comparison.runs:
        return "No variant has been trained yet."
    missing = [f"{number} ({what})" for model, (number, what) in VARIANTS.items() if model not in comparison.runs]
    parts = [_variants_table(comparison), _contrasts_table(comparison), _confirmation(comparison, best)]
    return "\n\n".join(parts + [f"Not trained: {', '.join(missing)}."] * bool(missing))


def _variants_table(comparison: Comparison) -> str:
    header = ["", "unit", "params M", "MACs G", "validation, last 3 epochs", "top-1 [95 %]"]
    header += ["Scale over channels", "over photos", "logits", "predictions changed"]
    rows = []
    for model in variants(comparison):
        number, what = VARIANTS[model]
        run = comparison.runs[model][0]
        row = [number, f"{what} (`{model}`)", *_cost(run), f"{choice(run):.1f}"]
        rows.append([*row, interval_text(accuracy([run], comparison.test_images, 1)), *_spread(run)])
    return (
        f"{markdown(header, rows, left=2)}\n\nFirst seed of each. Parameters and MACs (plain path) with 1000 classes "
        "at 224 pixels. Standard deviations of Scale and of the logits within a row: smallest and largest of the "
        "units, before > after training. Predictions changed: by replacing every unit's Scale with its mean."
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
                d = difference(comparison, model, other, seeds=[0])
                rows.append([what, contrast, f"{100 * d.estimate:+.1f} {span(d.runs)}"])
    note = f"Test top-1, seed 0, n = {len(comparison.test_images)}; descriptive only, not used for the choice."
    return f"{markdown(['', 'variants', 'points [95 %, these runs]'], rows, left=2)}\n\n{note}"


def _confirmation(comparison: Comparison, best: str) -> str:
    text = f"Chosen on validation, seed 0: {VARIANTS[best][0]}, {VARIANTS[best][1]} (`{best}`)."
    new = {other: [seed for seed in comparison.seeds(best, other) if seed != 0] for other in (AT, XT)}
    if not new[AT]:
        return f"{text} Not confirmed yet: no other seed was trained."
    d = difference(comparison, best, AT, seeds=new[AT])
    same = all(each > 0 for each in d.seeds) or above(d.runs) <= 0
    verdict = combined(d) if same else f"{claims.NOT_DECIDABLE} (the seeds disagree in sign)"
    text += f" Better than the paper's unit, on test with seeds {_list(new[AT])}: **{verdict}**; {points(d)}."
    if new[XT]:
        d = difference(comparison, best, XT, seeds=new[XT])
        text += f" About as accurate as ResNeXt, seeds {_list(new[XT])}: **{combined(d, within)}**; {points(d)}."
    return text


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
