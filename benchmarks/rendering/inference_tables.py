"""Tables about trained networks in use: photos of none of their landmarks."""

from collections.abc import Mapping
from typing import Any

from benchmarks.rendering.tables import interval_text, markdown


def unknown_table(entries: Mapping[str, Any]) -> str:
    """What thresholds and unknown photos showed, from ``unknown.json``; one line if there is no entry."""
    if not entries:
        return "Not measured yet."
    header = ["trained on", "unknown photos", "top-1", "certain answers", "right of these", "AUROC"]
    header += ["accepted at 95 % recall", '"none" said of unknown', '"none" said of landmarks']
    return f"{markdown(header, [_row(*each) for each in entries.items()], left=2)}\n\n{_notes(entries)}"


def _row(name: str, entry: Mapping[str, Any]) -> list[str]:
    found, certain = entry["unknown"], entry["selective"]
    row = [f"{name} (`{entry['model']}`)", f"{entry['unknown_photos']} ({found['photos']})", _share(entry["top1"])]
    if certain and certain["answered"]:
        row += [f"{certain['answered']} of {certain['images']}", _share(certain)]
    else:
        row += ["0", ""]
    row += [interval_text((found["auroc"], *found["auroc_interval"])), f"{100 * found['fpr95']:.1f}"]
    none = found["none"]
    return row + ([_share(none["unknown"]), _share(none["landmark"])] if none else ["never", "never"])


def _share(found: Mapping[str, Any]) -> str:
    return interval_text((found["value"], *found["interval"]))


def _notes(entries: Mapping[str, Any]) -> str:
    targets = sorted({entry["thresholds"]["target_accuracy"] for entry in entries.values()})
    seeds = sorted({entry["seed"] for entry in entries.values()})
    return (
        "Percentages with 95 % intervals, on test. An answer is certain from the confidence on that gives "
        f"{' or '.join(f'{100 * target:g}' for target in targets)} % right answers on validation. "
        '"None of its landmarks" is said below a confidence chosen on validation and half of the unknown photos; the '
        f"table has the other half. One run each (seed {', '.join(map(str, seeds))})."
    )
