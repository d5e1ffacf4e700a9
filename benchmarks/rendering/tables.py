"""Markdown tables of accuracies, counts, claims and shards."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.comparison.sets import Comparison, FinishedRun, claims, metrics

QUICK_NOTE = (
    "**This run only exercises the pipeline; the accuracies mean nothing.** The data set is small and synthetic, the "
    "images are tiny and training takes a few epochs. To compare the models, train longer on real photos: "
    "`timm-landmark prepare`, then `python -m benchmarks.compare --data`."
)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are aligned left, the others right."""
    lines = [header, [":--" if i < left else "--:" for i in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy(runs: Sequence[FinishedRun], images: Sequence[str], k: int) -> tuple[float, float, float]:
    """Mean test top-``k`` over the seeds, with Wilson's 95 % interval at the number of test images."""
    correct = sum(sum(run.hits(k, images)) for run in runs) / len(runs)
    # wilson declares an integer; a mean over seeds need not be one
    return correct / len(images), *metrics.wilson(correct, len(images))  # pyright: ignore[reportArgumentType]


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per model: its accuracies as fractions with intervals, the paper's, minutes of training."""
    rows = []
    for model, runs in comparison.shown.items():
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
                "each": [accuracy([run], comparison.test_images, 1)[0] for run in comparison.networks[model]],
                "minutes": sum(run.info["wall_seconds"] for run in runs) / len(runs) / 60,
            }
        )
    return rows


def table_3(comparison: Comparison, counts: Mapping[str, Any], quick: bool = False) -> str:
    """The paper's Table 3 beside our results, below a description of the data, the training and the limits.

    Args:
        comparison: The runs.
        counts: ``stated_counts.json``.
        quick: Whether this is the run of ``compare --quick``, whose accuracies mean nothing.
    """
    header = ["model", "paper top-1", "our top-1 [95 %]", "paper top-5", "our top-5 [95 %]", "params M", "MACs G"]
    seeds = max(map(len, comparison.networks.values()), default=0) > 1
    header[3:3] = ["each seed"] * seeds
    header += ["minutes"] * quick
    rows = []
    for row in comparison_rows(comparison):
        count = counts["models"].get(row["model"])
        cells = [f"{row['name']} (`{row['model']}`)", percent(row["paper_top1"]), interval_text(row["top1"])]
        cells += [" ".join(map(percent, row["each"]))] * seeds
        cells += [percent(row["paper_top5"]), interval_text(row["top5"])]
        cells += [f"{count['params'] / 1e6:.1f}", macs_text(count)] if count else ["", ""]
        cells += [f"{row['minutes']:.1f}"] * quick
        rows.append(cells)
    note = "Parameters and MACs are those with 1000 classes at 224 pixels."
    return f"{limits(comparison, quick)} {note}\n\n{markdown(header, rows)}"


def macs_text(count: Mapping[str, Any]) -> str:
    """Multiply-adds of a model in G as text: those spent and, if there are more, those as written in the paper."""
    plain, spent = f"{count['macs'] / 1e9:.2f}", f"{count['macs_spent'] / 1e9:.2f}"
    return spent if plain == spent else f"{spent} ({plain} as written)"


def percent(value: float | None) -> str:
    """A fraction as text, in percent; empty for none."""
    return "" if value is None else f"{100 * value:.1f}"


def interval_text(value: tuple[float, float, float]) -> str:
    """A fraction and its interval as text, in percent."""
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in value))


def limits(comparison: Comparison, quick: bool = False) -> str:
    """Describes the data set and the training, and how far the accuracies can be compared."""
    sizes = [sum(row["split"] == split for row in comparison.images) for split in ("train", "validation", "test")]
    runs = [run for runs in comparison.runs.values() for run in runs]
    epochs = sorted({len(run.epochs) for run in runs})
    pixels = sorted({run.args["img_size"] for run in runs})
    text = (
        f"{len(comparison.classes)} classes; {sizes[0]} training, {sizes[1]} validation and {sizes[2]} test images; "
        f"{span(pixels)} pixels, {span(epochs)} epochs, {_seeds(comparison)}. Always guessing the largest class gives "
        f"{100 * comparison.largest_class:.1f} %. The paper used 1000 classes, about 60,000 "
        "training and 10,000 test images and 224 pixels, so compare models within a column, not across columns."
    )
    trainers = sorted({f"{run.info['trainer']['kind']} (timm {run.info['trainer']['timm']})" for run in runs})
    machines = sorted({run.machine for runs in comparison.networks.values() for run in runs})
    text += f" Trained with {', '.join(trainers)} on {', '.join(machines)}."
    missing = [model for model in claims.SEVEN if model not in comparison.runs]
    text += f" Not trained: {', '.join(missing)}." if missing else ""
    if quick:
        return f"{QUICK_NOTE}\n\n{text}"
    return f"{text} If the intervals of two models overlap, this table does not rank them."


def _seeds(comparison: Comparison) -> str:
    seeds = sorted({run.seed for runs in comparison.shown.values() for run in runs})
    more = any(len(comparison.shown[model]) < len(runs) for model, runs in comparison.networks.items())
    text = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
    return f"{text} ({', '.join(map(str, seeds))}; the column *each seed* also shows further ones)" if more else text


def span(values: Sequence[float]) -> str:
    """Sorted values as text: the first and the last."""
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def counts_table(counts: Mapping[str, Any]) -> str:
    """Parameters, MACs and activations of live models at 224 pixels, and the ratios of ResNeAt to ResNeXt."""
    header = ["model", "params M", "without classifier M", "MACs G", "MACs spent G", "activations M"]
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
        f"{markdown(header, rows)}\n\nFor one image of {counts['img_size']}x{counts['img_size']} pixels. A MAC is one "
        "multiply-add of a convolution or matrix product; norms, pooling and activations are not counted. *MACs* "
        "counts the attention unit as written in the paper (the plain path), *MACs spent* counts the path that runs. "
        f"ResNeAt relative to ResNeXt: {ratios}."
    )


def card_details(model: str, counts: Mapping[str, Any]) -> str:
    """Parameters, MACs and activations of one model as lines of its card."""
    row = counts["models"][model]
    return (
        f"- Params (M): {row['params'] / 1e6:.1f}\n- GMACs: {macs_text(row)}\n"
        f"- Activations (M): {row['activations'] / 1e6:.1f}\n- Image size: {counts['img_size']} x {counts['img_size']}"
    )


def card_results(model: str, comparison: Comparison | None) -> str:
    """The accuracies of one model, with intervals, for its card."""
    if comparison is None or model not in comparison.runs:
        return "Nothing has been measured yet."
    row = next(row for row in comparison_rows(comparison) if row["model"] == model)
    cells = [str(row["n"]), interval_text(row["top1"]), interval_text(row["top5"])]
    table = markdown(["photos", "top-1 [95 %]", "top-5 [95 %]"], [cells], 0)
    return f"{limits(comparison)}\n\n{table}"


def claims_table(verdicts: Mapping[int, Any]) -> str:
    """The twelve claims of the paper with verdict and evidence."""
    rows = [
        [
            str(claim.number),
            f"{claim.text} ({claim.section})",
            f"**{verdicts[claim.number].verdict}**",
            verdicts[claim.number].evidence,
        ]
        for claim in claims.CLAIMS
    ]
    return markdown(["", "claim (section of the paper)", "verdict", "evidence"], rows, left=4)


def shard_epochs_table(result: Mapping[str, Any]) -> str:
    """How many images of an epoch are repeated and left out when they are read from shards."""
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
        f"Measured with timm's reader, first epoch, global batch {batch} ({batch // 3 * 3} with 3 processes).\n\n"
        f"{markdown(header, rows)}"
    )
