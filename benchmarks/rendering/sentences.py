"""Blocks of text from committed results: the summary of the verdicts, and results that fit in a sentence or two."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.comparison.sets import Comparison, claims
from benchmarks.comparison.verdicts import seeds_compared
from benchmarks.rendering.set_tables import attention
from benchmarks.rendering.tables import span

# The most specific first: every verdict begins with one of these.
GROUPS = {
    claims.HOLDS_ONLY: "Holds in part",
    claims.HOLDS: "Holds",
    claims.DOES_NOT_HOLD: "Does not hold",
    claims.NOT_DECIDABLE: "Not decidable here",
}


CONSTANT = 0.01  # Scale is called constant if both deviations are below this in every unit
BATCH_STATISTICS = (
    " BatchNorm uses the statistics of the batch, because after so few updates its running statistics are not yet "
    "those of its inputs."
)
DEVIATIONS = ("over_channels", "over_photos")


def verdict_summary(verdicts: Mapping[int, claims.Verdict], comparison: Comparison | None, title: str) -> str:
    """The paper's claims by verdict as a short Markdown list, the attention's share, and what the verdicts rest on.

    Args:
        verdicts: Verdicts on all claims, by number.
        comparison: The runs that they rest on; None if no network was trained.
        title: Name of the photos of the comparison.
    """
    grouped: dict[str, list[str]] = {name: [] for name in ("Holds", *GROUPS.values())}
    for claim in claims.CLAIMS:
        verdict = verdicts[claim.number].verdict
        start = next(start for start in GROUPS if verdict.startswith(start))
        detail = verdict.removeprefix(start).strip(" ,")
        if detail.startswith("(") and detail.endswith(")"):
            detail = detail[1:-1]
        detail = f"{'only for ' * (start == claims.HOLDS_ONLY)}{detail}".replace(" (one seed)", "")
        grouped[GROUPS[start]].append(f"*{claim.text}* ({': '.join(filter(None, (str(claim.number), detail)))})")
    lines = [f"* **{name}**: {'; '.join(members)}." for name, members in grouped.items() if members]
    if comparison and (measured := attention(comparison)):
        lines.append(f"* **The attention itself**: {measured[0].lower()}{measured[1:]}")
    return "\n".join([*lines, f"* {_basis(comparison, title)}"])


def _basis(comparison: Comparison | None, title: str) -> str:
    numbers = "The numbers are those of the claims in [docs/paper.md](docs/paper.md), which has the evidence."
    if comparison is None:
        return f"No network has been trained yet. {numbers}"
    seeds = seeds_compared(comparison) or [0]
    epochs = sorted({len(run.epochs) for runs in comparison.networks.values() for run in runs})
    return (
        f"Verdicts that need training rest on photos of {title} ({len(comparison.test_images)} test photos) and "
        f"{span(seeds)} seed{'s' * (seeds[-1] != 1)} per network, trained for {span(epochs)} epochs; the paper used "
        f"1000 landmarks. {numbers}"
    )


def prepare_sentence(cost: Mapping[str, Any]) -> str:
    """What ``prepare`` costs, from ``prepare.json``."""
    selection, tar, rate = cost["selection"], cost["tar"], cost["workers"]["photos_per_second"]
    some, every = selection["paper_1000_classes_ratio_0.1"], selection["all_203094_classes"]
    return (
        f"Measured on two cores: selecting 1000 classes from a csv of {selection['rows']:,} rows takes "
        f"{some['seconds']:.0f} s and {some['peak_MB']} MB (all {selection['classes']:,} classes: "
        f"{every['seconds']:.0f} s and {every['peak_MB']} MB). Indexing a tar of {tar['members']:,} members takes "
        f"{tar['index_seconds']:.1f} s. Two workers store {rate:.0f} photos of 800x600 pixels per second: 80,000 local "
        f"photos take {80_000 / rate / 60:.0f} minutes."
    )


def synthetic_sentence(run: Mapping[str, Any], neighbours: Mapping[str, Any]) -> str:
    """How hard the synthetic landmarks are: a trained network compared with the nearest neighbour in pixels.

    Args:
        run: ``run.json`` of the network.
        neighbours: ``nearest_neighbour.json``.
    """
    top1 = run["evaluation"]["test"]["top1"]
    low, high = (100 * bound for bound in top1["interval"])
    return (
        f"On {run['num_classes']} generated landmarks, `{run['model']}` trained for {run['epochs']} epochs at "
        f"{run['img_size']} pixels reaches {100 * top1['value']:.1f} % [{low:.1f}, {high:.1f}] test top-1; the nearest "
        f"neighbour in 16x16 pixels reaches {100 * neighbours['pixels']['value']:.1f} %."
    )


def scale_list(measures: Mapping[str, Mapping[str, Any]], at_224: Mapping[str, Any] | None) -> str:
    """How ResNeAt's Scale varies, by the name of the photos, and at 224 pixels; from files that ``scale.py`` wrote."""
    sentences = [f"**{photos}**: {scale_sentence(result)}" for photos, result in measures.items()]
    return "\n".join(f"* {each}" for each in [*sentences, *([scale_224_sentence(at_224)] if at_224 else [])])


def scale_sentence(result: Mapping[str, Any]) -> str:
    """How Scale varies before and after training, from a ``scale.json``."""

    def spread(state: str, key: str) -> list[float]:
        return [unit[key] for unit in result[state]]

    still = max(max(spread("untrained", key)) for key in DEVIATIONS)
    channels, photos = (spread("trained", key) for key in DEVIATIONS)
    return (
        f"Before training, Scale {_constant(result['untrained'])}: its mean is "
        f"{sum(spread('untrained', 'mean')) / len(channels):.3f}, and its standard deviation over channels or photos "
        f"at most {still:.1g} in any unit. After training (`{result['run']}`, {result['photos']} {result['split']} "
        f"photos), it {_constant(result['trained'])}: its standard deviation over the channels is {min(channels):.3f} "
        f"to {max(channels):.3f}, depending on the unit, and over the photos {min(photos):.4f} to {max(photos):.4f}."
        f"{_changed(result)}"
    )


def _constant(units: Sequence[Mapping[str, Any]]) -> str:
    """The word of PLAN.md for a Scale that hardly varies in any unit."""
    return "is constant" if all(unit[key] < CONSTANT for unit in units for key in DEVIATIONS) else "is not constant"


def _changed(result: Mapping[str, Any]) -> str:
    if "changed" not in result:
        return ""
    return f" Replacing every unit's Scale by its mean changes {100 * result['changed']:.1f} % of the predictions."


def scale_224_sentence(result: Mapping[str, Any]) -> str:
    """How little Scale varies at the paper's image size, before training and after one epoch, from a ``scale.json``."""

    def most(state: str, key: str) -> str:
        return f"{max(unit[key] for unit in result[state]):.1g}"

    before, after = (
        f"{most(state, 'over_channels')} over the channels and {most(state, 'over_photos')} over the photos"
        for state in ("untrained", "trained")
    )
    return (
        f"At the paper's 224 pixels, the standard deviation of Scale in any unit is at most {before} before training, "
        f"and at most {after} after one epoch on the twelve landmarks ({result['photos']} {result['split']} photos)."
        f"{_changed(result)}{BATCH_STATISTICS * bool(result.get('batch_statistics'))}"
    )
