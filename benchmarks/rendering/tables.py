"""Markdown tables from committed results: the paper's Table 3 beside ours, counts, claims."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.comparison.sets import Comparison, FinishedRun, claims, metrics

QUICK_NOTE = (
    "**This proves the path and ranks nothing**: a small drawn data set, tiny images and a few epochs. For a ranking, "
    "train longer on real photos: `timm-landmark prepare`, then `benchmarks/compare.py --data`."
)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are words, the others numbers, set to the right."""
    lines = [header, [":--" if i < left else "--:" for i in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy(runs: Sequence[FinishedRun], images: Sequence[str], k: int) -> tuple[float, float, float]:
    """Mean test top-``k`` over the seeds, with Wilson's 95 % interval at the number of test images."""
    correct = sum(sum(run.hits(k, images)) for run in runs) / len(runs)
    return correct / len(images), *metrics.wilson(correct, len(images))


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Per model: accuracies as fractions with intervals, the paper's, epochs, minutes; for tables and cards."""
    rows = []
    for model, runs in comparison.networks.items():
        name, paper_top5, paper_top1 = claims.PAPER_TABLE_3.get(model, (model, None, None))
        rows.append(
            {
                "model": model,
                "name": name,
                "paper_top1": paper_top1,
                "paper_top5": paper_top5,
                "top1": accuracy(runs, comparison.test_images, 1),
                "top5": accuracy(runs, comparison.test_images, 5),
                "n": len(comparison.test_images),
                "each": [accuracy([run], comparison.test_images, 1)[0] for run in runs],
                "epochs": min(len(run.epochs) for run in runs),
                "minutes": sum(run.info["wall_seconds"] for run in runs) / len(runs) / 60,
            }
        )
    return rows


def table_3(comparison: Comparison, counts: Mapping[str, Any], speed: Mapping[str, float], quick: bool = False) -> str:
    """The paper's Table 3 beside ours, with what the set is and what the figures can bear in the same breath.

    Args:
        comparison: The runs.
        counts: ``stated_counts.json``.
        speed: Inference img/s by model; empty where none was measured.
        quick: Whether this is the short run that ranks nothing.
    """
    header = ["model", "paper top-1", "top-1 here [95 %]", "paper top-5", "top-5 here [95 %]", "params M", "MACs G"]
    seeds = max(map(len, comparison.networks.values()), default=0) > 1
    header[3:3] = ["of each seed"] * seeds
    header += ["img/s"] * bool(speed) + ["minutes"] * quick
    rows = []
    for row in comparison_rows(comparison):
        count = counts["models"].get(row["model"])
        cells = [f"{row['name']} (`{row['model']}`)", percent(row["paper_top1"]), interval_text(row["top1"])]
        cells += [" ".join(map(percent, row["each"]))] * seeds
        cells += [percent(row["paper_top5"]), interval_text(row["top5"])]
        cells += [f"{count['params'] / 1e6:.1f}", f"{_macs(count)}"] if count else ["", ""]
        cells += [f"{speed[row['model']]:.1f}" if row["model"] in speed else ""] * bool(speed)
        cells += [f"{row['minutes']:.1f}"] * quick
        rows.append(cells)
    return f"{limits(comparison, quick)}\n\n{markdown(header, rows)}"


def _macs(count: Mapping[str, Any]) -> str:
    plain, spent = f"{count['macs'] / 1e9:.2f}", f"{count['macs_spent'] / 1e9:.2f}"
    return spent if plain == spent else f"{spent} (plain form {plain})"


def percent(value: float | None) -> str:
    """A fraction as text, in percent; empty for none."""
    return "" if value is None else f"{100 * value:.1f}"


def interval_text(value: tuple[float, float, float]) -> str:
    """A fraction and its interval as text, in percent."""
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in value))


def limits(comparison: Comparison, quick: bool = False) -> str:
    """What the data set and the training are, and what the figures can bear."""
    sizes = [sum(row["split"] == split for row in comparison.images) for split in ("train", "validation", "test")]
    runs = [run for runs in comparison.runs.values() for run in runs]
    epochs = sorted({len(run.epochs) for run in runs})
    pixels = sorted({run.args["img_size"] for run in runs})
    seeds = sorted({len(runs) for runs in comparison.runs.values()})
    text = (
        f"{len(comparison.classes)} classes, {sizes[0]} photos to train, {sizes[1]} to validate, {sizes[2]} to test; "
        f"{span(pixels)} pixels, {span(epochs)} epochs, {span(seeds)} seed{'s' * (seeds[-1] > 1)}; guessing the "
        f"largest class gives {100 * comparison.largest_class:.1f} %. The paper had 1000 classes, about 60,000 photos "
        "to train and 10,000 to test at 224 pixels: compare within a column, not the paper's with ours."
    )
    trainers = sorted({f"{run.info['trainer']['kind']} with timm {run.info['trainer']['timm']}" for run in runs})
    text += f" Trained by {', '.join(trainers)}; parameters and MACs are those at 1000 classes and 224 pixels."
    missing = [model for model in claims.SEVEN if model not in comparison.runs]
    text += f" Not trained: {', '.join(missing)}." if missing else ""
    if quick:
        return f"{QUICK_NOTE}\n\n{text.replace('photos', 'pictures', 1)}"
    return f"{text} Differences inside the intervals are not decidable here."


def span(values: Sequence[float]) -> str:
    """The first and last of sorted values as text."""
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def counts_table(counts: Mapping[str, Any]) -> str:
    """Parameters, MACs and activations of live models at 224 pixels, and the ratios of reading 4."""
    header = ["model", "params M", "without classifier M", "MACs G", "spent G", "activations M"]
    rows = [
        [
            f"`{name}`",
            f"{row['params'] / 1e6:.3f}",
            f"{row['params_without_classifier'] / 1e6:.3f}",
            f"{row['macs'] / 1e9:.3f}",
            f"{row['macs_spent'] / 1e9:.3f}",
            f"{row['activations'] / 1e6:.1f}",
        ]
        for name, row in counts["models"].items()
    ]
    ratios = ", ".join(f"{what} {100 * value:.1f} %" for what, value in claims.ratios(counts).items())
    return (
        f"{markdown(header, rows)}\n\nOne image of {counts['img_size']}x{counts['img_size']}; a MAC is one "
        "multiply-add of a convolution or matrix product (norms, pooling and activations are none), the attention unit "
        f"counted in the paper's plain form; *spent*: in the form that really runs. ResNeAt to ResNeXt: {ratios}."
    )


def card_details(model: str, counts: Mapping[str, Any]) -> str:
    """Parameters, MACs and activations of one model as a card's lines."""
    row = counts["models"][model]
    return (
        f"- Params (M): {row['params'] / 1e6:.1f}\n- GMACs: {_macs(row)}\n"
        f"- Activations (M): {row['activations'] / 1e6:.1f}\n- Image size: {counts['img_size']} x {counts['img_size']}"
    )


def card_results(model: str, comparison: Comparison | None) -> str:
    """What was measured of one model so far, for its card: accuracy with interval, and on what."""
    if comparison is None or model not in comparison.runs:
        return "Nothing has been measured yet."
    row = next(row for row in comparison_rows(comparison) if row["model"] == model)
    cells = [str(row["n"]), interval_text(row["top1"]), interval_text(row["top5"])]
    table = markdown(["photos", "top-1 [95 %]", "top-5 [95 %]"], [cells], 0)
    return f"{limits(comparison)}\n\n{table}"


def claims_table(verdicts: Mapping[int, Any]) -> str:
    """The twelve claims with verdict and evidence."""
    rows = [
        [
            str(claim.number),
            f"{claim.text} ({claim.section})",
            f"**{verdicts[claim.number].verdict}**",
            verdicts[claim.number].evidence,
        ]
        for claim in claims.CLAIMS
    ]
    return markdown(["", "the paper says (section)", "verdict", "evidence"], rows, left=4)


def shard_epochs_table(result: Mapping[str, Any]) -> str:
    """How many images of an epoch are repeated and left out where they are read from shards."""
    header = ["images: training, validation", "processes", "`--workers`"]
    header += [f"{split}: {what}" for split in ("training", "validation") for what in ("repeated", "left out")]
    rows = [
        [
            ", ".join(f"{count:,}" for count in row["images"]),
            *(str(row[key]) for key in ("processes", "workers")),
            *(f"{row[split][key]:,}" for split in ("train", "validation") for key in ("repeated", "left_out")),
        ]
        for row in result["rows"]
    ]
    batch = result["batch"]
    return (
        f"Measured: timm's reader, first epoch, a global batch of {batch} ({batch // 3 * 3} with 3 processes).\n\n"
        f"{markdown(header, rows)}"
    )
