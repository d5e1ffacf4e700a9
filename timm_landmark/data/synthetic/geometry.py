"""Solids made of flat polygons, a camera, and the painting order: the 3D part of the procedural landmarks.

Axes: x to the right of the landmark's front, y away from it (the front faces -y), z up from the ground; metres.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

Colour = tuple[float, float, float]
# corners (m, 3) counter-clockwise seen from outside, albedo, whether it shines at night
Polygon = tuple[np.ndarray, Colour, bool]
Blob = tuple[float, float, float, float, Colour]  # x, y, z, radius, albedo
# draws on a side, given its corners (4, 3) from bottom left counter-clockwise and its number
Decor = Callable[[np.ndarray, int], list[Polygon]]


def shaded(colour: Colour, factor: float, most: float = 1.0) -> Colour:
    """A colour times ``factor``, each channel at most ``most``."""
    red, green, blue = colour
    return min(most, red * factor), min(most, green * factor), min(most, blue * factor)


@dataclass
class Model:
    """Convex parts, each painted as a whole: solids, with polygons in order and decoration last, and round blobs."""

    polygons: list[Polygon] = field(default_factory=list)
    polygon_part: list[int] = field(default_factory=list)
    blobs: list[Blob] = field(default_factory=list)
    blob_part: list[int] = field(default_factory=list)
    low: list[np.ndarray] = field(default_factory=list)
    high: list[np.ndarray] = field(default_factory=list)

    def add(self, polygons: Sequence[Polygon], blobs: Sequence[Blob] = ()) -> None:
        """Adds one part, which is convex and does not overlap the others (they may touch)."""
        number = len(self.low)
        corners = [points for points, _, _ in polygons]
        corners += [np.array([[x - r, y - r, z - r], [x + r, y + r, z + r]]) for x, y, z, r, _ in blobs]
        corners = np.concatenate(corners)
        self.low.append(corners.min(0))
        self.high.append(corners.max(0))
        self.polygons += polygons
        self.polygon_part += [number] * len(polygons)
        self.blobs += blobs
        self.blob_part += [number] * len(blobs)

    def extend(self, other: "Model") -> "Model":
        """A new model with the parts of both."""
        shift = len(self.low)
        return Model(
            self.polygons + other.polygons,
            self.polygon_part + [part + shift for part in other.polygon_part],
            self.blobs + other.blobs,
            self.blob_part + [part + shift for part in other.blob_part],
            self.low + other.low,
            self.high + other.high,
        )

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and highest corner, (3,) each."""
        return np.min(self.low, 0), np.max(self.high, 0)

    def prism(
        self,
        base: np.ndarray,
        bottom: float,
        top: float,
        albedo: Colour,
        scale: float = 1.0,
        shift: tuple[float, float] = (0.0, 0.0),
        cap: Colour | None = None,
        decor: Decor | None = None,
    ) -> None:
        """A prism, frustum or pyramid over the convex polygon ``base`` (n, 2), counter-clockwise seen from above.

        Args:
            base: Corners on the ground plan.
            bottom: Height of the lower end.
            top: Height of the upper end.
            albedo: Albedo of the sides.
            scale: Size of the upper end relative to the lower, about the centre; 0 makes a pyramid or cone.
            shift: Offset of the upper end's centre from the lower's (a leaning wall).
            cap: Albedo of the upper face; by default that of the sides.
            decor: Draws on each side.
        """
        centre = base.mean(0)
        upper = centre + (base - centre) * scale + shift
        low = np.column_stack([base, np.full(len(base), bottom)])
        high = np.column_stack([upper, np.full(len(base), top)])
        sides = [np.array([low[i], low[j], high[j], high[i]]) for i, j in _edges(len(base))]
        faces: list[Polygon] = [(side, albedo, False) for side in sides]
        if scale > 0:
            faces.append((high, cap or albedo, False))
        if bottom > 0:
            faces.append((low[::-1], albedo, False))
        if decor:
            for number, side in enumerate(sides):
                faces += decor(side, number)
        self.add(faces)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        depth: float,
        bottom: float,
        top: float,
        albedo: Colour,
        scale: float = 1.0,
        cap: Colour | None = None,
        decor: Decor | None = None,
    ) -> None:
        """A box about (x, y); ``scale`` 0 makes a pyramid. Side 0 is the front (-y), then right, back, left."""
        self.prism(rectangle(x, y, width, depth), bottom, top, albedo, scale, cap=cap, decor=decor)

    def gable(
        self, x: float, y: float, width: float, depth: float, bottom: float, top: float, wall: Colour, roof: Colour,
        along_x: bool = False, decor: Decor | None = None,
    ) -> None:  # fmt: skip
        """A gable roof with its ridge along y (pediment to the front) or along x."""
        w, d = width / 2, depth / 2
        low = np.column_stack([rectangle(x, y, width, depth), np.full(4, bottom)])
        ends = [[x - w, y, top], [x + w, y, top]] if along_x else [[x, y - d, top], [x, y + d, top]]
        first, last = np.array(ends)
        if along_x:
            slopes = [np.array([low[0], low[1], last, first]), np.array([low[2], low[3], first, last])]
            walls = [np.array([low[1], low[2], last]), np.array([low[3], low[0], first])]
        else:
            slopes = [np.array([low[1], low[2], last, first]), np.array([low[3], low[0], first, last])]
            walls = [np.array([low[0], low[1], first]), np.array([low[2], low[3], last])]
        faces: list[Polygon] = [(side, roof, False) for side in slopes] + [(side, wall, False) for side in walls]
        if bottom > 0:
            faces.append((low[::-1], wall, False))
        if decor:
            for number, side in enumerate(walls):
                faces += decor(np.array([side[0], side[1], side[2], side[2]]), number)
        self.add(faces)

    def revolve(
        self,
        x: float,
        y: float,
        profile: Sequence[tuple[float, float]],
        albedo: Colour,
        sides: int = 12,
        lean: float = 0.0,
        decor: Decor | None = None,
        stripes: Colour | None = None,
    ) -> None:
        """A solid of revolution, with a frustum between consecutive (radius, height) pairs of ``profile``.

        Args:
            x: Position of the axis.
            y: Position of the axis.
            profile: Radius and height, from the bottom up.
            albedo: Albedo of all rings, or of every other ring with ``stripes``.
            sides: Corners of the ground plan.
            lean: Metres to the right per metre of height.
            decor: Draws on each side of each ring.
            stripes: Albedo of the other rings.
        """
        for number, ((radius, bottom), (next_radius, top)) in enumerate(pairwise(profile)):
            if top - bottom < 1e-9:
                continue
            plan = (radius or 1e-3, next_radius)
            base = polygon(x + lean * bottom, y, plan[0], sides)
            colour = stripes if stripes is not None and number % 2 else albedo
            shift = (lean * (top - bottom), 0.0)
            self.prism(base, bottom, top, colour, plan[1] / plan[0], shift, decor=decor)

    def sheet(self, points: np.ndarray, albedo: Colour) -> None:
        """A thin polygon seen from both sides (cables, sails)."""
        self.add([(points, albedo, False), (points[::-1], albedo, False)])


def rectangle(x: float, y: float, width: float, depth: float) -> np.ndarray:
    """Ground plan (4, 2) of a box; the first edge is the front."""
    w, d = width / 2, depth / 2
    return np.array([[x - w, y - d], [x + w, y - d], [x + w, y + d], [x - w, y + d]])


def polygon(x: float, y: float, radius: float, sides: int) -> np.ndarray:
    """Ground plan (sides, 2) of a regular polygon with an edge at the front."""
    angles = -np.pi / 2 + (np.arange(sides) - 0.5) * 2 * np.pi / sides
    return np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles)])


def _edges(corners: int) -> list[tuple[int, int]]:
    return [(index, (index + 1) % corners) for index in range(corners)]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; the rows of ``axes`` (3, 3) are right, up and forward, and ``focal`` is in pixels."""

    eye: np.ndarray
    axes: np.ndarray
    focal: float
    size: int

    @classmethod
    def looking_at(cls, eye: np.ndarray, aim: np.ndarray, roll: float, fov: float, size: int) -> "Camera":
        """A camera at ``eye`` with ``aim`` in the middle; ``roll`` and ``fov``, the angle of view, are in radians."""
        forward = (aim - eye) / np.linalg.norm(aim - eye)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        up = np.cross(right, forward)
        sine, cosine = np.sin(roll), np.cos(roll)
        axes = np.array([cosine * right + sine * up, cosine * up - sine * right, forward])
        return cls(eye, axes, size / 2 / np.tan(fov / 2), size)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (n, 2) and depths (n,) of points (n, 3); pixels are undefined where the depth is not positive."""
        seen = (points - self.eye) @ self.axes.T
        depth = seen[:, 2]
        safe = np.where(depth > 1e-6, depth, 1e-6)
        x, y = self.size / 2 + self.focal * seen[:, 0] / safe, self.size / 2 - self.focal * seen[:, 1] / safe
        return np.column_stack([x, y]), depth

    def rays(self) -> np.ndarray:
        """Unit directions (size, size, 3) through the pixels' centres."""
        offset = (np.arange(self.size) + 0.5 - self.size / 2) / self.focal
        x, y = np.meshgrid(offset, -offset)
        directions = np.stack([x, y, np.ones_like(x)], -1) @ self.axes
        return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def paint_order(low: np.ndarray, high: np.ndarray, eye: np.ndarray) -> list[int]:
    """The parts from back to front, ordered by planes between their bounding boxes instead of by distances.

    Part a cannot hide part b if a plane separates a from b and the eye. A part is painted once it hides no unpainted
    part; if boxes overlap or hide each other in a cycle, the farthest is painted first.

    Args:
        low: Lowest corners (n, 3).
        high: Highest corners (n, 3).
        eye: Position of the camera (3,).
    """
    slack = 1e-6
    below = (high[:, None] <= low[None] + slack) & (eye >= high - slack)[:, None]
    above = (low[:, None] >= high[None] - slack) & (eye <= low + slack)[:, None]
    hides: np.ndarray = np.logical_not(np.any(below | above, axis=-1))  # (n, n): row a may hide column b
    np.fill_diagonal(hides, False)
    hidden = hides.sum(1)
    distance = np.linalg.norm((low + high) / 2 - eye, axis=1)
    far = np.argsort(-distance, kind="stable")
    waiting = np.ones(len(low), bool)
    order = []
    for _ in range(len(low)):
        rest = far[waiting[far]]
        free = rest[hidden[rest] == 0]
        part = int((free if len(free) else rest)[0])
        order.append(part)
        waiting[part] = False
        hidden -= hides[:, part]
    return order
