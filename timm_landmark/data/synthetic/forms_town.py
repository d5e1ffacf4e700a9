"""Forms of procedural landmarks: towers, places of worship, castles and bridges."""

import numpy as np

from timm_landmark.data.synthetic.decor import bands, clock, figure, grid, only, together
from timm_landmark.data.synthetic.forms import DARK, ROOFS, Look, dome
from timm_landmark.data.synthetic.geometry import Colour, Model, polygon


def clock_tower(look: Look) -> Model:
    """A slim shaft, a clock on each side, a spire."""
    model, width, height = Model(), look.between(7, 10), look.between(38, 56)
    slits = grid("arch", look.count(1, 3), look.count(5, 8), DARK, (0.12, 0.08, 0.88, 0.96), (0.35, 0.6))
    model.box(0, 0, width, width, 0, height, look.wall, decor=slits)
    face = clock(0.5, 0.5, 0.72, 0.72, (0.93, 0.91, 0.82), look.trim, DARK)
    model.box(0, 0, width * 1.15, width * 1.15, height, height + width * 1.15, look.wall, decor=face)
    top = height + width * 1.15
    belfry = grid("pointed", 3, 1, DARK, (0.05, 0.05, 0.95, 0.95), (0.6, 0.9))
    model.box(0, 0, width * 0.95, width * 0.95, top, top + width * 0.6, look.trim, decor=belfry)
    model.box(0, 0, width * 1.1, width * 1.1, top + width * 0.6, top + width * look.between(1.6, 3), look.roof, 0)
    return model


def leaning_tower(look: Look) -> Model:
    """Leaning stack of round arcades."""
    model, radius, floors = Model(), look.between(6, 8), look.count(5, 8)
    rise, lean = look.between(5, 6.5), look.between(0.07, 0.13)
    for floor in range(floors):
        bottom = floor * rise
        arcade = grid("arch", 1, 1, DARK, (0.1, 0.05, 0.9, 0.85), (0.62, 1.0), False)
        model.revolve(0, 0, [(radius, bottom), (radius, bottom + rise - 0.7)], look.wall, 14, lean, arcade)
        model.revolve(0, 0, [(radius * 1.1, bottom + rise - 0.7), (radius * 1.1, bottom + rise)], look.trim, 14, lean)
    top = floors * rise
    model.revolve(0, 0, [(radius * 0.7, top), (radius * 0.7, top + 5)], look.wall, 12, lean, grid("arch", 1, 1, DARK))
    return model


def mosque(look: Look) -> Model:
    """A large dome between minarets."""
    model, width, height = Model(), look.between(24, 32), look.between(9, 13)
    arches = together(
        grid("pointed", 5, 1, DARK, (0.05, 0, 0.95, 0.6)),
        grid("round", 7, 1, DARK, (0.05, 0.68, 0.95, 0.9), (0.35, 0.8)),
    )
    model.box(0, 0, width, width, 0, height, look.wall, decor=arches)
    drum, radius = height + look.between(2, 4), width * look.between(0.28, 0.4)
    model.revolve(0, 0, [(radius, height), (radius, drum)], look.trim, 16, decor=grid("arch", 1, 1, DARK))
    model.revolve(0, 0, dome(radius, drum, radius * look.between(0.75, 1.15), 6), look.roof, 16)
    top = model.bounds()[1][2]
    model.revolve(0, 0, [(0.5, top), (0.05, top + 4)], look.trim, 6)
    away, tall = width * 0.5 + 4, top * look.between(1.05, 1.4)
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)] if look.rng.random() < 0.6 else [(-1, -1), (1, -1)]
    for x, y in corners:
        for part, (low, high) in enumerate(((0.0, 0.55), (0.58, 0.82))):
            r = 1.7 - 0.4 * part
            model.revolve(x * away, y * away, [(r, tall * low), (r, tall * high)], look.wall, 8)
            model.revolve(x * away, y * away, [(r * 1.7, tall * high), (r * 1.7, tall * (high + 0.03))], look.trim, 8)
        model.revolve(x * away, y * away, [(1.2, tall * 0.85), (0.05, tall)], look.roof, 8)
    return model


def cathedral(look: Look) -> Model:
    """Two towers, a rose window and a steep nave."""
    model, width, tower, height = Model(), look.between(12, 16), look.between(7, 9), look.between(26, 36)
    depth, eaves = look.between(36, 50), height * look.between(0.5, 0.62)
    aisle = only({1, 3}, grid("pointed", 7, 1, DARK, (0.02, 0.15, 0.98, 0.9), (0.45, 1.0)))
    model.box(0, depth / 2 + tower, width + 6, depth, 0, eaves, look.wall, decor=aisle)
    model.gable(0, depth / 2 + tower, width + 6, depth, eaves, height, look.wall, look.roof)
    front = together(
        figure("pointed", 0.3, 0, 0.4, 0.4, DARK),
        figure("round", 0.22, 0.52, 0.56, 0.36, look.trim),
        figure("round", 0.3, 0.57, 0.4, 0.26, (0.35, 0.3, 0.5), True),
    )
    model.box(0, tower / 2, width, tower, 0, height * 0.8, look.wall, decor=only({0}, front))
    spire = look.between(0.3, 1.0) * height
    storeys = together(bands(4, look.trim, 0.08), grid("pointed", 2, 3, DARK, (0.12, 0.2, 0.88, 0.97), (0.45, 0.75)))
    for x in (-1, 1):
        middle = x * (width + tower) / 2
        model.box(middle, tower / 2, tower, tower, 0, height, look.wall, decor=storeys)
        model.box(middle, tower / 2, tower * 0.95, tower * 0.95, height, height + spire, look.roof, 0)
    return model


def _onion(radius: float, bottom: float) -> list[tuple[float, float]]:
    shape = [(0.78, 0), (1.0, 0.45), (1.0, 0.8), (0.72, 1.25), (0.3, 1.6), (0.1, 2.0), (0.03, 2.6)]
    return [(radius * r, bottom + radius * h) for r, h in shape]


def onion_church(look: Look) -> Model:
    """Drums of different heights with onion domes."""
    model, width, height = Model(), look.between(16, 20), look.between(10, 14)
    windows = together(grid("arch", 4, 2, DARK, (0.06, 0.1, 0.94, 0.8), (0.35, 0.7)), bands(2, look.trim, 0.15))
    model.box(0, 0, width, width, 0, height, look.wall, decor=windows)
    colours = [look.roof, *[ROOFS[i] for i in look.rng.permutation(len(ROOFS))[:4]]]
    reach = width * 0.32
    for number, (x, y) in enumerate([(0, 0), (-1, -1), (1, -1), (1, 1), (-1, 1)]):
        radius = width * (0.17 if number == 0 else 0.115)
        top = height + (look.between(10, 15) if number == 0 else look.between(4, 8))
        drum = grid("arch", 1, 1, DARK, (0.2, 0.1, 0.8, 0.9))
        model.revolve(x * reach, y * reach, [(radius, height), (radius, top)], look.wall, 10, decor=drum)
        model.revolve(x * reach, y * reach, _onion(radius * 1.35, top), colours[number], 12)
    return model


def pagoda(look: Look) -> Model:
    """Storeys that become smaller, with wide roofs."""
    model, floors, sides = Model(), look.count(3, 7), 4 if look.rng.random() < 0.6 else 8
    radius, shrink, rise = look.between(6, 8), look.between(0.85, 0.92), look.between(3.4, 4.6)
    flare, bottom = look.between(1.5, 1.9), 1.5
    model.prism(polygon(0, 0, radius * 1.9, sides), 0, bottom, look.trim)
    for _ in range(floors):
        doors = grid("square", 3, 1, DARK, (0.08, 0.05, 0.92, 0.9), (0.6, 1.0))
        model.prism(polygon(0, 0, radius, sides), bottom, bottom + rise * 0.6, look.wall, decor=doors)
        eaves = polygon(0, 0, radius * flare, sides)
        model.prism(eaves, bottom + rise * 0.6, bottom + rise * 0.75, look.roof, 0.85)
        model.prism(polygon(0, 0, radius * flare * 0.85, sides), bottom + rise * 0.75, bottom + rise, look.roof, 0.62)
        bottom, radius = bottom + rise, radius * shrink
    model.revolve(0, 0, [(0.7, bottom), (0.5, bottom + 3), (0.05, bottom + 6)], look.trim, 6)
    return model


def lighthouse(look: Look) -> Model:
    """A tapering tower with stripes and a lantern."""
    model, radius, height, rings = Model(), look.between(4.5, 6.5), look.between(24, 36), look.count(4, 8)
    heights = np.linspace(2, height, rings + 1)
    radii = np.linspace(radius, radius * look.between(0.5, 0.65), rings + 1)
    stripe: Colour = look.roof if look.rng.random() < 0.75 else look.trim
    model.box(0, 0, radius * 3, radius * 3, 0, 2, look.trim)
    model.revolve(0, 0, list(zip(radii.tolist(), heights.tolist(), strict=True)), (0.92, 0.92, 0.9), 16, stripes=stripe)
    top = radii[-1]
    model.revolve(0, 0, [(top * 1.5, height), (top * 1.5, height + 0.7)], DARK, 16)
    lamp = grid("square", 1, 1, (0.95, 0.9, 0.6))
    model.revolve(0, 0, [(top * 0.75, height + 0.7), (top * 0.75, height + 4)], (0.8, 0.85, 0.8), 12, decor=lamp)
    model.revolve(0, 0, [(top, height + 4), (top * 0.5, height + 6), (0.05, height + 7.5)], stripe, 12)
    model.box(radius * 3.6, 3, radius * 2.4, radius * 2, 0, 4, look.wall, decor=grid("square", 3, 1, DARK))
    model.gable(radius * 3.6, 3, radius * 2.6, radius * 2.2, 4, 7, look.wall, look.roof, True)
    return model


def suspension_bridge(look: Look) -> Model:
    """Two portals, a deck, cables."""
    model, span, height, deck = Model(), look.between(70, 100), look.between(34, 48), look.between(8, 12)
    steel: Colour = look.roof if look.rng.random() < 0.6 else (0.50, 0.53, 0.56)
    half, end = span / 2, span * 0.85
    for x in (-half, half):
        for y in (-4.6, 4.6):
            model.box(x, y, 3.2, 2.2, 0, height, steel, 0.8)
        for low in (deck + (height - deck) * 0.45, height - 4):
            model.box(x, 0, 2.4, 7, low, low + 2.5, steel)
    model.box(
        0,
        0,
        2 * end,
        6.8,
        deck,
        deck + 1.6,
        look.trim,
        decor=only({0, 2}, grid("square", 40, 1, DARK, (0, 0.2, 1, 0.8), (0.3, 1), False)),
    )
    sag, drop = deck + look.between(3, 6), np.array([0, 0, 0.8])
    for y in (-5.9, 5.9):
        places = np.linspace(-1, 1, 13)
        cable = np.column_stack([places * half, np.full(13, y), sag + (height - sag) * places**2])
        model.sheet(np.vstack([cable, cable[::-1] - drop]), steel)
        for x, _, z in cable[1:-1]:
            model.sheet(np.array([[x - 0.15, y, deck], [x + 0.15, y, deck], [x + 0.15, y, z], [x - 0.15, y, z]]), steel)
        for sign in (-1, 1):
            ends = np.array([[sign * half, y, height], [sign * end, y, deck + 1]])
            model.sheet(np.vstack([ends, ends[::-1] - drop]), steel)
    return model


def castle(look: Look) -> Model:
    """Round towers, battlements, a keep."""
    model, width, height, radius = Model(), look.between(30, 40), look.between(9, 13), look.between(3.8, 5)
    reach, roofs, sides = width / 2, look.between(0.7, 1.8), look.count(8, 14)
    slits = grid("square", 1, 2, DARK, (0.3, 0.3, 0.7, 0.9), (0.3, 0.4))
    for x, y in [(-1, -1), (1, -1), (1, 1), (-1, 1)]:
        top = height * look.between(1.3, 1.8)
        model.revolve(x * reach, y * reach, [(radius, 0), (radius, top)], look.wall, sides, decor=slits)
        model.revolve(x * reach, y * reach, [(radius * 1.2, top), (0.05, top + radius * 2 * roofs)], look.roof, sides)
    length = width - 2 * radius - 0.2
    for number, (x, y) in enumerate([(0, -1), (1, 0), (0, 1), (-1, 0)]):
        w, d = (length, 2.5) if x == 0 else (2.5, length)
        gate = figure("arch", 0.42, 0, 0.16, 0.75, DARK, True) if number == 0 else bands(3, look.trim, 0.1)
        model.box(x * reach, y * reach, w, d, 0, height, look.wall, decor=only({0}, gate))
        merlons = 7
        for place in (np.arange(merlons) + 0.5) / merlons - 0.5:
            mx, my = (place * length, y * reach) if x == 0 else (x * reach, place * length)
            size = length / merlons * 0.55
            model.box(mx, my, size if x == 0 else 2.5, 2.5 if x == 0 else size, height, height + 1.5, look.wall)
    keep, tall = width * look.between(0.26, 0.36), height * look.between(1.7, 2.4)
    model.box(0, 0, keep, keep, 0, tall, look.wall, decor=grid("arch", 3, 4, DARK, fill=(0.3, 0.4)))
    model.box(0, 0, keep * 1.1, keep * 1.1, tall, tall + keep * roofs * 0.7, look.roof, 0)
    return model
