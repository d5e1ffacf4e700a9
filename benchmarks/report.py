"""Renders committed results: tables in the Markdown pages, figures, and the verdicts that ``verify`` quotes.

Usage::

    python -m benchmarks.report                                           # update the repository's rendered files
    python -m benchmarks.report --check                                   # exit 1 if one of them is out of date
    python -m benchmarks.report --comparison DIR [DIR ...] --output DIR   # report.md and figures of other comparisons

Reads result files only and imports no torch. A page shows the block NAME between the marks ``<!-- table: NAME -->`` and
``<!-- /table -->``; any page may show any block.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison.consistency import check_comparison
from benchmarks.comparison.sets import REPOSITORY, RESULTS, Comparison, captions, claims, load
from benchmarks.comparison.verdicts import judge
from benchmarks.rendering.inference_tables import finetune_table, heat_maps_table, unknown_table
from benchmarks.rendering.page import write_page
from benchmarks.rendering.sentences import (
    prepare_sentence,
    scale_list,
    synthetic_sentence,
    verdict_summary,
)
from benchmarks.rendering.set_tables import ablation_tables, sets_table, variants, verdicts_table
from benchmarks.rendering.speed_tables import speed_blocks, speed_ratios
from benchmarks.rendering.tables import (
    card_details,
    card_results,
    claims_table,
    counts_table,
    shard_epochs_table,
    table_3,
)

PAGES = tuple(REPOSITORY / page for page in ("README.md", "docs/benchmarks.md", "docs/data.md", "docs/paper.md"))
CARDS = REPOSITORY / "hub_cards"
COUNTS = REPOSITORY / "timm_landmark" / "accounting" / "stated_counts.json"
RUNS = REPOSITORY / "timm_landmark" / "accounting" / "stated_runs.json"
# The sets of photos and their names, the largest first. README, cards and verdicts use the first one on which all seven
# networks were trained; the page on benchmarks shows all of them side by side.
SETS = {RESULTS / "ten": "ten landmarks", RESULTS / "photos": "twelve landmarks"}
SYNTHETIC = RESULTS / "synthetic"
SPEED = RESULTS / "speed.json"
PREPARE = RESULTS / "prepare.json"
SCALE = RESULTS / "scale.json"
SCALE_224 = RESULTS / "scale_224.json"
UNKNOWN = RESULTS / "unknown.json"
SHARD_EPOCHS = RESULTS / "shard_epochs.json"
FINETUNE = RESULTS / "finetune"
HEAT_MAPS = RESULTS / "heat_maps.json"
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


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
        parser.error("--comparison and --output must be given together")
    if args.comparison:
        try:
            return write_report(args.comparison, args.output)
        except (FileNotFoundError, ValueError) as error:
            named = " ".join(map(str, args.comparison))
            parser.error(f"--comparison {named} is not a complete comparison: {error}")
    stale = {path: text for path, text in rendered().items() if _read(path) != text}
    if args.check:
        for path in stale:
            print(f"{path.relative_to(REPOSITORY)} is out of date: run python -m benchmarks.report", file=sys.stderr)
        return 1 if stale else 0
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
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
    """The repository's comparisons with trained networks, by the name of their photos, the main one first."""
    comparisons = {title: load(path) for path, title in SETS.items() if path.is_dir()}
    return {title: comparison for title, comparison in comparisons.items() if comparison.networks}


def _main_comparison() -> tuple[str, Comparison | None]:
    comparisons = trained()
    whole = {title: each for title, each in comparisons.items() if set(claims.SEVEN) <= each.runs.keys()}
    return next(iter({**whole, **comparisons}.items()), ("", None))


def rendered() -> dict[Path, str]:
    """Every rendered text file of the repository with its up-to-date content.

    Raises:
        ValueError: If a page names an unknown block, or no page shows one of the blocks.
    """
    runs = stated_runs()
    contents = blocks(runs)
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
    if unused := set(contents) - {match[2] for text in pages.values() for match in BLOCK.finditer(text)}:
        raise ValueError(f"no page shows the block {', '.join(sorted(unused))}; add its marks to one of the pages")
    cards = sorted(CARDS.glob("*.*.md"))  # <model>.<tag>.md
    return {
        **{path: replace_blocks(text, contents, path.parent) for path, text in pages.items()},
        RUNS: json.dumps(runs, indent=2, ensure_ascii=False) + "\n",
        **{card: replace_blocks(card.read_text(encoding="utf-8"), card_blocks(card.name)) for card in cards},
    }


def replace_blocks(text: str, contents: Mapping[str, str], folder: Path = REPOSITORY) -> str:
    """Fills ``<!-- table: NAME -->`` ... ``<!-- /table -->`` with ``contents[NAME]``.

    Args:
        text: The page.
        contents: Blocks by name; their links are relative to the repository's root.
        folder: The page's folder, which the links in the page are relative to.

    Raises:
        ValueError: If the text names a block that does not exist.
    """
    up = os.path.relpath(REPOSITORY, folder).replace(os.sep, "/")

    def fill(match: re.Match[str]) -> str:
        if match[2] not in contents:
            raise ValueError(f"unknown block {match[2]}; choose from {', '.join(contents)}")
        return f"{match[1]}{_relinked(contents[match[2]], up)}\n{match[3]}"

    return BLOCK.sub(fill, text)


def _relinked(text: str, up: str) -> str:
    return text if up == "." else re.sub(r"\]\((?!https?:)", f"]({up}/", text)


def card_blocks(card: str) -> dict[str, str]:
    """The blocks of a card in ``hub_cards/``: ``details`` (counts) and ``results`` (the committed runs).

    Args:
        card: Name of its file, ``<model>.<tag>.md``.
    """
    model = card.split(".")[0]
    return {
        "details": card_details(model, _read_json(COUNTS)),
        "results": card_results(model, _main_comparison()[1]),
    }


def stated_runs() -> dict[str, Any]:
    """What training and timing showed, for ``verify``: verdicts by claim, and ResNeAt's measured speed ratios."""
    _, comparison = _main_comparison()
    verdicts = judge(comparison) if comparison else {}
    return {
        "results": "benchmarks/results",
        "claims": {str(number): verdicts[number].as_dict() for number in sorted(verdicts)},
        "speed": speed_ratios(_read_json(SPEED)),
    }


def blocks(runs: Mapping[str, Any]) -> dict[str, str]:
    """All blocks of the pages by name; links in them are relative to the repository's root.

    Args:
        runs: What :func:`stated_runs` returns.
    """
    counts, comparisons = _read_json(COUNTS), trained()
    title, comparison = _main_comparison()
    shown = {int(number): claims.Verdict(**verdict) for number, verdict in runs["claims"].items()}
    verdicts = claims.judge_all(counts, shown, runs["speed"])
    return {
        **speed_blocks(_read_json(SPEED), counts),
        **set_blocks(comparisons),
        "results": _results(comparison, title, counts),
        "verdict_summary": verdict_summary(verdicts, comparison, title),
        "counts": counts_table(counts),
        "claims": claims_table(verdicts),
        "figures": "\n".join(
            _picture(comparison, name, f", {title}")
            for title, comparison in comparisons.items()
            for name in captions(comparison)
        ),
        "scale": _scales(comparisons),
        "unknown": unknown_table(_read_json(UNKNOWN) if UNKNOWN.exists() else {}),
        "prepare": prepare_sentence(_read_json(PREPARE)),
        "finetune": finetune_table([_read_json(path) for path in sorted(FINETUNE.glob("*.json"), reverse=True)]),
        "heat_maps": heat_maps_table(_read_json(HEAT_MAPS)),
        "shard_epochs": shard_epochs_table(_read_json(SHARD_EPOCHS)),
        "synthetic": synthetic_sentence(
            _read_json(SYNTHETIC / "resnet50-s0" / "run.json"), _read_json(SYNTHETIC / "nearest_neighbour.json")
        ),
    }


def set_blocks(comparisons: Mapping[str, Comparison]) -> dict[str, str]:
    """Blocks on any number of comparisons: accuracies and verdicts side by side, variants of the attention unit."""
    ablations = [
        f"On the {title}:\n\n{ablation_tables(comparison)}"
        for title, comparison in comparisons.items()
        if len(variants(comparison)) > 1
    ]
    return {
        "sets": sets_table(comparisons),
        "verdicts": verdicts_table(
            {title: judge(each) for title, each in comparisons.items() if len(each.networks) > 1}
        ),
        "ablations": "\n\n".join(ablations) or "No variant has been trained yet.",
    }


def _results(comparison: Comparison | None, title: str, counts: Mapping[str, Any]) -> str:
    if comparison is None:
        return "No network has been trained yet."
    pictures = [_picture(comparison, name) for name in captions(comparison) if name == "figure-11"]
    where = f"Photos of {title} ([which ones](docs/benchmarks.md#the-seven-networks))"
    return "\n\n".join([f"{where}: {table_3(comparison, counts)}", *pictures])


def _picture(comparison: Comparison, name: str, title: str = "") -> str:
    path = comparison.path / "figures" / f"{name}.png"
    return f"![{captions(comparison)[name]}{title}]({path.relative_to(REPOSITORY).as_posix()})"


def _scales(comparisons: Mapping[str, Comparison]) -> str:
    runs = {title: comparison.runs.get("resneat50", [])[:1] for title, comparison in comparisons.items()}
    measures = {title: run.scale for title, first in runs.items() for run in first if run.scale}
    measures.setdefault(SETS[RESULTS / "photos"], _read_json(SCALE))
    return scale_list(measures, _read_json(SCALE_224) if SCALE_224.exists() else None)


def write_report(folders: Sequence[Path], output: Path, quick: bool = False) -> int:
    """Writes ``report.md`` and figures of one collected comparison, or of several side by side, into ``output``.

    For one comparison, also ``report.html``.
    """
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
    contents = set_blocks(comparisons)
    if alone:
        counts, comparison = _read_json(COUNTS), comparisons[folders[0].name]
        verdicts = claims.judge_all(counts, judge(comparison), {})
        write_page(comparison, verdicts, output / "report.html", quick)
        contents |= {"sets": table_3(comparison, counts, quick), "verdicts": claims_table(verdicts)}
    parts = ["# Comparison of the trained networks", contents["sets"], *pictures]
    parts += ["## The paper's claims", contents["verdicts"]]
    parts += ["## Variants of the attention unit", contents["ablations"]]
    (output / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
