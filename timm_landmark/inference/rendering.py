"""Answers of ``predict`` as a table, csv or JSON."""

import csv
import io
import json
import os
from collections.abc import Sequence
from typing import Any

from timm_landmark.inference.answers import Answer, Label
from timm_landmark.utils.text import escaped, printable


def render_table(answer: Answer, labels: Sequence[Label]) -> list[str]:
    """Renders the photo's path and a line per guess; empty for an unreadable photo."""
    if not answer.guesses:
        return []
    lines = [f"  {100 * each.probability:6.2f} %  {printable(labels[each.index].name, 80)}" for each in answer.guesses]
    return [escaped(answer.photo.path), *lines]


def render_csv(answer: Answer, labels: Sequence[Label]) -> list[str]:
    """Renders a line per guess (photo, rank, landmark_id, name, probability); empty for an unreadable photo."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for rank, each in enumerate(answer.guesses, 1):
        label = labels[each.index]
        name = printable(label.name)
        writer.writerow(
            [escaped(answer.photo.path), rank, printable(label.landmark_id), name, f"{each.probability:.6f}"]
        )
    return buffer.getvalue().splitlines()


def render_json(answer: Answer, labels: Sequence[Label]) -> list[str]:
    """Renders one object: photo and guesses, or photo and problem; ASCII, so that it cannot control a terminal."""
    found: dict[str, Any] = {"photo": os.fsencode(answer.photo.path).decode("utf-8", "backslashreplace")}
    if answer.photo.problem:
        found["problem"] = answer.photo.problem
    else:
        found["guesses"] = [
            {**vars(labels[each.index]), "class": each.index, "probability": each.probability}
            for each in answer.guesses
        ]
    if answer.layer:
        found["heat_map"] = {"class": answer.guesses[0].index, "layer": answer.layer}
    if answer.truth:
        found["truth"] = vars(answer.truth)
    return [json.dumps(found, allow_nan=False)]
