"""Tables about trained networks in use: unknown photos, heat maps, fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.rendering.tables import interval_text, markdown, percent


def unknown_table(entries: Mapping[str, Any]) -> str:
    """What thresholds and unknown photos showed, from ``unknown.json``; one line if there is no entry."""
    if not entries:
        return "Not measured yet."
    header = ["trained on", "unknown photos", "top-1", "certain answers", "right of these", "AUROC"]
    header += ["unknown accepted at 95 % recall", '"none" said of unknown', '"none" said of landmarks']
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
        "Percentages with 95 % intervals, on test. An answer is certain if its confidence is at least the threshold "
        f"above which {' or '.join(f'{100 * target:g}' for target in targets)} % of the answers on validation are "
        'right. "None of its landmarks" is said below a second threshold, chosen on validation and half of the unknown '
        "photos; the last two columns are measured on test and the other half. *Never*: no threshold reached the "
        "target. AUROC and the accepted photos are measured on all unknown photos. One run each (seed "
        f"{', '.join(map(str, seeds))})."
    )


def finetune_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Networks that were fine-tuned, beside the same networks trained from scratch, from ``finetune.py``."""
    results = [result for result in results if "difference" in result]
    if not results:
        return "No network has been fine-tuned yet."
    header = ["model", "fine-tuned: top-1 [95 %]", "from scratch: top-1 [95 %]", "difference in points [95 %]"]
    rows = []
    for result in results:
        shares = [result["runs"][kind]["test_top1"] for kind in ("finetune", "scratch")]
        cells = [interval_text((share["value"], *share["interval"])) for share in shares]
        gain = result["difference"]
        low, high = (f"{100 * bound:+.1f}" for bound in gain["interval"])
        rows.append([f"`{result['model']}`", *cells, f"{100 * gain['value']:+.1f} [{low}, {high}]"])
    first, dataset = results[0], results[0]["dataset"]
    images, release = dataset["images"], f" of {dataset['release']}" if dataset["release"] else ""
    tuned, scratch, source = first["runs"]["finetune"], first["runs"]["scratch"], first["source"]
    text = (
        f"{dataset['classes']} classes{release}; {images['train']} training, "
        f"{images['validation']} validation and {images['test']} test images; {tuned['img_size']} pixels, "
        f"{tuned['epochs']} epochs, one seed. Fine-tuned: `{tuned['recipe']}`, from the network trained for "
        f"{source['epochs']} epochs on {source['num_classes']} other landmarks. From scratch: `{scratch['recipe']}`. "
        "The intervals of the accuracies are Wilson intervals, those of the differences are from a paired bootstrap "
        "over the photos. They do not cover other seeds or sources."
    )
    return f"{text}\n\n{markdown(header, rows)}"


def heat_maps_table(result: Mapping[str, Any]) -> str:
    """How much of the heat lies on procedural landmarks, from ``heat_maps.json``."""
    seeds = [each["ratio"]["value"] for each in result["random"]["seeds"]]
    top1 = (result["top1"]["value"], *result["top1"]["interval"])
    rows = []
    for name, found in (("trained", result["trained"]), (f"random, {len(seeds)} seeds", result["random"])):
        ratio, difference = (found[key] for key in ("ratio", "difference"))
        low, high = (100 * bound for bound in difference["interval"])
        rows.append(
            [
                name,
                *(percent(found[key]) for key in ("heat", "area")),
                "{:.2f} [{:.2f}, {:.2f}]".format(ratio["value"], *ratio["interval"]),
                percent(found["heat_of_other_photos"]),
                f"{100 * difference['value']:+.1f} [{low:+.1f}, {high:+.1f}]",
            ]
        )
    header = ["weights", "heat on the landmark %", "its area %", "ratio", "on other photos' landmarks %", "difference"]
    return (
        f"`{result['model']}`, {result['epochs']} epochs at {result['img_size']} pixels on {result['data']['classes']} "
        f"generated landmarks, {result['photos']} {result['split']} photos ({interval_text(top1)} % top-1), "
        f"Grad-CAM of the first guess at `{result['layer']}`. With random weights the ratio is {min(seeds):.2f} to "
        f"{max(seeds):.2f}, depending on the seed.\n\n{markdown(header, rows)}"
    )
