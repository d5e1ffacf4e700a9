"""The surroundings of a procedural landmark: houses, trees, people, lamps, and objects at the picture's edge."""

import numpy as np
from PIL import ImageDraw

from timm_landmark.data.synthetic.decor import grid
from timm_landmark.data.synthetic.forms import DARK, ROOFS, WALLS
from timm_landmark.data.synthetic.geometry import Model, polygon

_LEAVES = [(0.20, 0.34, 0.14), (0.30, 0.42, 0.16), (0.16, 0.28, 0.18), (0.58, 0.40, 0.14), (0.48, 0.24, 0.12)]

_CLOTHES = [
    (0.7, 0.15, 0.15),
    (0.15, 0.2, 0.5),
    (0.85, 0.85, 0.85),
    (0.1, 0.1, 0.1),
    (0.75, 0.6, 0.2),
    (0.2, 0.45, 0.3),
]


def surroundings(landmark: Model, eye: np.ndarray, rng: np.random.Generator) -> Model:
    """Houses and trees around the landmark; people, trees and lamps between it and the camera."""
    model = Model()
    low, high = landmark.bounds()
    middle, reach = (low + high)[:2] / 2, np.hypot(*(high - low)[:2]) / 2
    towards = eye[:2] - middle
    distance = np.linalg.norm(towards)
    view = np.arctan2(towards[0], -towards[1])
    right = np.array([np.cos(view), np.sin(view)])
    if rng.random() < 0.6:
        for _ in range(rng.integers(2, 11)):
            angle = view + np.pi + rng.uniform(-1.9, 1.9)
            away = reach * rng.uniform(1.25, 2.6) + 12
            _house(model, middle + away * np.array([np.sin(angle), -np.cos(angle)]), rng)
    for _ in range(rng.integers(0, 9)):
        angle, away = rng.uniform(0, 2 * np.pi), reach * rng.uniform(1.15, 2.2) + 4
        place = middle + away * np.array([np.sin(angle), -np.cos(angle)])
        if np.linalg.norm(place - eye[:2]) > 8:
            _tree(model, place, rng.uniform(5, 13), rng)
    for _ in range(rng.integers(0, 9)):
        share = rng.uniform(0.08, 0.6)
        place = eye[:2] - towards * share + right * distance * share * rng.uniform(-0.6, 0.6)
        _person(model, place, rng)
    for _ in range(rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))):  # objects that hide part of the landmark
        share = rng.uniform(0.2, 0.5)
        place = eye[:2] - towards * share + right * distance * share * rng.uniform(-0.6, 0.6)
        if rng.random() < 0.6:
            _tree(model, place, min(rng.uniform(5, 14), distance * share * rng.uniform(0.4, 0.7)), rng)
        else:
            _lamp(model, place, rng.uniform(5, 9))
    return model


def _house(model: Model, place: np.ndarray, rng: np.random.Generator) -> None:
    width, depth, height = rng.uniform(8, 22), rng.uniform(8, 18), rng.uniform(6, 22)
    wall, roof = WALLS[rng.integers(len(WALLS))], ROOFS[rng.integers(len(ROOFS))]
    panes = grid("square", int(width / 3), max(2, int(height / 4)), DARK, fill=(0.45, 0.5))
    x, y = place
    model.box(x, y, width, depth, 0, height, wall, decor=panes)
    if rng.random() < 0.6:
        model.gable(x, y, width, depth, height, height + rng.uniform(2, 5), wall, roof, rng.random() < 0.5)


def _tree(model: Model, place: np.ndarray, height: float, rng: np.random.Generator) -> None:
    x, y = place
    trunk = np.array([[-1, 0, 0], [1, 0, 0], [0.6, 0, 1], [-0.6, 0, 1]]) * [height * 0.03, 0, height * 0.5] + [x, y, 0]
    leaf = np.array(_LEAVES[rng.integers(len(_LEAVES))])
    slim, count = rng.uniform(0.5, 1.1), 26
    offsets = rng.normal(0, 1, (count, 3)) * [0.14 * height * slim, 0.14 * height * slim, 0.13 * height]
    radii = rng.uniform(0.05, 0.11, count) * height
    shades = rng.uniform(0.8, 1.2, count)
    blobs = [
        (x + dx, y + dy, max(height * 0.66 + dz, radius), radius, tuple(leaf * shade))
        for (dx, dy, dz), radius, shade in zip(offsets.tolist(), radii.tolist(), shades.tolist(), strict=True)
    ]
    brown = (0.3, 0.22, 0.16)
    model.add([(trunk, brown, False), (trunk[::-1], brown, False)], sorted(blobs, key=lambda blob: blob[2]))


def _person(model: Model, place: np.ndarray, rng: np.random.Generator) -> None:
    x, y = place
    tall, cloth, legs = rng.uniform(1.5, 1.9), *(_CLOTHES[i] for i in rng.integers(len(_CLOTHES), size=2))
    model.prism(polygon(x, y, 0.22, 5), 0, tall * 0.48, legs)
    model.prism(polygon(x, y, 0.2, 5), tall * 0.48, tall * 0.84, cloth, 1.25)
    model.add([], [(x, y, tall * 0.93, 0.13, (0.75, 0.55, 0.42))])


def _lamp(model: Model, place: np.ndarray, height: float) -> None:
    x, y = place
    model.prism(polygon(x, y, 0.12, 5), 0, height, (0.2, 0.2, 0.22), 0.7)
    model.prism(polygon(x, y, 0.2, 6), height, height + 0.7, (0.9, 0.88, 0.75), 1.6)


def frame(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Draws, in some pictures, something near at the edge: a wall, the leaves of a branch, a railing."""
    case = rng.integers(8)
    dark = tuple(int(v) for v in rng.integers(15, 70, 3))
    if case == 0:
        width = size * rng.uniform(0.05, 0.22)
        left = rng.random() < 0.5
        draw.rectangle([0, 0, width, size] if left else [size - width, 0, size, size], fill=dark)
    elif case == 1:
        start = rng.uniform(-0.2, 0.6) * size
        for x, y, r in rng.random((70, 3)).tolist():
            x, y, r = start + x * size * 0.6, y * y * size * 0.26, size * (0.006 + 0.016 * r)
            draw.ellipse([x - r, y - r * 0.6, x + r, y + r * 0.6], fill=(dark[0] // 2, dark[1], dark[2] // 3))
    elif case == 2:
        top, gap = size * rng.uniform(0.78, 0.93), size * rng.uniform(0.03, 0.08)
        draw.rectangle([0, top, size, top + size * 0.02], fill=dark)
        for number in range(int(size / gap) + 1):
            draw.rectangle([number * gap, top, number * gap + size * 0.012, size], fill=dark)
