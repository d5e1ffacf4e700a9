"""Tables from ``results/speed.json``.

The file is written by ``benchmarks/speed.py``::

    machine, cpu_capability, device, threads                                       where it was measured
    ratios      [{what, model, against, ratio, low, high, lower_is_better}]        alternated; median and quartiles
    throughput  [{model, mode: inference | training, img_size, batch, img_per_s, low, high}]   median and quartiles
    memory      [{form, model, mode, img_size, batch, peak_mib}]                   peak of two steps in a new process
    paths       [{mode, img_size, batch, out_chs, side, product_ms, gram_ms, chosen}]   one unit on both streamed paths
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.rendering.tables import macs_text, markdown

AT, XT, PA, IR = "resneat50", "resnext50_32x4d", "inception_resnet_pa", "inception_resnet_v2"
OTHER_PATH = {"product": "gram", "gram": "product"}
INFERENCE = "inference, 224 pixels, batch 8"
# The new models and timm's models that they are compared with -> the model that their speed is relative to.
MODELS = {AT: XT, "resneat101": None, XT: XT, PA: IR, IR: IR}


def speed_ratios(speed: Mapping[str, Any]) -> dict[str, float]:
    """img/s of ResNeAt relative to ResNeXt, by what was measured, for claim 3."""
    return {
        row["what"]: row["ratio"]
        for row in speed["ratios"]
        if (row["model"], row["against"]) == (AT, XT) and row["what"].startswith(("inference", "training"))
    }


def speed_blocks(speed: Mapping[str, Any], counts: Mapping[str, Any]) -> dict[str, str]:
    """All speed tables as Markdown, by the name of their block.

    Args:
        speed: ``speed.json``.
        counts: ``stated_counts.json``, for parameters and MACs.
    """
    return {
        "models": _models(speed, counts),
        "speed": _ratios(speed),
        "peers": _peers(speed, counts),
        "sizes": _sizes(speed),
        "memory": _memory(speed),
        "paths": _paths(speed),
    }


def _models(speed: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    ratios = {(row["model"], row["what"]): row for row in speed["ratios"]}
    rows = []
    for model, other in MODELS.items():
        count, ratio = counts["models"][model], ratios.get((model, INFERENCE))
        relative = "1 (reference)" if model == other else "not measured"
        if ratio:
            relative = f"{_ratio_text(ratio)} x `{other}`"
        weights = "timm" if model == other else "not published yet"
        rows.append([f"`{model}`", f"{count['params'] / 1e6:.1f}", macs_text(count), relative, weights])
    header = ["model", "params M", "MACs G", "inference speed", "weights"]
    steps = [f"{row['ratio']:.2f} ({row['what']})" for row in speed["ratios"] if _is_training(row)]
    return (
        f"{markdown(header, rows)}\n\nParameters and MACs with 1000 classes at 224 pixels; *as written*: the attention "
        f"unit computed literally as in the paper. Speed: {INFERENCE}, eager, float32, {_where(speed)}; median and "
        f"quartiles. Speed of `{AT}` in training relative to `{XT}`: {', '.join(steps)}."
    )


def _is_training(row: Mapping[str, Any]) -> bool:
    return (row["model"], row["against"]) == (AT, XT) and row["what"].startswith("training")


def _where(speed: Mapping[str, Any]) -> str:
    machine = speed["machine"]
    capability = f" ({speed['cpu_capability']})" if "cpu_capability" in speed else ""
    return f"{machine['cpu']}{capability}, {speed['threads']} threads, torch {machine['packages']['torch']}"


def _ratio_text(row: Mapping[str, Any]) -> str:
    return f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _ratios(speed: Mapping[str, Any]) -> str:
    rows = []
    for row in speed["ratios"]:
        what = f"{row['what']} (lower is better)" if row["lower_is_better"] else row["what"]
        rows.append([f"`{row['model']}`", f"`{row['against']}`", what, _ratio_text(row)])
    return (
        f"Measured on {_where(speed)}, in float32 and eager mode unless stated otherwise; median and quartiles of the "
        "ratio, whose two models are timed alternately. Below 1, the first model is slower or needs less memory.\n\n"
        f"{markdown(['model', 'relative to', 'what', 'ratio'], rows, left=3)}"
    )


def _rows(speed: Mapping[str, Any], mode: str, img_size: int, batch: int) -> list[Mapping[str, Any]]:
    wanted = (mode, img_size, batch)
    return [row for row in speed["throughput"] if (row["mode"], row["img_size"], row["batch"]) == wanted]


def _peers(speed: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    rows = []
    for row in sorted(_rows(speed, "inference", 224, 8), key=lambda row: -row["img_per_s"]):
        count = counts["models"].get(row["model"])
        cells = [f"{count['params'] / 1e6:.1f}", f"{count['macs_spent'] / 1e9:.2f}"] if count else ["", ""]
        rows.append([f"`{row['model']}`", *cells, _rate_text(row)])
    return markdown([INFERENCE, "params M", "MACs spent G", "img/s"], rows)


def _rate_text(row: Mapping[str, Any]) -> str:
    return f"{row['img_per_s']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def _sizes(speed: Mapping[str, Any]) -> str:
    of = {(row["model"], row["mode"], row["img_size"], row["batch"]): row for row in speed["throughput"]}
    rows = []
    for (model, mode, img_size, batch), at in sorted(of.items(), key=lambda item: item[0][1:]):
        xt = of.get((XT, mode, img_size, batch))
        if model == AT and xt:
            ratio = f"{at['img_per_s'] / xt['img_per_s']:.2f}"
            rows.append([f"{mode}, {img_size} pixels, batch {batch}", _rate_text(at), _rate_text(xt), ratio])
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
    return markdown(["model", "form", "mode", "pixels", "batch", "peak MiB"], rows, left=3)


def _paths(speed: Mapping[str, Any]) -> str:
    of = {(row["mode"], row["out_chs"], row["img_size"]): row for row in speed["paths"]}
    sizes = sorted({key[2] for key in of})
    rows = [
        [f"{mode}, {channels} channels", *(_path_cell(of[mode, channels, size]) for size in sizes)]
        for mode, channels in sorted({key[:2] for key in of})
    ]
    table = markdown(["one unit", *(f"{size} pixels" for size in sizes)], rows)
    return (
        f"{table}\n\n*product* computes Q and K and multiplies them; *gram* goes through x x^T, which costs less on "
        "large maps. Both give the same Scale. Milliseconds on the chosen path (on the other path), batch "
        f"{speed['paths'][0]['batch']}; bold where the other path is faster."
    )


def _path_cell(row: Mapping[str, Any]) -> str:
    chosen, other = (row[f"{path}_ms"] for path in (row["chosen"], OTHER_PATH[row["chosen"]]))
    cell = f"{row['chosen']} {chosen:.1f} ({other:.1f})"
    return cell if chosen <= other else f"**{cell}**"
