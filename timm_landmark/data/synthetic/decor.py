"""Decoration of the walls of procedural landmarks: windows, doors, bands, clocks; all are polygons on a side."""

from collections.abc import Callable

import numpy as np

from timm_landmark.data.synthetic.geometry import Colour, Decor, Polygon

Shape = Callable[[], np.ndarray]  # outline (m, 2) in a unit square, counter-clockwise
_ARC = np.linspace(0.0, np.pi, 6)
OUTLINES = {
    "square": np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]),
    "arch": np.vstack([[[0.0, 0], [1, 0]], np.column_stack([0.5 + 0.5 * np.cos(_ARC), 0.65 + 0.35 * np.sin(_ARC)])]),
    "pointed": np.array([[0.0, 0], [1, 0], [1, 0.6], [0.8, 0.85], [0.5, 1.0], [0.2, 0.85], [0, 0.6]]),
    "round": np.column_stack(
        [0.5 + 0.5 * np.cos(np.arange(12) * np.pi / 6), 0.5 + 0.5 * np.sin(np.arange(12) * np.pi / 6)]
    ),
    "rhomb": np.array([[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5]]),
}


def on_side(side: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Maps an outline (m, 2), in fractions of a side's width and height, to points (m, 3) on the side (4, 3)."""
    u, v = outline[:, :1], outline[:, 1:]
    return (1 - u) * (1 - v) * side[0] + u * (1 - v) * side[1] + u * v * side[2] + (1 - u) * v * side[3]


def figure(shape: str, u: float, v: float, width: float, height: float, albedo: Colour, shines: bool = False) -> Decor:
    """One shape with its lower left corner at (u, v); sizes are fractions of the side."""
    outline = OUTLINES[shape] * [width, height] + [u, v]
    return lambda side, number: [(on_side(side, outline), albedo, shines)]


def grid(
    shape: str,
    columns: int,
    rows: int,
    albedo: Colour,
    area: tuple[float, float, float, float] = (0.08, 0.08, 0.92, 0.92),
    fill: tuple[float, float] = (0.5, 0.6),
    shines: bool = True,
) -> Decor:
    """``columns`` x ``rows`` equal shapes in ``area`` (left, bottom, right, top); ``fill`` is the part of a cell."""
    left, bottom, right, top = area
    step = np.array([(right - left) / columns, (top - bottom) / rows])
    size = step * fill
    corners = [
        np.array([left, bottom]) + step * [column, row] + (step - size) / 2
        for row in range(rows)
        for column in range(columns)
    ]
    outlines = [OUTLINES[shape] * size + corner for corner in corners]
    return lambda side, number: [(on_side(side, outline), albedo, shines) for outline in outlines]


def bands(count: int, albedo: Colour, thickness: float = 0.25, vertical: bool = False) -> Decor:
    """``count`` strips across the whole side; ``thickness`` is a fraction of the distance between them."""
    outlines = []
    for number in range(count):
        low, high = (number + 0.5 - thickness / 2) / count, (number + 0.5 + thickness / 2) / count
        strip = np.array([[0.0, low], [1, low], [1, high], [0, high]])
        outlines.append(strip[:, ::-1][::-1] if vertical else strip)
    return lambda side, number: [(on_side(side, outline), albedo, False) for outline in outlines]


def lattice(cells: int, albedo: Colour, width: float = 0.12) -> Decor:
    """``cells`` crossed braces, one above the other."""
    outlines = []
    for number in range(cells):
        low, high = number / cells, (number + 1) / cells
        rim = width / cells
        outlines.append(
            np.array([[0.0, low], [width, low], [1, high - rim], [1, high], [1 - width, high], [0, low + rim]])
        )
        outlines.append(
            np.array([[1 - width, low], [1, low], [1, low + rim], [width, high], [0, high], [0, high - rim]])
        )
    return lambda side, number: [(on_side(side, outline), albedo, False) for outline in outlines]


def clock(u: float, v: float, width: float, height: float, face: Colour, ring: Colour, hand: Colour) -> Decor:
    """A clock with its centre at (u, v)."""

    def draw(side: np.ndarray, number: int) -> list[Polygon]:
        outer = OUTLINES["round"] * [width, height] + [u - width / 2, v - height / 2]
        inner = (outer - [u, v]) * 0.82 + [u, v]
        hands = [
            np.array([[u - 0.04 * width, v], [u + 0.04 * width, v], [u, v + 0.38 * height]]),
            np.array([[u, v + 0.04 * height], [u, v - 0.04 * height], [u + 0.26 * width, v]]),
        ]
        discs: list[Polygon] = [(on_side(side, outer), ring, False), (on_side(side, inner), face, True)]
        return discs + [(on_side(side, points), hand, False) for points in hands]

    return draw


def together(*parts: Decor) -> Decor:
    """Several decorations, drawn in this order."""
    return lambda side, number: [drawn for part in parts for drawn in part(side, number)]


def only(sides: set[int], part: Decor) -> Decor:
    """A decoration only on some sides (0 is the front)."""
    return lambda side, number: part(side, number) if number in sides else []
