"""Draws figures 10 and 11 of the paper for our runs, and Scale during training, as PNG and SVG."""

from pathlib import Path

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.comparison.sets import FIGURES, Comparison, FinishedRun, claims, figure_models, figure_title, measured
from benchmarks.rendering.tables import span

# Colours of Okabe and Ito, for colour-blind readers; the dashes differ for printing in grey.
STYLES = (("#d55e00", "o-"), ("#0072b2", "s--"), ("#555555", "^:"))


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes the figures whose models were trained.

    Args:
        comparison: The runs; several seeds of a model are drawn as their mean in a band from the lowest to the highest.
        folder: Output folder, created if missing.

    Returns:
        The PNG files; an SVG file is written beside each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in FIGURES:
        models = figure_models(comparison, name)
        if not models:
            continue
        figure = Figure(figsize=(10, 4), layout="constrained")
        loss, top1 = figure.subplots(1, 2)
        for model, (colour, dashes) in zip(models, STYLES, strict=False):
            _curves(loss, comparison, model, "train_loss", colour, dashes)
            _curves(top1, comparison, model, "eval_top1", colour, dashes)
        loss.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
        top1.set(xlabel="epoch", ylabel="validation top-1 (%)")
        for axes in (loss, top1):
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
        top1.legend(frameon=False, loc="lower right", fontsize=8.5)
        figure.suptitle(f"{figure_title(models)} ({_what(comparison, models)})", fontsize=11)
        written.append(_save(figure, folder / f"{name}.png"))
    if runs := measured(comparison):
        written.append(_save(_scale(runs), folder / "scale.png"))
    return written


def _save(figure: Figure, png: Path) -> Path:
    figure.savefig(png, dpi=130, metadata={"Software": None})
    with rc_context({"svg.hashsalt": "timm-landmark"}):  # the same bytes for the same runs
        figure.savefig(png.with_suffix(".svg"), metadata={"Date": None})
    return png


def _scale(runs: list[FinishedRun]) -> Figure:
    """Standard deviation of Scale over channels and photos, for each unit, before training and after each epoch."""
    figure = Figure(figsize=(3.2 * len(runs), 6), layout="constrained")
    grid = figure.subplots(2, len(runs), sharex=True, sharey=True, squeeze=False)
    rows = (("over_channels", "from channel to channel"), ("over_photos", "from photo to photo"))
    for column, run in enumerate(runs):
        for axes, (key, what) in zip(grid[:, column], rows, strict=True):
            scale = run.scale
            assert scale is not None  # as in every run of measured()
            for index, untrained in enumerate(scale["untrained"]):
                epochs = [int(epoch) for epoch in scale["epochs"]]
                values = [untrained[key], *(units[index][key] for units in scale["epochs"].values())]
                stage = int(untrained["unit"].removeprefix("layer")[0])
                colour = colormaps["viridis"]((4 - stage) / 3.5)
                first = untrained["unit"] == f"layer{stage}.0.attn"
                axes.plot([0, *epochs], values, color=colour, linewidth=1, label=f"stage {stage}" if first else None)
            axes.set(yscale="log", ylim=(1e-6, 1))
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
            if column == 0:
                axes.set_ylabel(f"deviation of Scale\n{what}")
        grid[0, column].set_title(run.model, fontsize=10)
        grid[1, column].set_xlabel("epochs trained")
    grid[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _curves(axes: Axes, comparison: Comparison, model: str, column: str, colour: str, dashes: str) -> None:
    curves = [run.curve(column) for run in comparison.runs[model]]
    shown = claims.PAPER_TABLE_3[model][0] if model in claims.PAPER_TABLE_3 else model
    length = min(map(len, curves))
    seeds = list(zip(*(curve[:length] for curve in curves), strict=True))
    epochs = range(1, length + 1)
    label = f"{shown} ({model})"
    if len(curves) > 1:
        axes.fill_between(epochs, list(map(min, seeds)), list(map(max, seeds)), color=colour, alpha=0.2, linewidth=0)
        label += f", {len(curves)} seeds"
    mean = [sum(values) / len(values) for values in seeds]
    axes.plot(epochs, mean, dashes, color=colour, linewidth=2, markersize=4, label=label)


def _what(comparison: Comparison, models: list[str]) -> str:
    counts = sorted({len(comparison.runs[model]) for model in models})
    several = "s: mean, lowest and highest" * (counts[-1] > 1)
    return f"{len(comparison.classes)} classes, {span(counts)} seed{several}"
