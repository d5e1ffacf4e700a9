"""Figures 10 and 11 of the paper with our runs: training loss and validation top-1 by epoch, as PNG and SVG."""

from pathlib import Path

from comparison import FIGURES, Comparison, claims, figure_models
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by colour-blind readers; the dashes tell them apart in grey.
STYLES = (("#d55e00", "o-"), ("#0072b2", "s--"), ("#555555", "^:"))


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes the two figures as far as their models were trained.

    Args:
        comparison: The runs; several seeds of a model are drawn as thin lines around their mean.
        folder: Where to, made if missing.

    Returns:
        The PNG files written; each has an SVG beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (title, _) in FIGURES.items():
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
        loss.legend(frameon=False)
        figure.suptitle(f"{title} ({_what(comparison)})", fontsize=11)
        png = folder / f"{name}.png"
        figure.savefig(png, dpi=130, metadata={"Software": None})
        with rc_context({"svg.hashsalt": "timm-landmark"}):  # the same bytes for the same runs
            figure.savefig(png.with_suffix(".svg"), metadata={"Date": None})
        written.append(png)
    return written


def _curves(axes: Axes, comparison: Comparison, model: str, column: str, colour: str, dashes: str) -> None:
    curves = [run.curve(column) for run in comparison.runs[model]]
    shown = claims.PAPER_TABLE_3[model][0] if model in claims.PAPER_TABLE_3 else model
    length = min(map(len, curves))
    mean = [sum(values) / len(curves) for values in zip(*(curve[:length] for curve in curves), strict=True)]
    if len(curves) > 1:
        for curve in curves:
            axes.plot(range(1, len(curve) + 1), curve, dashes, color=colour, linewidth=0.7, markersize=2, alpha=0.5)
    axes.plot(range(1, length + 1), mean, dashes, color=colour, linewidth=2, markersize=4, label=f"{shown} ({model})")


def _what(comparison: Comparison) -> str:
    seeds = {len(runs) for runs in comparison.runs.values()}
    return f"{len(comparison.classes)} classes, {max(seeds)} seed{'s' * (max(seeds) > 1)}"
