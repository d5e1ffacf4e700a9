"""Forms of procedural landmarks: modern and unusual ones, and the list of all kinds."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from timm_landmark.data.synthetic import forms as classic
from timm_landmark.data.synthetic import forms_town as town
from timm_landmark.data.synthetic.decor import bands, figure, grid, lattice, only, together
from timm_landmark.data.synthetic.forms import DARK, Look
from timm_landmark.data.synthetic.geometry import Colour, Model, polygon, shaded


def lattice_tower(look: Look) -> Model:
    """Four iron legs that meet at the top."""
    model, height, width = Model(), look.between(80, 110), look.between(36, 44)
    steel: Colour = [(0.42, 0.34, 0.28), (0.55, 0.56, 0.58), (0.66, 0.30, 0.22)][look.count(0, 2)]
    shade = shaded(steel, 0.6)
    first, second = height * look.between(0.16, 0.22), height * look.between(0.36, 0.42)
    spread, leg = width / 2, width * 0.2
    levels = [(0.0, first, 1.0, 0.62), (first + 1.5, second, 0.6, 0.34)]
    for low, high, outer, inner in levels:
        for x, y in [(-1, -1), (1, -1), (1, 1), (-1, 1)]:
            size = leg * outer
            start, end = (spread * outer - size / 2), (spread * inner - size * 0.4)
            base = polygon(x * start, y * start, size / np.sqrt(2), 4)
            model.prism(base, low, high, steel, 0.8, (x * (end - start), y * (end - start)), decor=lattice(3, shade))
        plate = spread * inner * 2 + 2
        model.box(0, 0, plate, plate, high, high + 1.5, steel, decor=grid("square", 8, 1, shade, fill=(0.6, 0.6)))
    shaft = spread * 0.34 * 2 * 0.7
    model.box(0, 0, shaft, shaft, second + 1.5, height * 0.9, steel, 0.22, decor=lattice(7, shade, 0.16))
    model.box(0, 0, shaft * 0.5, shaft * 0.5, height * 0.9, height * 0.93, steel)
    model.revolve(0, 0, [(0.8, height * 0.93), (0.2, height)], steel, 6)
    return model


def skyscraper(look: Look) -> Model:
    """Setbacks and many windows."""
    model, tiers, width = Model(), look.count(3, 5), look.between(24, 32)
    bottom, height, taper = 0.0, look.between(40, 55), look.between(0.62, 0.78)
    vertical = look.rng.random() < 0.5
    for tier in range(tiers):
        columns, rows = max(3, int(width / 4)), max(3, int(height / 5))
        panes = bands(columns, DARK, 0.4, True) if vertical else grid("square", columns, rows, DARK, fill=(0.55, 0.55))
        model.box(0, 0, width, width * 0.8, bottom, bottom + height, look.wall, cap=look.trim, decor=panes)
        bottom, height, width = bottom + height, height * look.between(0.45, 0.65), width * taper
        if tier == tiers - 1:
            model.box(0, 0, width, width * 0.8, bottom, bottom + width, look.roof, 0.3)
            model.revolve(
                0, 0, [(width * 0.1, bottom + width), (0.1, bottom + width * look.between(2, 4))], look.trim, 6
            )
    return model


def windmill(look: Look) -> Model:
    """A tapering mill and four sails."""
    model, radius, height, sides = Model(), look.between(5, 6.5), look.between(14, 18), look.count(6, 10)
    windows = grid("square", 1, 3, DARK, (0.3, 0.2, 0.7, 0.9), (0.5, 0.35))
    model.prism(polygon(0, 0, radius, sides), 0, height, look.wall, look.between(0.55, 0.7), decor=windows)
    model.revolve(0, 0, [(radius * 1.35, height * 0.35), (radius * 1.35, height * 0.37)], look.trim, sides)
    top = radius * 0.75
    model.revolve(0, 0, _cap(top, height), look.roof, sides)
    front, hub, length, turn = -radius * 1.4, height + 1.5, height * look.between(0.62, 0.78), look.between(0.2, 1.2)
    model.box(0, (front - top) / 2, 0.8, -front - top, hub - 0.4, hub + 0.4, look.trim)
    for angle in turn + np.arange(4) * np.pi / 2:
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        plan = [along * 0.5, along * length, along * length + across * 2.2, along * length * 0.2 + across * 2.2]
        points = np.array([[p[0], front, hub + p[1]] for p in plan])
        model.sheet(points, (0.88, 0.85, 0.78))
    return model


def _cap(radius: float, bottom: float) -> list[tuple[float, float]]:
    return [(radius, bottom), (radius * 0.95, bottom + 2), (radius * 0.6, bottom + 3.6), (0.1, bottom + 4.6)]


def statue(look: Look) -> Model:
    """A robed figure with a raised arm on a pedestal."""
    model, base, size = Model(), look.between(9, 13), look.between(18, 26)
    metal: Colour = [(0.42, 0.62, 0.55), (0.45, 0.38, 0.30), (0.80, 0.66, 0.30), (0.88, 0.88, 0.86)][look.count(0, 3)]
    bottom = classic.steps(model, base * 1.7, base * 1.7, 3, 0.8, 1.2, look.trim)
    top = bottom + look.between(8, 14)
    panel = together(figure("square", 0.2, 0.25, 0.6, 0.5, look.trim), bands(1, look.trim, 0.04))
    model.box(0, 0, base, base, bottom, top, look.wall, 0.82, decor=panel)
    robe = [(0.20, 0.0), (0.17, 0.25), (0.13, 0.5), (0.16, 0.66), (0.15, 0.76), (0.05, 0.80)]
    model.revolve(0, 0, [(r * size, top + h * size) for r, h in robe], metal, 10)
    head = [(0.05, 0.80), (0.075, 0.85), (0.07, 0.91), (0.03, 0.95)]
    model.revolve(0, 0, [(r * size, top + h * size) for r, h in head], metal, 8)
    if look.rng.random() < 0.5:
        model.revolve(0, 0, [(0.1 * size, top + 0.95 * size), (0.12 * size, top + 0.99 * size)], look.roof, 7)
    arm = top + 0.68 * size
    side = 1 if look.rng.random() < 0.5 else -1
    reach = size * look.between(0.05, 0.25)
    model.prism(polygon(side * 0.19 * size, 0, 0.05 * size, 6), arm, top + size, metal, 0.8, (side * reach, 0.0))
    model.box(side * (0.19 * size + reach), 0, 0.1 * size, 0.1 * size, top + size, top + 1.12 * size, look.roof, 0.5)
    model.box(-side * 0.2 * size, -0.05 * size, 0.08 * size, 0.2 * size, top + 0.42 * size, top + 0.62 * size, metal)
    return model


def column_gate(look: Look) -> Model:
    """A row of columns carrying an attic and a chariot, wings on both sides."""
    model, columns, step, height = Model(), look.count(5, 7), look.between(4.2, 5.2), look.between(12, 15)
    depth, width = look.between(8, 11), 0.0
    width = step * (columns - 1)
    model.box(0, 0, width + 6, depth + 2, 0, 1, look.trim)
    for number in range(columns):
        x = number * step - width / 2
        for y in (-depth / 2, depth / 2):
            model.revolve(x, y, [(0.95, 1), (0.8, height)], look.wall, 8)
        model.box(x, 0, 0.9, depth - 2.4, 1, height, look.wall)
    frieze = grid("square", columns * 3, 1, look.trim, (0.02, 0.2, 0.98, 0.8), (0.5, 1.0), False)
    model.box(0, 0, width + 4, depth + 3, height, height + 3, look.wall, decor=frieze)
    model.box(0, 0, width * 0.7, depth, height + 3, height + 5, look.trim)
    for x in (-2.4, -0.8, 0.8, 2.4):
        model.box(x, -1.5, 0.8, 2.6, height + 5, height + 7.4, look.roof, 0.8)
    model.box(0, 1.8, 3, 2, height + 5, height + 8.5, look.roof, 0.5)
    for sign in (-1, 1):
        x = sign * (width / 2 + 3 + 5)
        model.box(x, 0, 9.6, depth, 0, height * 0.55, look.wall, decor=grid("square", 3, 1, DARK, (0.05, 0, 0.95, 0.8)))
        model.gable(x, 0, 9.8, depth + 1, height * 0.55, height * 0.55 + 2.4, look.wall, look.roof)
    return model


def arena(look: Look) -> Model:
    """A ring of arcades, partly collapsed on one side."""
    model, radius, floors, sides = Model(), look.between(24, 30), look.count(2, 4), 20
    rise, low = look.between(5, 6.5), look.count(1, 2)
    corners = polygon(0, 0, radius, sides)
    inner = corners * 0.8
    for number in range(sides):
        following = (number + 1) % sides
        base = np.array([corners[number], corners[following], inner[following], inner[number]])
        for floor in range(floors if number < sides * 0.6 else max(1, floors - low)):
            arcade = together(
                figure("arch", 0.25, 0.0, 0.5, 0.75, DARK, True), figure("square", 0, 0.88, 1, 0.1, look.trim)
            )
            model.prism(base, floor * rise, (floor + 1) * rise, look.wall, decor=only({0, 2}, arcade))
    return model


def stupa(look: Look) -> Model:
    """A bell on terraces with a ringed spire."""
    model, radius, terraces = Model(), look.between(11, 15), look.count(2, 4)
    for number in range(terraces):
        size = radius * (3 - 0.3 * number)
        niches = grid("arch", 7, 1, look.trim, fill=(0.5, 0.8))
        model.box(0, 0, size, size, number * 2.2, (number + 1) * 2.2, look.wall, decor=niches)
    bottom = terraces * 2.2
    bell = [(1.0, 0.0), (0.97, 0.3), (0.85, 0.6), (0.62, 0.85), (0.4, 0.98)]
    stretch = look.between(0.8, 1.3)
    model.revolve(0, 0, [(radius * r, bottom + radius * stretch * h) for r, h in bell], look.wall, 16)
    top = bottom + radius * stretch * 0.98
    model.box(0, 0, radius * 0.6, radius * 0.6, top, top + 3, look.trim)
    rings, height = look.count(5, 8), radius * look.between(0.9, 1.4)
    widths = np.linspace(radius * 0.28, 0.3, rings + 1)
    for number in range(rings):
        low, high = top + 3 + height * number / rings, top + 3 + height * (number + 1) / rings
        model.revolve(0, 0, [(float(widths[number]), low), (float(widths[number + 1]) * 0.9, high)], look.roof, 10)
    model.revolve(0, 0, [(0.3, top + 3 + height), (0.05, top + 7 + height)], look.roof, 6)
    for x, y in [(-1, -1), (1, -1), (1, 1), (-1, 1)]:
        away = radius * 1.2
        model.revolve(x * away, y * away, [(2, 2.2), (1.6, 5), (0.6, 6), (0.05, 9)], look.trim, 8)
    return model


def stone_circle(look: Look) -> Model:
    """Standing stones, some with lintels."""
    model, stones, radius, height = Model(), look.count(9, 13), look.between(12, 15), look.between(5, 7)
    for number in range(stones):
        angle = 2 * np.pi * number / stones
        x, y = radius * np.sin(angle), -radius * np.cos(angle)
        tall = height if number % 3 != 2 else height * look.between(0.6, 0.9)
        model.prism(polygon(x, y, look.between(1.3, 1.8), 5), 0, tall, look.wall, look.between(0.75, 0.9))
        if number % 3 == 0:
            middle = angle + np.pi / stones
            inside = radius * np.cos(np.pi / stones)
            along, across = np.array([np.cos(middle), np.sin(middle)]), np.array([-np.sin(middle), np.cos(middle)])
            centre = inside * np.array([np.sin(middle), -np.cos(middle)])
            length = radius * np.sin(np.pi / stones) + 1.4
            plan = [
                -along * length - across,
                along * length - across,
                along * length + across,
                -along * length + across,
            ]
            model.prism(centre + np.array(plan), height, height + 1.6, look.trim, 0.95)
    for x in (-3.4, 3.4):
        model.box(x, 3, 2.4, 1.8, 0, height * 1.3, look.wall, 0.9)
    model.box(0, 3, 9.5, 2.2, height * 1.3, height * 1.3 + 1.8, look.trim, 0.95)
    return model


def television_tower(look: Look) -> Model:
    """A tower with a sphere."""
    model, height, radius = Model(), look.between(80, 110), look.between(6, 9)
    ball = height * look.between(0.55, 0.68)
    model.revolve(0, 0, [(radius * 1.8, 0), (radius * 1.6, 5)], look.trim, 16, decor=grid("square", 2, 1, DARK))
    model.revolve(0, 0, [(radius * 0.6, 5), (radius * 0.36, 25), (radius * 0.28, ball - radius * 0.8)], look.wall, 10)
    angles = np.linspace(-0.93, 1.2, 8)
    profile = [(radius * float(np.cos(a)), ball + radius * float(np.sin(a))) for a in angles]
    panes = grid("square", 1, 1, DARK, fill=(0.7, 0.6))
    model.revolve(0, 0, profile, (0.66, 0.68, 0.72), 14, decor=panes)
    top = profile[-1][1]
    model.revolve(
        0, 0, [(1.6, top), (1.2, height * 0.85), (0.2, height)], (0.85, 0.3, 0.25), 6, stripes=(0.9, 0.9, 0.9)
    )
    return model


def ferris_wheel(look: Look) -> Model:
    """A large wheel on two supports."""
    model, radius, cabins = Model(), look.between(22, 28), look.count(12, 18)
    steel: Colour = [(0.85, 0.86, 0.88), (0.30, 0.42, 0.62), (0.72, 0.28, 0.26)][look.count(0, 2)]
    hub = radius + 6
    for y in (-3.5, 3.5):
        for sign in (-1, 1):
            foot, wide = sign * radius * 0.5, 0.9
            points = [[foot - wide, y * 1.6, 0], [foot + wide, y * 1.6, 0], [wide, y, hub], [-wide, y, hub]]
            model.sheet(np.array(points), steel)
    angles = np.linspace(0, 2 * np.pi, 2 * cabins + 1)
    for a, b in pairwise(angles):
        corners = ((radius, a), (radius, b), (radius * 0.95, b), (radius * 0.95, a))
        ring = [[r * np.cos(t), 0.0, hub + r * np.sin(t)] for r, t in corners]
        model.sheet(np.array(ring), steel)
    for angle in angles[:-1:2]:
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        spoke = [
            across * 0.18,
            along * radius * 0.95 + across * 0.18,
            along * radius * 0.95 - across * 0.18,
            -across * 0.18,
        ]
        model.sheet(np.array([[p[0], 0.0, hub + p[1]] for p in spoke]), steel)
        x, z = along * (radius + 0.3)
        model.box(x, 0, 2.4, 2.4, hub + z - 2.6, hub + z, look.roof, decor=grid("square", 1, 1, DARK))
    model.box(0, 9, radius * 1.2, 6, 0, 4, look.wall, decor=grid("square", 6, 1, DARK, (0, 0.1, 1, 0.8)))
    return model


def palace(look: Look) -> Model:
    """A long facade with pavilions at its ends, and a portico and a dome in the middle."""
    model, wing, height, depth = Model(), look.between(20, 30), look.between(10, 14), look.between(12, 16)
    floors, middle, roof = look.count(2, 3), look.between(12, 16), look.between(3, 6)
    for sign in (-1, 1):
        x = sign * (middle / 2 + wing / 2)
        rows = together(
            grid("square", look.count(6, 8), floors, DARK, (0.02, 0.08, 0.98, 0.95), (0.4, 0.6)),
            bands(floors, look.trim, 0.06),
        )
        model.box(x, 0, wing, depth, 0, height, look.wall, decor=rows)
        model.gable(x, 0, wing, depth, height, height + roof, look.wall, look.roof, True)
        end = sign * (middle / 2 + wing + 4)
        model.box(end, 0, 8, depth + 4, 0, height * 1.15, look.trim, decor=grid("arch", 2, floors, DARK))
        model.box(end, 0, 8.6, depth + 4.6, height * 1.15, height * 1.15 + roof * 1.3, look.roof, 0.4)
    model.box(0, 0, middle, depth + 3, 0, height * 1.2, look.wall, decor=grid("arch", 5, 2, DARK, fill=(0.45, 0.7)))
    front = -(depth + 3) / 2 - 3
    for x in np.linspace(-middle / 2 + 1, middle / 2 - 1, 6):
        model.revolve(float(x), front, [(0.7, 0), (0.6, height)], look.trim, 8)
    model.box(0, front + 0.9, middle, 3.8, height, height * 1.12, look.trim)
    drum, radius = height * 1.2 + look.between(2, 6), middle * look.between(0.3, 0.42)
    model.revolve(0, 0, [(radius, height * 1.2), (radius, drum)], look.trim, 14, decor=grid("arch", 1, 1, DARK))
    model.revolve(0, 0, classic.dome(radius, drum, radius * look.between(0.7, 1.3)), look.roof, 14)
    top = model.bounds()[1][2]
    model.revolve(0, 0, [(0.9, top), (0.9, top + 2.4), (0.05, top + 5)], look.trim, 6)
    return model


# name and builder of each kind
KINDS: list[tuple[str, Callable[[Look], Model]]] = [
    ("Obelisk", classic.obelisk), ("Cathedral", town.cathedral), ("Pagoda", town.pagoda),
    ("Castle", town.castle), ("Lighthouse", town.lighthouse), ("Temple", classic.temple),
    ("Great Mosque", town.mosque), ("Step Pyramid", classic.step_pyramid), ("Lattice Tower", lattice_tower),
    ("Aqueduct", classic.aqueduct), ("Windmill", windmill), ("Arena", arena), ("Statue", statue),
    ("Suspension Bridge", town.suspension_bridge), ("Onion Church", town.onion_church),
    ("Triumphal Arch", classic.triumphal_arch), ("Skyscraper", skyscraper), ("Stupa", stupa),
    ("Clock Tower", town.clock_tower), ("Stone Circle", stone_circle), ("Palace", palace),
    ("Rotunda", classic.rotunda), ("Pyramids", classic.pyramids), ("Ferris Wheel", ferris_wheel),
    ("Leaning Tower", town.leaning_tower), ("Column Gate", column_gate), ("Television Tower", television_tower),
]  # fmt: skip
