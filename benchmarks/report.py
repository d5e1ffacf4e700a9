"""Renders committed results: tables between their marks, figures, and the verdicts that ``verify`` quotes.

Usage::

    python -m benchmarks.report                                   # update the repository's rendered files
    python -m benchmarks.report --check                           # exit 1 if one differs from a fresh render
    python -m benchmarks.report --comparison DIR [DIR ...] --output DIR     # report.md and figures of any comparisons

Reads files only and imports no torch.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison.results_schema import check_comparison
from benchmarks.comparison.sets import FIGURES, REPOSITORY, RESULTS, Comparison, claims, figure_models, load, measured
from benchmarks.comparison.verdicts import judge
from benchmarks.rendering.set_tables import ablation_tables, sets_table, variants, verdicts_table
from benchmarks.rendering.speed_tables import speed_block, speed_ratios, throughput
from benchmarks.rendering.tables import (
    card_details,
    card_results,
    claims_table,
    counts_table,
    shard_epochs_table,
    table_3,
)

README = REPOSITORY / "README.md"
BENCHMARKS_PAGE = REPOSITORY / "docs" / "benchmarks.md"
CARDS = REPOSITORY / "hub_cards"
COUNTS = REPOSITORY / "timm_landmark" / "accounting" / "stated_counts.json"
RUNS = REPOSITORY / "timm_landmark" / "accounting" / "stated_runs.json"
# What the sets of photos are called. The first that networks were trained on is the one that README, cards and verdicts
# rest on; all stand side by side on the benchmarks' page.
SETS = {RESULTS / "ten": "ten landmarks", RESULTS / "photos": "twelve landmarks"}
SYNTHETIC = RESULTS / "synthetic"
PREPARE = RESULTS / "prepare.json"
SCALE = RESULTS / "scale.json"
DATA_PAGE = REPOSITORY / "docs" / "data.md"
SHARD_EPOCHS = RESULTS / "shard_epochs.json"


def main(argv: list[str] | None = None) -> int:
    """Renders, or checks what is rendered; returns the exit code."""
    parser = argparse.ArgumentParser(prog="report.py", description="Render tables and figures from committed results.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a rendered file is out of date")
    parser.add_argument(
        "--comparison", type=Path, nargs="+", metavar="DIR", help="collected comparisons, instead of the repository's"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="with --comparison: folder for report.md and figures"
    )
    args = parser.parse_args(argv)
    if (args.comparison is None) != (args.output is None):
        parser.error("--comparison and --output go together")
    if args.comparison:
        try:
            return write_report(args.comparison, args.output)
        except (FileNotFoundError, ValueError) as error:
            named = " ".join(map(str, args.comparison))
            parser.error(f"--comparison {named} is no whole comparison: {error}")
    stale = [path for path, text in rendered().items() if _read(path) != text]
    if args.check:
        for path in stale:
            print(f"{path.relative_to(REPOSITORY)} is out of date: run python -m benchmarks.report", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(rendered()[path], encoding="utf-8")
        print(f"updated {path.relative_to(REPOSITORY)}")
    from benchmarks.rendering.figures import draw

    for comparison in trained().values():
        draw(comparison, comparison.path / "figures")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def trained() -> dict[str, Comparison]:
    """The repository's comparisons in which networks were trained, by the name of their photos, in order of weight."""
    comparisons = {title: load(path) for path, title in SETS.items() if path.is_dir()}
    return {title: comparison for title, comparison in comparisons.items() if comparison.networks}


def _main_comparison() -> Comparison | None:
    return next(iter(trained().values()), None)


def rendered() -> dict[Path, str]:
    """Every rendered text file of the repository and what it must hold."""
    runs = stated_runs()
    cards = sorted(CARDS.glob("*.*.md"))  # <model>.<tag>.md
    return {
        README: replace_blocks(README.read_text(encoding="utf-8"), blocks(runs)),
        DATA_PAGE: replace_blocks(
            DATA_PAGE.read_text(encoding="utf-8"), {"shard_epochs": shard_epochs_table(_read_json(SHARD_EPOCHS))}
        ),
        BENCHMARKS_PAGE: replace_blocks(
            BENCHMARKS_PAGE.read_text(encoding="utf-8"), {**set_blocks(trained()), "figures": _set_figures()}
        ),
        RUNS: json.dumps(runs, indent=2, ensure_ascii=False) + "\n",
        **{
            card: replace_blocks(card.read_text(encoding="utf-8"), card_blocks(card.name.split(".")[0]))
            for card in cards
        },
    }


def card_blocks(model: str) -> dict[str, str]:
    """The tables of a model's card in ``hub_cards/``: ``details`` (counts) and ``results`` (the committed runs)."""
    return {
        "details": card_details(model, _read_json(COUNTS)),
        "results": card_results(model, _main_comparison()),
    }


def set_blocks(comparisons: Mapping[str, Comparison]) -> dict[str, str]:
    """The tables of the benchmarks' page: all sets of photos side by side, and the variants of the attention unit."""
    return {
        "sets": sets_table(comparisons),
        "verdicts": verdicts_table({title: judge(comparison) for title, comparison in comparisons.items()}),
        "ablations": "\n\n".join(
            f"On {title}. {ablation_tables(comparison)}"
            for title, comparison in comparisons.items()
            if len(variants(comparison)) > 1
        )
        or "No variant has been trained yet.",
    }


def _set_figures() -> str:
    shown = [(title, name, path) for title, comparison in trained().items() for name, path in _figures(comparison)]
    return "\n".join(
        f"![{_caption(name)}, {title}]({Path(os.path.relpath(path, BENCHMARKS_PAGE.parent)).as_posix()})"
        for title, name, path in shown
    )


def _figures(comparison: Comparison) -> list[tuple[str, Path]]:
    """Name and file of the figures that ``figures.draw`` makes of a comparison."""
    names = [name for name in FIGURES if figure_models(comparison, name)]
    names += ["scale"] * bool(measured(comparison))
    return [(name, comparison.path / "figures" / f"{name}.png") for name in names]


def _caption(name: str) -> str:
    if name not in FIGURES:
        return "Deviation of Scale by unit over training"
    return f"Training loss and validation top-1: {FIGURES[name][0]}"


def stated_runs() -> dict[str, Any]:
    """What training and timing showed, for ``verify``: verdicts by claim, and ResNeAt's measured speed ratios."""
    comparison = _main_comparison()
    verdicts = judge(comparison) if comparison else {}
    speed = _speed()
    return {
        "results": "benchmarks/results",
        "claims": {str(number): verdicts[number].as_dict() for number in sorted(verdicts)},
        "speed": speed_ratios(speed) if speed else {},
    }


def _speed() -> dict[str, Any] | None:
    path = RESULTS / "speed.json"
    return _read_json(path) if path.exists() else None


def blocks(runs: Mapping[str, Any]) -> dict[str, str]:
    """The README's tables by the name in their marks."""
    counts = _read_json(COUNTS)
    speed = _speed()
    shown = {int(number): claims.Verdict(**verdict) for number, verdict in runs["claims"].items()}
    return {
        "photos": _photos(counts, throughput(speed) if speed else {}),
        "counts": counts_table(counts),
        "claims": claims_table(claims.judge_all(counts, shown, runs["speed"])),
        "speed": speed_block(speed, counts) if speed else "No timings are committed yet.",
        "prepare": _prepare(),
        "synthetic": _synthetic(),
        "scale": _scale(),
    }


def _prepare() -> str:
    """What ``prepare`` costs, in a sentence or two."""
    cost = _read_json(PREPARE)
    selection, tar = cost["selection"], cost["tar"]
    some, every = selection["paper_1000_classes_ratio_0.1"], selection["all_203094_classes"]
    rates = cost["workers"]["on_disk"]["photos_per_second"]
    return (
        f"Measured on two cores: 1000 classes selected from a csv of {selection['rows']:,} rows in "
        f"{some['seconds']:.0f} s and {some['peak_MB']} MB (all {selection['classes']:,} classes: "
        f"{every['seconds']:.0f} s, {every['peak_MB']} MB); a tar of {tar['members']:,} members indexed in "
        f"{tar['seconds']['index_first_time']:.1f} s; 800-pixel photos at {rates['two_workers']:.0f} a second with two "
        f"workers, so 80,000 in {80_000 / rates['two_workers'] / 60:.0f} minutes once they are at hand."
    )


def _synthetic() -> str:
    """How hard the drawn landmarks are: a trained network beside the nearest neighbours in pixels."""
    run = _read_json(SYNTHETIC / "resnet50-s0" / "run.json")
    neighbours = _read_json(SYNTHETIC / "nearest_neighbour.json")
    top1 = run["evaluation"]["test"]["top1"]
    low, high = (100 * bound for bound in top1["interval"])
    return (
        f"They are learned, not looked up: `resnet50`, trained for {run['epochs']} epochs at {run['img_size']} pixels "
        f"in batches of {run['global_batch']}, names {100 * top1['value']:.1f} % [{low:.1f}, {high:.1f}] of the test "
        f"pictures of {run['num_classes']} classes, the nearest neighbour in 16x16 pixels "
        f"{100 * neighbours['pixels']['value']:.1f} %."
    )


def _scale() -> str:
    """What ResNeAt's attention did in a committed run, in a sentence or two."""
    comparison = _main_comparison()
    runs = comparison.runs.get("resneat50", []) if comparison else []
    result = next((run.scale for run in runs if run.scale), None) or _read_json(SCALE)

    def spread(form: str, key: str) -> list[float]:
        return [unit[key] for unit in result[form]]

    still = max(max(spread("untrained", key)) for key in ("over_channels", "over_photos"))
    channels, photos = (spread("trained", key) for key in ("over_channels", "over_photos"))
    return (
        f"Before training, Scale is {sum(spread('untrained', 'mean')) / len(channels):.3f} for every channel and photo "
        f"(standard deviation at most {still:.1g} in any unit): timm's initialisation leaves Q and K near zero and the "
        f"attention uniform. After the run above it differs from channel to channel by {min(channels):.3f} to "
        f"{max(channels):.3f}, by unit, and for one channel from photo to photo by {min(photos):.4f} to "
        f"{max(photos):.4f} (standard deviations, {result['photos']} {result['split']} photos)."
    )


def _photos(counts: Mapping[str, Any], speed: Mapping[str, float]) -> str:
    comparison = _main_comparison()
    if comparison is None:
        return "No runs are committed yet."
    figures = "\n".join(
        f"![{_caption(name)}](benchmarks/results/{comparison.path.name}/figures/{path.name})"
        for name, path in _figures(comparison)
        if name in FIGURES
    )
    return f"{table_3(comparison, counts, speed)}\n\n{figures}".rstrip()


def replace_blocks(text: str, contents: Mapping[str, str]) -> str:
    """Fills ``<!-- table: NAME -->`` ... ``<!-- /table -->`` with ``contents[NAME]``.

    Raises:
        ValueError: If a mark has no content or a content no mark, so that neither is lost unseen.
    """
    pattern = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
    marks = [match[2] for match in pattern.finditer(text)]
    if sorted(marks) != sorted(contents):
        raise ValueError(f"marks {', '.join(marks)} in the text, but tables {', '.join(contents)}")
    return pattern.sub(lambda match: f"{match[1]}{contents[match[2]]}\n{match[3]}", text)


def write_report(folders: Sequence[Path], output: Path, quick: bool = False) -> int:
    """Writes ``report.md`` and figures of one collected comparison, or of several side by side, into ``output``."""
    from benchmarks.rendering.figures import draw

    for folder in folders:
        check_comparison(folder)
    comparisons = {folder.name: load(folder) for folder in folders}
    alone = len(comparisons) == 1
    output.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, comparison in comparisons.items():
        drawn = draw(comparison, output / "figures" / ("" if alone else name))
        pictures += [f"![{png.stem}]({png.relative_to(output).as_posix()})" for png in drawn]
    blocks = set_blocks(comparisons)
    if alone:
        counts = _read_json(COUNTS)
        verdicts = claims.judge_all(counts, judge(comparison), {})
        blocks |= {"sets": table_3(comparison, counts, {}, quick), "verdicts": claims_table(verdicts)}
    parts = ["# Comparison", blocks["sets"], *pictures, "## Claims", blocks["verdicts"]]
    parts += ["## Variants of the attention unit", blocks["ablations"]]
    (output / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
