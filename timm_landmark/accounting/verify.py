"""``timm-landmark verify``: counts the models and compares each claim of the paper with the counts."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from timm_landmark.accounting.claims import CLAIMS, PAPER_UNITS, Verdict, judge_all, paper_table_1, ratios
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_json
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import say

HERE = Path(__file__).parent
STATED_COUNTS = HERE / "stated_counts.json"  # the counts that the repository states; written by --write-stated
STATED_RUNS = HERE / "stated_runs.json"  # results of training and timing; written by benchmarks/report.py


@dataclass(frozen=True)
class ExpectedCount:
    """A count and the value that it must equal."""

    what: str
    counted: Any
    expected: Any

    @property
    def equal(self) -> bool:
        """Whether the two are equal."""
        return self.counted == self.expected


def main(argv: list[str]) -> int:
    """Runs the command; returns 1 if a count differs from the paper's formulas or the stated counts, else 0.

    Raises:
        UserError: For a mistake in the options.
    """
    args = _parser().parse_args(argv)
    if args.img_size is not None and not args.models:
        raise UserError(
            f"--img-size {args.img_size}: the claims are verified at 224 pixels, as in Table 1; give model names to "
            "count at another size"
        )
    if args.img_size is not None and args.img_size < 1:
        raise UserError(f"--img-size {args.img_size}: give a number of pixels, 1 or more")
    if args.write_stated and args.models:
        raise UserError(f"--write-stated {args.write_stated}: cannot be combined with model names; leave them out")
    if args.write_stated and not args.write_stated.parent.is_dir():
        raise UserError(f"--write-stated {args.write_stated}: no folder {args.write_stated.parent}; create it first")
    return _count_named(args) if args.models else _verify(args)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="timm-landmark verify",
        description="Count parameters and multiply-adds of live models and compare the paper's claims with them.",
        epilog="exit code: 0 if all counts are as stated, 1 if a count differs, 2 for invalid options",
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="timm models to count instead of the comparison")
    parser.add_argument(
        "--img-size", type=int, metavar="P", help="image size of the named models (default: each model's own)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--write-stated", type=Path, metavar="FILE", help="for maintainers: write the stated counts to FILE"
    )
    return parser


def _count_named(args: argparse.Namespace) -> int:
    from timm_landmark.accounting.macs import count_model

    rows = [count_model(name, args.img_size).as_dict() for name in args.models]
    say(*(_json_lines({"models": rows}) if args.json else _model_lines(rows)))
    return 0


def _verify(args: argparse.Namespace) -> int:
    say("counting eight models at 224 pixels ...", file=sys.stderr)
    from timm_landmark.accounting import units

    counts = units.paper_counts()
    if args.write_stated:
        write_json(args.write_stated, counts)
    compared = compare_counts(counts, _read(STATED_COUNTS))
    verdicts = judge(counts, _read(STATED_RUNS))
    say(*(_json_lines(_as_json(counts, compared, verdicts)) if args.json else _text(counts, compared, verdicts)))
    return 0 if all(each.equal for each in compared) else 1


def _json_lines(value: dict[str, Any]) -> list[str]:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).split("\n")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def compare_counts(counts: dict[str, Any], stated: dict[str, Any]) -> list[ExpectedCount]:
    """Compares the counts with the paper's units and Table 1, closed formulas, torch's counter and the stated counts.

    Args:
        counts: The result of :func:`timm_landmark.accounting.units.paper_counts`.
        stated: The same, as committed; a count that is missing from it is a difference.
    """
    from timm_landmark.accounting.units import LAYERS, closed_form

    models = counts["models"]
    compared = [
        ExpectedCount(f"unit of {name}, as in 3.2.4", counts["units"][name], n) for name, n in PAPER_UNITS.items()
    ]
    table = paper_table_1()
    compared += [
        ExpectedCount(f"{name}, {stage} of Table 1", counts["table_1"][name][stage], text)
        for name, stages in table.items()
        for stage, text in stages.items()
    ]
    for name in LAYERS:
        params, macs = closed_form(name)
        compared.append(ExpectedCount(f"{name}: parameters by the closed formula", models[name]["params"], params))
        compared.append(ExpectedCount(f"{name}: MACs by the closed formula", models[name]["macs"], macs))
    pa, v2 = models["inception_resnet_pa"], models["inception_resnet_v2"]
    compared.append(ExpectedCount("inception_resnet_pa: MACs of inception_resnet_v2", pa["macs"], v2["macs"]))
    compared += [ExpectedCount(f"{name}: operators not counted", row["uncounted"], {}) for name, row in models.items()]
    compared += [
        ExpectedCount(f"{name}: torch's own counter agrees", row["torch_agrees"], True) for name, row in models.items()
    ]
    live, committed = dict(_leaves(counts)), dict(_leaves(stated))
    compared += [
        ExpectedCount(f"stated {path}", live.get(path), committed.get(path))
        for path in sorted(live.keys() | committed.keys())
    ]
    return compared


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def judge(counts: dict[str, Any], runs: dict[str, Any]) -> dict[int, Verdict]:
    """Verdicts on all claims; for those that need training, the ones in ``stated_runs.json``."""
    shown = {int(number): Verdict(**verdict) for number, verdict in runs.get("claims", {}).items()}
    return judge_all(counts, shown, runs.get("speed", {}))


def _as_json(counts: dict[str, Any], compared: Sequence[ExpectedCount], verdicts: dict[int, Verdict]) -> dict[str, Any]:
    from timm_landmark.utils.machine import machine_info

    return {
        **counts,
        "ratios": ratios(counts),
        "checks": [{**asdict(each), "equal": each.equal} for each in compared],
        "claims": [{**asdict(claim), **verdicts[claim.number].as_dict()} for claim in CLAIMS],
        "results": "benchmarks/results in the repository",
        "packages": machine_info()["packages"],
    }


def _text(counts: dict[str, Any], compared: Sequence[ExpectedCount], verdicts: dict[int, Verdict]) -> list[str]:
    lines = ["Counted on live modules, one image of 224x224, attention units on the plain path", ""]
    lines += _model_lines(list(counts["models"].values()))
    lines += ["", "ResNeAt to ResNeXt", *(f"  {value:6.1%}  {what}" for what, value in ratios(counts).items())]
    lines += ["", "Table 1, counted by forward hooks"]
    for model, stages in counts["table_1"].items():
        lines += [f"  {model}", *(f"    {stage:<6} {text}" for stage, text in stages.items())]
    differing = [each for each in compared if not each.equal]
    lines += ["", f"Comparisons: {len(compared) - len(differing)} of {len(compared)} counts are as expected"]
    lines += [f"  DIFFERS  {each.what}: counted {each.counted}, expected {each.expected}" for each in differing]
    lines += ["", "Claims of the paper"]
    for claim in CLAIMS:
        verdict = verdicts[claim.number]
        lines += [f"{claim.number:>3}. {claim.text} ({claim.section})", f"     {verdict.verdict.upper()}"]
        lines += [f"     {verdict.evidence}", f"     judged by: {claim.judged_by}"]
    return [*lines, "", "Runs, intervals and speed: docs/benchmarks.md and benchmarks/results in the repository"]


def _model_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    width = max(len("model"), *(len(row["model"]) for row in rows))
    lines = [
        f"{'model':<{width}}  input  params M  no classifier M   MACs G  spent G  norm+pool G  activations M",
        *(
            f"{row['model']:<{width}}  {row['img_size']:>5}  {row['params'] / 1e6:8.3f}  "
            f"{row['params_without_classifier'] / 1e6:15.3f}  {row['macs'] / 1e9:7.3f}  "
            f"{row['macs_spent'] / 1e9:7.3f}  {row['norm_and_pool'] / 1e9:11.3f}  {row['activations'] / 1e6:13.2f}"
            for row in rows
        ),
        "MACs: multiply-adds of convolutions and matrix products, one multiply-add = 1; spent: with the path that the",
        "attention unit runs; norm+pool: what fvcore would add for norms and pooling, not MACs.",
    ]
    for row in rows:
        if row["uncounted"]:
            names = ", ".join(f"{name} ({times}x)" for name, times in row["uncounted"].items())
            lines.append(f"{row['model']}: not counted: {names}; the true number may be higher")
        if not row["torch_agrees"]:
            lines.append(f"{row['model']}: torch's own counter counts other convolutions or matrix products")
    return lines
