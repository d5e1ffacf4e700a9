"""``timm-landmark verify``: counts live models and holds each claim of the paper against what is counted."""

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
STATED_COUNTS = HERE / "stated_counts.json"  # what the repository states; written by --write-stated
STATED_RUNS = HERE / "stated_runs.json"  # what training and timing showed; written by benchmarks/report.py


@dataclass(frozen=True)
class Check:
    """A count held against a figure that it must equal."""

    what: str
    counted: Any
    expected: Any

    @property
    def equal(self) -> bool:
        """Whether the two are the same."""
        return self.counted == self.expected


def main(argv: list[str]) -> int:
    """The verb; 1 when a count differs from what the paper's formulas or this repository state, else 0."""
    args = _parser().parse_args(argv)
    if args.img_size is not None and not args.models:
        raise UserError(
            f"--img-size {args.img_size}: the claims are counted at Table 1's 224 pixels; name models for another size"
        )
    if args.img_size is not None and args.img_size < 1:
        raise UserError(f"--img-size {args.img_size}: give a number of pixels, 1 or more")
    if args.write_stated and args.models:
        raise UserError("--write-stated writes the claims' counts: leave the model names out")
    if args.write_stated and not args.write_stated.parent.is_dir():
        raise UserError(f"--write-stated {args.write_stated}: there is no folder {args.write_stated.parent}")
    return _count_named(args) if args.models else _verify(args)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="timm-landmark verify",
        description="Count parameters and multiply-adds of live models and check the paper's claims against them.",
        epilog="exit code: 0 all counts as stated, 1 a count differs, 2 wrong use",
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="any timm model: a table of these instead")
    parser.add_argument("--img-size", type=int, metavar="P", help="count named models at PxP; default: each one's own")
    parser.add_argument("--json", action="store_true", help="write everything to stdout as JSON")
    parser.add_argument(
        "--write-stated", type=Path, metavar="FILE", help="for maintainers: write the counts to FILE as the stated ones"
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
    checks = run_checks(counts, _read(STATED_COUNTS))
    verdicts = judge(counts, _read(STATED_RUNS))
    say(*(_json_lines(_as_json(counts, checks, verdicts)) if args.json else _text(counts, checks, verdicts)))
    return 0 if all(check.equal for check in checks) else 1


def _json_lines(value: dict[str, Any]) -> list[str]:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).split("\n")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def run_checks(counts: dict[str, Any], stated: dict[str, Any]) -> list[Check]:
    """All equalities: the paper's units and Table 1, closed formulas, torch's own counter, what is stated.

    Args:
        counts: What :func:`timm_landmark.accounting.units.paper_counts` gives.
        stated: The same as committed; a count that is not in it counts as a difference.
    """
    from timm_landmark.accounting.units import LAYERS, closed_form

    models = counts["models"]
    checks = [Check(f"unit of {name}, as in 3.2.4", counts["units"][name], n) for name, n in PAPER_UNITS.items()]
    table = paper_table_1()
    checks += [
        Check(f"{name}, {stage} of Table 1", counts["table_1"][name][stage], text)
        for name, stages in table.items()
        for stage, text in stages.items()
    ]
    for name in LAYERS:
        params, macs = closed_form(name)
        checks.append(Check(f"{name}: parameters by the closed formula", models[name]["params"], params))
        checks.append(Check(f"{name}: MACs by the closed formula", models[name]["macs"], macs))
    pa, v2 = models["inception_resnet_pa"], models["inception_resnet_v2"]
    checks.append(Check("inception_resnet_pa: MACs of inception_resnet_v2", pa["macs"], v2["macs"]))
    checks += [Check(f"{name}: operators nobody counts", row["uncounted"], {}) for name, row in models.items()]
    checks += [Check(f"{name}: torch's own counter agrees", row["torch_agrees"], True) for name, row in models.items()]
    live, committed = dict(_leaves(counts)), dict(_leaves(stated))
    checks += [
        Check(f"stated {path}", live.get(path), committed.get(path)) for path in sorted(live.keys() | committed.keys())
    ]
    return checks


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def judge(counts: dict[str, Any], runs: dict[str, Any]) -> dict[int, Verdict]:
    """Verdicts on all claims; those that need training as ``stated_runs.json`` gives them."""
    shown = {int(number): Verdict(**verdict) for number, verdict in runs.get("claims", {}).items()}
    return judge_all(counts, shown, runs.get("speed", {}))


def _as_json(counts: dict[str, Any], checks: Sequence[Check], verdicts: dict[int, Verdict]) -> dict[str, Any]:
    from timm_landmark.utils.machine import machine_info

    return {
        **counts,
        "ratios": ratios(counts),
        "checks": [{**asdict(check), "equal": check.equal} for check in checks],
        "claims": [{**asdict(claim), **verdicts[claim.number].as_dict()} for claim in CLAIMS],
        "results": "benchmarks/results in the repository",
        "packages": machine_info()["packages"],
    }


def _text(counts: dict[str, Any], checks: Sequence[Check], verdicts: dict[int, Verdict]) -> list[str]:
    lines = ["Counted on live modules, one image of 224x224, attention units in the plain form", ""]
    lines += _model_lines(list(counts["models"].values()))
    lines += ["", "ResNeAt to ResNeXt", *(f"  {value:6.1%}  {what}" for what, value in ratios(counts).items())]
    lines += ["", "Table 1, counted by forward hooks"]
    for model, stages in counts["table_1"].items():
        lines += [f"  {model}", *(f"    {stage:<6} {text}" for stage, text in stages.items())]
    failed = [check for check in checks if not check.equal]
    lines += ["", f"Checks: {len(checks) - len(failed)} of {len(checks)} hold"]
    lines += [f"  DIFFERS  {check.what}: counted {check.counted}, expected {check.expected}" for check in failed]
    lines += ["", "Claims of the paper"]
    for claim in CLAIMS:
        verdict = verdicts[claim.number]
        lines += [f"{claim.number:>3}. {claim.text} ({claim.section})", f"     {verdict.verdict.upper()}"]
        lines += [f"     {verdict.evidence}", f"     judged by: {claim.judged_by}"]
    return [*lines, "", "Runs, intervals and speed: benchmarks/results in the repository, rendered in its README"]


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
        "MACs: multiply-adds of convolutions and matrix products, one multiply-add = 1; spent: with the attention",
        "unit in its fast form; norm+pool: what fvcore would add for norms and pooling, not MACs.",
    ]
    for row in rows:
        if row["uncounted"]:
            names = ", ".join(f"{name} ({times}x)" for name, times in row["uncounted"].items())
            lines.append(f"{row['model']}: nobody counts {names}; the true figure may be higher")
        if not row["torch_agrees"]:
            lines.append(f"{row['model']}: torch's own counter sees other convolutions or matrix products")
    return lines
