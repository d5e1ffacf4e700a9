r"""Collects how a run recognizes photos of none of its landmarks, as measured by ``timm-landmark evaluate --unknown``.

Usage::

    timm-landmark evaluate RUN --unknown FOLDER
    python -m benchmarks.unknown RUN --trained-on "ten landmarks" --unknown "training photos of twelve other landmarks"

One entry of ``benchmarks/results/unknown.json`` for each ``--trained-on``; it is replaced if it exists. FOLDER should
have photos of the same size as the training data: a network may recognize a data set by its resolution.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison.collect import without_paths
from timm_landmark.runs.folder import read_run_info
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.files import write_json

OUTPUT = Path(__file__).parent / "results" / "unknown.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Collects one run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="unknown.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a run that was evaluated with --unknown")
    parser.add_argument("--trained-on", required=True, metavar="NAME", help="what its photos are called in the table")
    parser.add_argument("--unknown", required=True, metavar="NAME", help="what the unknown photos are called")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE", help="default: results/unknown.json")
    args = parser.parse_args(argv)
    try:
        entry = record(args.run, args.unknown)
        entries = json.loads(args.output.read_text(encoding="utf-8")) if args.output.exists() else {}
        write_json(args.output, {**entries, args.trained_on: entry})
    except UserError as error:
        parser.error(str(error))
    return 0


def record(run: Path, unknown: str) -> dict[str, Any]:
    """The entry for one run.

    Raises:
        UserError: If the run was not evaluated with ``--unknown``, or was trained further after that.
    """
    info = read_run_info(run)
    evaluation = info.get("evaluation") or {}
    test, found = evaluation.get("test") or {}, evaluation.get("unknown")
    if not found or any(found[key] != test.get(key) for key in ("epoch", "data_digest")):
        raise UserError(
            f"RUN {run}: no results with unknown photos; run `timm-landmark evaluate {run} --unknown` first"
        )
    kept = ("model", "seed", "img_size", "epochs", "data_digest", "num_classes", "project")
    return without_paths(
        {
            **{key: info.get(key) for key in kept},
            "unknown_photos": unknown,
            "top1": test["top1"],
            "gap": test["gap"],
            "selective": test["selective"],
            "thresholds": info["thresholds"],
            "unknown": found,
        },
        {},
    )


if __name__ == "__main__":
    sys.exit(main())
