"""Tables from ``results/speed.json``: what was aimed at and reached, peers, memory, where the time goes.

The file (written by ``benchmarks/speed.py``; checked by ``results_schema.py``)::

    machine     what it ran on
    threads     threads of the measuring process
    goals       [{what, model, against, ratio, low, high, at_least, aim, lower_is_better}]   ratios, alternated
    throughput  [{model, mode: inference | training, img_size, batch, img_per_s, low, high}]     medians and spread
    memory      [{form, model, mode, img_size, batch, peak_mib}]              peak of two steps, fresh processes
    breakdown   [{model, mode, img_size, batch, parts: [{stage, part, ms}]}]                       where the time goes
    paths       [{mode, img_size, batch, out_chs, side, product_ms, gram_ms, chosen}]     one unit, both streamed forms
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.rendering.tables import markdown

AT, XT = "resneat50", "resnext50_32x4d"
OTHER_FORM = {"product": "gram", "gram": "product"}


def speed_ratios(speed: Mapping[str, Any]) -> dict[str, float]:
    """ResNeAt's img/s to ResNeXt's, by what was measured, for claim 3."""
    return {
        goal["what"]: goal["ratio"]
        for goal in speed["goals"]
        if (goal["model"], goal["against"]) == (AT, XT) and goal["what"].startswith(("inference", "training"))
    }


def throughput(speed: Mapping[str, Any]) -> dict[str, float]:
    """Inference img/s at 224 pixels, batch 8, by model."""
    return {row["model"]: row["img_per_s"] for row in _rows(speed, "inference", 224, 8)}


def _rows(speed: Mapping[str, Any], mode: str, img_size: int, batch: int) -> list[Mapping[str, Any]]:
    wanted = (mode, img_size, batch)
    return [row for row in speed["throughput"] if (row["mode"], row["img_size"], row["batch"]) == wanted]


def speed_block(speed: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    """All speed tables as Markdown, losses as visible as wins.

    Args:
        speed: ``speed.json``.
        counts: ``stated_counts.json``, for parameters and MACs beside the peers.
    """
    machine = speed["machine"]
    where = f"{machine['cpu']}, {speed['threads']} threads, torch {machine['packages']['torch']}, float32"
    where += "; eager where no other form is named"
    parts = [f"Measured on {where}; medians, with the spread in brackets.", _goals(speed), _peers(speed, counts)]
    return "\n\n".join([*parts, _sizes(speed), _memory(speed), *_breakdowns(speed), _paths(speed)])


def _goals(speed: Mapping[str, Any]) -> str:
    rows = []
    for goal in speed["goals"]:
        sign = -1 if goal["lower_is_better"] else 1
        reached = [sign * goal["ratio"] >= sign * goal[bound] for bound in ("at_least", "aim")]
        word = "aim reached" if reached[1] else "reached, below the aim" if reached[0] else "**missed**"
        what = f"`{goal['model']}` to `{goal['against']}`: {goal['what']}"
        what += " (lower is better)" if goal["lower_is_better"] else ""
        ratio = f"{goal['ratio']:.2f} [{goal['low']:.2f}, {goal['high']:.2f}]"
        rows.append([what, ratio, f"{goal['at_least']:.2f}", f"{goal['aim']:.2f}", word])
    return markdown(["ratio", "measured", "at least", "aim", ""], rows)


def _peers(speed: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    rows = []
    for row in sorted(_rows(speed, "inference", 224, 8), key=lambda row: -row["img_per_s"]):
        count = counts["models"].get(row["model"])
        cells = [f"{count['params'] / 1e6:.1f}", f"{count['macs_spent'] / 1e9:.2f}"] if count else ["", ""]
        rows.append([f"`{row['model']}`", *cells, _spread(row)])
    return markdown(["inference, 224 pixels, batch 8", "params M", "MACs spent G", "img/s"], rows)


def _spread(row: Mapping[str, Any]) -> str:
    return f"{row['img_per_s']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def _sizes(speed: Mapping[str, Any]) -> str:
    of = {(row["model"], row["mode"], row["img_size"], row["batch"]): row for row in speed["throughput"]}
    rows = []
    for (model, mode, img_size, batch), at in sorted(of.items(), key=lambda item: item[0][1:]):
        xt = of.get((XT, mode, img_size, batch))
        if model == AT and xt:
            ratio = f"{at['img_per_s'] / xt['img_per_s']:.2f}"
            rows.append([f"{mode}, {img_size} pixels, batch {batch}", _spread(at), _spread(xt), ratio])
    return markdown(["", f"`{AT}` img/s", f"`{XT}` img/s", "ratio"], rows)


def _memory(speed: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{row['model']}`",
            row["form"],
            row["mode"],
            *(f"{row[key]:,.0f}" for key in ("img_size", "batch", "peak_mib")),
        ]
        for row in speed["memory"]
    ]
    return markdown(["peak memory", "form", "", "pixels", "batch", "MiB"], rows)


def _breakdowns(speed: Mapping[str, Any]) -> list[str]:
    """Of each profiled step of ResNeAt a table of stages by parts, with what ResNeXt's stages take."""
    of = {(row["mode"], row["img_size"], row["batch"], row["model"]): row["parts"] for row in speed["breakdown"]}
    return [_breakdown(key[:3], of[key], of[(*key[:3], XT)]) for key in of if key[3] == AT]


def _breakdown(where: tuple, at: Sequence[Mapping[str, Any]], xt: Sequence[Mapping[str, Any]]) -> str:
    mode, img_size, batch = where
    stages, parts = (list(dict.fromkeys(cell[key] for cell in at)) for key in ("stage", "part"))
    title = f"ms of a step of `{AT}`, {mode}, {img_size} pixels, batch {batch}"

    def total(cells: Sequence[Mapping[str, Any]], **only: str) -> float:
        return sum(cell["ms"] for cell in cells if all(cell[key] == value for key, value in only.items()))

    def row(name: str, **stage: str) -> list[str]:
        times = [*(total(at, part=part, **stage) for part in parts), total(at, **stage), total(xt, **stage)]
        return [name, *(f"{ms:.0f}" for ms in times)]

    rows = [*(row(stage, stage=stage) for stage in stages), row("all")]
    return markdown([title, *parts, "all", f"`{XT}`, all"], rows)


def _paths(speed: Mapping[str, Any]) -> str:
    """One unit: what the form that is chosen by count takes, and what the other one would."""
    of = {(row["mode"], row["out_chs"], row["img_size"]): row for row in speed["paths"]}
    sizes = sorted({key[2] for key in of})
    rows = [
        [f"{mode}, {channels} channels", *(_path_cell(of[mode, channels, size]) for size in sizes)]
        for mode, channels in sorted({key[:2] for key in of})
    ]
    title = f"ms of one unit in the form chosen by count (in the other), batch {speed['paths'][0]['batch']}"
    return markdown([title, *(f"{size} pixels" for size in sizes)], rows)


def _path_cell(row: Mapping[str, Any]) -> str:
    chosen, other = (row[f"{form}_ms"] for form in (row["chosen"], OTHER_FORM[row["chosen"]]))
    cell = f"{row['chosen']} {chosen:.1f} ({other:.1f})"
    return cell if chosen <= other else f"**{cell}**"
