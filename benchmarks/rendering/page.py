"""A self-contained HTML page about the runs of one comparison, from its files; imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.comparison.sets import REPOSITORY, Comparison, FinishedRun, claims, without_torch
from benchmarks.rendering.tables import accuracy, limits

if TYPE_CHECKING:
    from timm_landmark.inference.pages import charts
else:
    charts = without_torch("inference/pages", "charts")

TEMPLATES = (Path(__file__).parent, REPOSITORY / "timm_landmark" / "inference" / "pages")
EVALUATION = "evaluation.html"  # written by `timm-landmark evaluate`


def write_page(comparison: Comparison, verdicts: Mapping[int, Any], path: Path, quick: bool = False) -> None:
    """Writes the page.

    Args:
        comparison: The runs, at least one.
        verdicts: Verdicts on the paper's claims, by number.
        path: The page; a run is linked if its page is in ``runs/<model>-s<seed>`` beside it.
        quick: Whether the accuracies mean nothing.
    """
    runs = [run for each in comparison.runs.values() for run in each]
    styles = {model: number for number, model in enumerate(list(comparison.runs)[: charts.STYLES])}
    drawn = [run for run in runs if run.model in styles]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.jinja").render(
        limits=limits(comparison, quick).replace("*", "").replace("`", ""),  # it is Markdown
        rows=[_row(comparison, run, path.parent) for run in runs],
        styles=styles,
        charts=[
            ("Validation top-1", _chart(drawn, styles, "eval_top1", "%", 100.0)),
            ("Training loss", _chart(drawn, styles, "train_loss", "", None)),
        ],
        claims=[(claim, verdicts[claim.number]) for claim in claims.CLAIMS if claim.number in verdicts],
    )
    path.write_text(text, encoding="utf-8")


def _row(comparison: Comparison, run: FinishedRun, folder: Path) -> dict[str, Any]:
    page = Path("runs", f"{run.model}-s{run.seed}", EVALUATION)
    return {
        "model": run.model,
        "seed": run.seed,
        "top1": accuracy([run], comparison.test_images, 1),
        "top5": accuracy([run], comparison.test_images, 5),
        "page": page.as_posix() if (folder / page).is_file() else None,
    }


def _chart(runs: list[FinishedRun], styles: Mapping[str, int], column: str, unit: str, top: float | None) -> str:
    lines = [
        charts.Line(f"{run.model}, seed {run.seed}", list(enumerate(run.curve(column), start=1)), styles[run.model])
        for run in runs
    ]
    high = top or 1.05 * max(value for line in lines for _, value in line.points)
    epochs = max(2, *(len(line.points) for line in lines))
    return charts.line_chart(f"{column} by epoch", lines, charts.Axis("epoch", 1, epochs), charts.Axis(unit, 0, high))
