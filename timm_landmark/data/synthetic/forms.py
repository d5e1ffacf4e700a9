"""Forms of procedural landmarks: ancient ones. A function builds one kind, with the proportions of a class."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from timm_landmark.data.synthetic.decor import bands, figure, grid, only, together
from timm_landmark.data.synthetic.geometry import Colour, Model, shaded

WALLS: list[Colour] = [
    (0.80, 0.68, 0.48), (0.84, 0.81, 0.72), (0.58, 0.57, 0.56), (0.62, 0.36, 0.27), (0.90, 0.90, 0.88),
    (0.86, 0.74, 0.50), (0.70, 0.60, 0.52), (0.74, 0.74, 0.76),
]  # fmt: skip

ROOFS: list[Colour] = [
    (0.62, 0.30, 0.20),
    (0.33, 0.36, 0.42),
    (0.38, 0.58, 0.52),
    (0.80, 0.62, 0.22),
    (0.42, 0.32, 0.28),
]

DARK: Colour = (0.16, 0.15, 0.17)


@dataclass(frozen=True)
class Look:
    """Random proportions and materials of a class."""

    rng: np.random.Generator
    wall: Colour
    trim: Colour
    roof: Colour

    def between(self, low: float, high: float) -> float:
        """Draws a proportion of this class."""
        return float(self.rng.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """Draws a count of this class, ``high`` included."""
        return int(self.rng.integers(low, high + 1))


def draw_look(rng: np.random.Generator) -> Look:
    """Draws the materials of a class; classes may share them."""
    wall = WALLS[rng.integers(len(WALLS))]
    factor = rng.uniform(1.08, 1.2) if rng.random() < 0.5 else rng.uniform(0.72, 0.88)
    trim = shaded(wall, float(factor), most=0.95)
    return Look(rng, wall, trim, ROOFS[rng.integers(len(ROOFS))])


def dome(radius: float, bottom: float, height: float, rings: int = 5) -> list[tuple[float, float]]:
    """Profile of a dome for ``Model.revolve``."""
    angles = np.linspace(0, np.pi / 2, rings + 1)
    return [(radius * float(np.cos(a)) + 0.02, bottom + height * float(np.sin(a))) for a in angles]


def steps(model: Model, width: float, depth: float, count: int, rise: float, tread: float, albedo: Colour) -> float:
    """Adds steps up to a platform of width x depth; returns their height."""
    for number in range(count):
        shrink = 2 * tread * (number - count + 1)
        model.box(0, 0, width - shrink, depth - shrink, number * rise, (number + 1) * rise, albedo)
    return count * rise


def obelisk(look: Look) -> Model:
    """A tapering shaft on steps."""
    model, width, height = Model(), look.between(3, 5), look.between(26, 42)
    top = steps(model, width * 2.4, width * 2.4, look.count(2, 4), 0.7, 0.8, look.trim)
    model.box(0, 0, width * 1.5, width * 1.5, top, top + 3, look.trim)
    signs = grid("rhomb", 1, look.count(6, 10), look.trim, (0.2, 0.1, 0.8, 0.95), (0.7, 0.5), False)
    model.box(0, 0, width, width, top + 3, top + height, look.wall, 0.66, decor=signs)
    model.box(0, 0, width * 0.66, width * 0.66, top + height, top + height + width * 0.8, look.roof, 0)
    return model


def step_pyramid(look: Look) -> Model:
    """Terraces, stairs and a shrine."""
    model, levels, width = Model(), look.count(4, 7), look.between(44, 60)
    rise, share = look.between(3, 4.5), look.between(0.55, 0.7)
    for level in range(levels):
        size = width * (1 - share * level / (levels - 1))
        stair = together(bands(3, look.trim, 0.2), only({0, 2}, figure("square", 0.4, 0, 0.2, 1, look.trim)))
        model.box(0, 0, size, size, level * rise, (level + 1) * rise, look.wall, (size - 1.5) / size, decor=stair)
    shrine, top = width * (1 - share) * 0.62, levels * rise
    door = grid("square", 3, 1, DARK, (0.1, 0, 0.9, 0.7), (0.5, 1.0))
    model.box(0, 0, shrine, shrine, top, top + rise * 1.5, look.wall, decor=only({0, 2}, door))
    model.box(0, 0, shrine * 0.9, shrine * 0.6, top + rise * 1.5, top + rise * 2.4, look.trim, 0.85)
    return model


def pyramids(look: Look) -> Model:
    """Smooth pyramids with a remaining casing at the top."""
    model, count, slope = Model(), look.count(2, 3), look.between(0.6, 0.72)
    x, size, cap = 0.0, look.between(40, 50), look.between(0.7, 0.9)
    for number in range(count):
        height = size * slope
        courses = bands(9, look.trim, 0.3)
        model.box(x, number * 6, size, size, 0, height * cap, look.wall, 1 - cap, decor=courses)
        model.box(x, number * 6, size * (1 - cap), size * (1 - cap), height * cap, height, look.roof, 0)
        following = size * look.between(0.5, 0.75)
        x += size * 0.55 + following * 0.55
        size = following
    return model


def temple(look: Look) -> Model:
    """Columns all around, a pediment in front."""
    model, columns, flank = Model(), 2 * look.count(2, 4), look.count(6, 9)
    step, height = look.between(3.2, 4.2), look.between(8, 13)
    width, depth = step * (columns - 1), step * (flank - 1)
    bottom = steps(model, width + 4, depth + 4, look.count(3, 5), 0.7, 0.8, look.trim)
    top, radius = bottom + height, step * 0.22
    places = [(i * step - width / 2, s * depth / 2) for i in range(columns) for s in (-1, 1)]
    places += [(s * width / 2, j * step - depth / 2) for j in range(1, flank - 1) for s in (-1, 1)]
    for x, y in places:
        model.revolve(x, y, [(radius, bottom), (radius * 0.8, top - 0.6)], look.wall, 8)
        model.box(x, y, radius * 2.6, radius * 2.6, top - 0.6, top, look.trim)
    door = only({0}, figure("square", 0.38, 0, 0.24, 0.75, DARK, True))
    model.box(0, 0, width - 2 * step, depth - 2 * step, bottom, top, look.wall, decor=door)
    frieze = together(
        bands(1, look.trim, 0.12), grid("square", columns * 2, 1, look.trim, (0, 0.55, 1, 0.95), (0.4, 1), False)
    )
    model.box(0, 0, width + 2.4, depth + 2.4, top, top + 2.2, look.wall, decor=frieze)
    gable = only({0, 1}, figure("round", 0.35, 0.12, 0.3, 0.45, look.trim))
    model.gable(0, 0, width + 3, depth + 3, top + 2.2, top + 2.2 + width * 0.2, look.wall, look.roof, decor=gable)
    return model


def rotunda(look: Look) -> Model:
    """A round temple: ring of columns, drum and dome."""
    model, columns, radius, height = Model(), look.count(8, 12), look.between(8, 11), look.between(8, 11)
    for number, size in enumerate((1.3, 1.22)):
        model.revolve(0, 0, [(radius * size, number * 0.8), (radius * size, number * 0.8 + 0.8)], look.trim, 16)
    top = 1.6 + height
    for angle in 2 * np.pi * (np.arange(columns) + 0.5) / columns:
        x, y = radius * np.sin(angle), -radius * np.cos(angle)
        model.revolve(x, y, [(0.75, 1.6), (0.6, top)], look.wall, 8)
    windows = grid("arch", 1, 1, DARK, (0.2, 0.2, 0.8, 0.8), (0.6, 0.9))
    model.revolve(0, 0, [(radius * 0.62, 1.6), (radius * 0.62, top)], look.wall, 12, decor=windows)
    model.revolve(0, 0, [(radius * 1.12, top), (radius * 1.12, top + 1.8)], look.trim, 16)
    drum = top + 1.8 + look.between(1, 5)
    model.revolve(0, 0, [(radius * 0.8, top + 1.8), (radius * 0.8, drum)], look.wall, 16, decor=windows)
    model.revolve(0, 0, dome(radius * 0.85, drum, radius * look.between(0.6, 1.0)), look.roof, 16)
    lantern = model.bounds()[1][2]
    model.revolve(0, 0, [(1.2, lantern), (1.2, lantern + 3), (0.05, lantern + 5)], look.trim, 8)
    return model


def triumphal_arch(look: Look) -> Model:
    """One or three passages under an attic."""
    model, three = Model(), look.rng.random() < 0.5
    depth, height, opening, pier = look.between(7, 11), look.between(12, 16), look.between(6, 8), look.between(4, 6)
    side = opening * 0.55 if three else 0.0
    width = opening + 2 * pier + (2 * side + 2 * pier if three else 0)
    niche = only(
        {0, 2},
        together(figure("arch", 0.3, 0.15, 0.4, 0.35, look.trim), figure("round", 0.3, 0.65, 0.4, 0.2, look.trim)),
    )
    edges = [opening / 2 + pier / 2] + ([opening / 2 + pier * 1.5 + side] if three else [])
    for x in [sign * edge for edge in edges for sign in (-1, 1)]:
        model.box(x, 0, pier, depth, 0, height, look.wall, decor=niche)
    gaps = [(0.0, opening, height)]
    if three:
        gaps += [(sign * (opening / 2 + pier + side / 2), side, height * 0.62) for sign in (-1, 1)]
    for x, span, crown in gaps:
        _spandrels(model, x, span, depth, crown, look.wall)
        if crown < height:
            model.box(
                x,
                0,
                span,
                depth,
                crown,
                height,
                look.wall,
                decor=only({0, 2}, figure("square", 0.1, 0.2, 0.8, 0.6, look.trim)),
            )
    model.box(0, 0, width + 1.2, depth + 1.2, height, height + 1.2, look.trim)
    relief = only({0, 2}, grid("square", 5, 1, look.trim, (0.04, 0.15, 0.96, 0.85), (0.75, 1), False))
    model.box(0, 0, width, depth, height + 1.2, height + look.between(5, 8), look.wall, decor=relief)
    return model


def _spandrels(model: Model, x: float, span: float, depth: float, crown: float, albedo: Colour) -> None:
    """Fills the corners under a flat lintel, which leaves a round arch."""
    radius, angles = span / 2, np.linspace(0, np.pi / 2, 5)
    for sign in (-1, 1):
        for a, b in pairwise(angles):
            left, right = x + sign * radius * np.cos(a), x + sign * radius * np.cos(b)
            low = crown - radius + radius * np.sin((a + b) / 2)
            model.box((left + right) / 2, 0, abs(right - left), depth, low, crown, albedo)


def aqueduct(look: Look) -> Model:
    """Tiers of arches."""
    model, tiers, spans = Model(), look.count(1, 3), look.count(5, 8)
    span, pier, rise, depth = look.between(7, 9), look.between(2, 3), look.between(9, 13), look.between(4, 6)
    step = span + pier
    for tier in range(tiers):
        bottom, height = tier * (rise + 1), rise if tier < 2 else rise * 0.6
        for number in range(spans + 1):
            x = (number - spans / 2) * step
            model.box(
                x,
                0,
                pier,
                depth * (1 - 0.12 * tier),
                bottom,
                bottom + height,
                look.wall,
                decor=bands(5, look.trim, 0.2),
            )
            if number < spans:
                _arch(model, x + step / 2, span, depth * (1 - 0.12 * tier), bottom + height, look.wall)
        model.box(0, 0, step * spans + pier + 1, depth * 1.1, bottom + height, bottom + height + 1, look.trim)
    return model


def _arch(model: Model, x: float, span: float, depth: float, crown: float, albedo: Colour) -> None:
    radius, levels = span / 2, (0.35, 0.7, 0.95)
    for sign in (-1, 1):
        inner = 1.0
        for level in levels:
            outer, inner = inner, float(np.sqrt(1 - level**2))
            left, right = x + sign * radius * outer, x + sign * radius * inner
            model.box((left + right) / 2, 0, abs(left - right), depth, crown - radius + radius * level, crown, albedo)
