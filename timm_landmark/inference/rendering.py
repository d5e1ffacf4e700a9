"""Answers of ``predict`` as a table, csv or JSON, and the results of ``evaluate`` as text."""

import csv
import io
import json
import os
from collections.abc import Sequence
from typing import Any

from timm_landmark.inference.answers import Answer, Label
from timm_landmark.runs.model import Run
from timm_landmark.runs.thresholds import DIGITS, Thresholds
from timm_landmark.utils.text import escaped, printable

CSV_COLUMNS = "photo,rank,landmark_id,name,probability,threshold,none_threshold,decision"


def render_table(answer: Answer, labels: Sequence[Label], thresholds: Thresholds) -> list[str]:
    """Renders the photo's path and a line per guess; empty for an unreadable photo.

    If the first guess is not certain, the first line says so. If the photo shows none of the landmarks, there are no
    lines with guesses.
    """
    if not answer.guesses:
        return []
    first, path = answer.guesses[0], escaped(answer.photo.path)
    best = f"(best guess {printable(labels[first.index].name, 80)}, {100 * first.probability:.0f} %)"
    if answer.decision == "none":
        return [f"{path}: none of the model's landmarks {best}"]
    lines = [f"  {100 * each.probability:6.2f} %  {printable(labels[each.index].name, 80)}" for each in answer.guesses]
    return [f"{path}: not certain {best}" if answer.decision == "uncertain" else path, *lines]


def render_csv(answer: Answer, labels: Sequence[Label], thresholds: Thresholds) -> list[str]:
    """Renders a line per guess with the columns ``CSV_COLUMNS``; empty for an unreadable photo.

    A threshold that the model does not have is empty. Thresholds and decision are those of the photo, the same in all
    its lines.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    limits = ["" if each is None else each for each in (thresholds.certain, thresholds.none)]
    for rank, each in enumerate(answer.guesses, 1):
        label = labels[each.index]
        guess = [printable(label.landmark_id), printable(label.name), f"{each.probability:.{DIGITS}f}"]
        writer.writerow([escaped(answer.photo.path), rank, *guess, *limits, answer.decision])
    return buffer.getvalue().splitlines()


def render_json(answer: Answer, labels: Sequence[Label], thresholds: Thresholds) -> list[str]:
    """Renders one object: photo, guesses and decision, or photo and problem; in ASCII, so that it is harmless.

    ``confidence`` is the probability of the first guess. A threshold that the model does not have is null.
    """
    found: dict[str, Any] = {"photo": os.fsencode(answer.photo.path).decode("utf-8", "backslashreplace")}
    if answer.photo.problem:
        found["problem"] = answer.photo.problem
    else:
        found["guesses"] = [
            {**vars(labels[each.index]), "class": each.index, "probability": each.probability}
            for each in answer.guesses
        ]
        found["confidence"] = answer.guesses[0].probability
        found["threshold"], found["none_threshold"] = thresholds.certain, thresholds.none
        found["decision"] = answer.decision
    if answer.layer:
        found["heat_map"] = {"class": answer.guesses[0].index, "layer": answer.layer}
    if answer.truth:
        found["truth"] = vars(answer.truth)
    return [json.dumps(found, allow_nan=False)]


def render_results(
    run: Run, result: dict[str, Any], thresholds: dict[str, Any] | None, unknown: dict[str, Any] | None
) -> list[str]:
    """Renders the results of ``evaluate``.

    Args:
        run: The run.
        result: The results of a split, as in run.json.
        thresholds: The entry ``thresholds`` of run.json, if the split is test.
        unknown: The results with unknown photos, if there are any.
    """
    lines = [f"{run.path}: {run.model}, epoch {result['epoch']}, {result['images']} images of {result['split']}"]
    for name, label in (("top1", "top-1"), ("top5", f"top-{result['top_k']}"), ("gap", "GAP")):
        note = " (always 1 for this number of classes)" if name == "top5" and result["top_k"] >= run.num_classes else ""
        lines.append(f"  {label:<6} {_value(result[name])}{note}")
    if thresholds:
        lines += _render_retrieval(run, result["retrieval"]) + _render_certain(result, thresholds)
    if unknown:
        lines += _render_unknown(unknown)
    for row in sorted(result["per_class"], key=lambda row: -(row["value"] or 0.0))[:20]:
        low, high = row["interval"]
        if row["images"]:
            share = f"{row['correct']:>5} of {row['images']:<5}"
            lines.append(f"  {row['class']} {printable(row['name'], 40):<40} {share} {low:.2f} .. {high:.2f}")
    if len(result["per_class"]) > 20:
        lines.append(f"  ... the other {len(result['per_class']) - 20} classes are in {run.path / 'run.json'}")
    return lines


def _value(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['value']:.4f}   95 %: {low:.4f} .. {high:.4f}"


def _render_retrieval(run: Run, found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return [f"  no retrieval: {run.model} has no pooled features, or they are not finite in float16"]
    knn, precision = found["knn_top1"], found["map100"]
    lines = [f"  kNN    {_value(knn)}   top-1 by the {knn['k']} nearest of {found['index_images']} validation images"]
    if precision["value"] is not None:
        lines.append(f"  mAP    {precision['value']:.4f}   of the 100 nearest, {precision['queries']} queries")
    return lines


def _render_certain(result: dict[str, Any], thresholds: dict[str, Any]) -> list[str]:
    wanted = f"{100 * thresholds['target_accuracy']:g} % right answers"
    found = result["selective"]
    if found is None:
        return [f"  no confidence gives {wanted} on validation, so there is no threshold for certain answers"]
    lines = [
        f"  certain from {found['threshold']:.6f} on: {wanted} on validation "
        f"({thresholds['correct']} of {thresholds['answered']})"
    ]
    if not found["answered"]:
        return [*lines, f"         none of {found['images']} images of test is certain"]
    doubted = f"{found['images'] - found['answered']} of {found['images']} images not certain"
    return [*lines, f"         {_value(found)}   {found['correct']} of {found['answered']} on test, {doubted}"]


def _render_unknown(found: dict[str, Any]) -> list[str]:
    photos = f"{found['photos']} unknown photo{'s' * (found['photos'] != 1)} ({printable(str(found['folder']), 40)})"
    (low, high), (least, most) = found["auroc_interval"], found["gap_interval"]
    lines = [
        f"  with {photos} as well:",
        f"  AUROC  {found['auroc']:.4f}   95 %: {low:.4f} .. {high:.4f}",
        f"  FPR    {found['fpr95']:.4f}   {found['fpr95_accepted']} unknown photos accepted at 95 % recall",
        f"  GAP    {found['gap']:.4f}   95 %: {least:.4f} .. {most:.4f}",
    ]
    wanted = f"{100 * found['target_accuracy']:g} % unknown photos"
    if found["none"] is None:
        reason = f"no confidence has {wanted} below it" if found["calibration"] else "too few unknown photos to choose"
        return [*lines, f"  {reason}, so there is no threshold for none of the landmarks"]
    lines.append(
        f"  none of the landmarks below {found['none']['threshold']:.6f}: {wanted} among validation and "
        f"{found['calibration']} unknown photos"
    )
    for side, label in (("unknown", "other unknown photos"), ("landmark", "images of test")):
        each = found["none"][side]
        if each["photos"]:
            lines.append(f"         {_value(each)}   {each['said']} of {each['photos']} {label}")
    return lines
