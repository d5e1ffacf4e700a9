"""Charts as inline SVG, for pages that load nothing and run no scripts; the pages define the colours.

Text is 12 units high in a picture 360 units wide, so that it stays readable on a phone.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 12, 38  # margins
STYLES = 7  # line styles of the pages, .line0 to .line6
MOST_LABELLED = 30  # classes in a confusion matrix with labels and counts
MOST_PIXELS = 500  # per side of the picture of more classes
CELL, LABELS, SHORT = 30, 210, 25  # pixels of a cell and of the labels, characters of a label


@dataclass(frozen=True)
class Line:
    """A named line through points (x, y); ``style`` is a number below ``STYLES``."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0


@dataclass(frozen=True)
class Axis:
    """An axis: its label, its range, and the format of its numbers."""

    label: str
    low: float
    high: float
    form: str = "g"

    def ticks(self) -> list[float]:
        """Three to seven round numbers in the range."""
        span = self.high - self.low
        size = 10 ** math.floor(math.log10(span / 3))
        step = next(step for step in (size, 2 * size, 5 * size, 10 * size) if span / step <= 6)
        return [step * k for k in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def line_chart(
    title: str, lines: Sequence[Line], x: Axis, y: Axis, mark: tuple[float, float, str] | None = None
) -> str:
    """Draws lines over two axes.

    Args:
        title: For screen readers.
        lines: The lines; a line with one point is drawn as a dot.
        x: The horizontal axis.
        y: The vertical axis; what lies outside is cut off.
        mark: A point and its label, drawn as a cross with a line down to the axis.
    """

    def across(value: float) -> float:
        return LEFT + (value - x.low) / (x.high - x.low) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        inside = min(max(value, y.low), y.high)
        return HEIGHT - BOTTOM - (inside - y.low) / (y.high - y.low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>']
    base = HEIGHT - BOTTOM
    for tick in y.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {down(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down(tick) + 4:.1f}" text-anchor="end">{tick:{y.form}}</text>')
    for tick in x.ticks():
        parts.append(f'<text x="{across(tick):.1f}" y="{base + 16}" text-anchor="middle">{tick:{x.form}}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>'
    )
    middle = (TOP + base) / 2
    if y.label:
        turned = f'text-anchor="middle" transform="rotate(-90 12 {middle})"'
        parts.append(f'<text x="12" y="{middle}" {turned}>{escape(y.label)}</text>')
    for line in lines:
        style, points = f"line{line.style % STYLES}", [(across(a), down(b)) for a, b in line.points]
        name = f"<title>{escape(line.name)}</title>"
        if len(points) == 1:
            parts.append(
                f'<circle class="dot {style}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3">{name}</circle>'
            )
        elif points:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(f'<polyline class="line {style}" points="{path}">{name}</polyline>')
    if mark is not None:
        a, b = across(mark[0]), down(mark[1])
        side, end = (-8, "end") if a > WIDTH / 2 else (8, "start")
        parts.append(f'<path class="mark" d="M{a:.1f} {base}V{b:.1f}"/>')
        parts.append(f'<path class="cross" d="M{a - 5:.1f} {b - 5:.1f}l10 10m0 -10l-10 10"/>')
        parts.append(f'<text x="{a + side:.1f}" y="{base - 8}" text-anchor="{end}">{escape(mark[2])}</text>')
    return "".join([*parts, "</svg>"])


def confusion_matrix(counts: np.ndarray, labels: Sequence[str]) -> str:
    """Draws a confusion matrix: a row for each true class, a column for each predicted one.

    Up to ``MOST_LABELLED`` classes, with labels and counts; beyond, one pixel for each cell or, of more than
    ``MOST_PIXELS`` classes, for the darkest of a block of cells. The darkness of a cell is
    its share of its row.

    Args:
        counts: Images by true and predicted class, shape (classes, classes).
        labels: One name for each class.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(labels) > MOST_LABELLED:
        return _pixels(shares)
    size = LABELS + CELL * len(labels)
    parts = [
        f'<svg class="matrix" viewBox="0 0 {size} {CELL + CELL * len(labels)}" style="width: {size}px" role="img">'
        "<title>Confusion matrix: true classes in rows, predicted ones in columns</title>"
    ]
    for row, label in enumerate(labels):
        text = label if len(label) <= SHORT else f"{label[: SHORT - 1]}…"
        y = CELL * (row + 1)
        parts.append(
            f'<text x="{LABELS - 8}" y="{y + 19}" text-anchor="end">{escape(text)} {row + 1}'
            f"<title>{escape(label)}</title></text>"
        )
        parts.append(f'<text x="{LABELS + CELL * (row + 0.5)}" y="19" text-anchor="middle">{row + 1}</text>')
        for column, guess in enumerate(labels):
            count, share = int(counts[row, column]), shares[row, column]
            colour = "right" if row == column else "wrong"
            place = f'x="{LABELS + CELL * column}" y="{y}" width="{CELL - 1}" height="{CELL - 1}"'
            parts.append(
                f'<g><title>{count} of {escape(label)} as {escape(guess)}</title><rect class="empty" {place}/>'
                f'<rect class="{colour}" {place} fill-opacity="{share:.3f}"/>'
            )
            if count:
                dark = ' class="on"' if share > 0.5 else ""
                parts.append(
                    f'<text{dark} x="{LABELS + CELL * (column + 0.5)}" y="{y + 19}" text-anchor="middle">{count}</text>'
                )
            parts.append("</g>")
    return "".join([*parts, "</svg>"])


def _pixels(shares: np.ndarray) -> str:
    """A picture with one pixel for each cell, dark where the share is high, as an ``img`` element."""
    block = -(-len(shares) // MOST_PIXELS)
    side = -(-len(shares) // block)
    shares = np.pad(shares, (0, side * block - len(shares))).reshape(side, block, side, block).max(axis=(1, 3))
    image = Image.fromarray((255 * (1 - np.sqrt(shares))).round().astype(np.uint8))  # the root shows rare confusions
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = "Confusion matrix: true classes in rows, predicted ones in columns; the darker, the more"
    return f'<img class="pixels" src="data:image/png;base64,{data}" alt="{text}">'
