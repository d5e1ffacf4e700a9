"""Renders a photograph of a procedural landmark: viewpoint, painting, shadows, weather and camera artefacts."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from timm_landmark.data.synthetic.clutter import frame, surroundings
from timm_landmark.data.synthetic.geometry import Blob, Camera, Model, paint_order
from timm_landmark.data.synthetic.light import Light, backdrop, draw_light, veil

SUPERSAMPLING = 2
_NEAR = 0.5  # metres; polygons that come nearer to the camera are not painted


def render(landmark: Model, rng: np.random.Generator, size: int) -> Image.Image:
    """Renders one photograph, which depends only on the model, ``rng`` and the size.

    Args:
        landmark: The class's model.
        rng: Random numbers of the image.
        size: Pixels per side.

    Returns:
        An RGB image of size x size pixels.
    """
    return _photograph(landmark, rng, size, None)


def render_mask(landmark: Model, rng: np.random.Generator, size: int) -> Image.Image:
    """Where the photograph that :func:`render` makes of the same arguments shows the landmark.

    Returns:
        A grey image of size x size pixels: 255 on the landmark, 0 elsewhere, also where something hides it.
    """
    mask = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    _photograph(landmark, rng, size, mask)
    return mask.reduce(SUPERSAMPLING)


class _MaskedDraw(ImageDraw.ImageDraw):
    """Draws every shape on a mask too, in white while ``on_landmark`` is set, else in black."""

    def __init__(self, canvas: Image.Image, mask: Image.Image) -> None:
        super().__init__(canvas)
        self._mask, self.on_landmark = ImageDraw.Draw(mask), False

    def polygon(self, xy: Any, *args: Any, **kwargs: Any) -> None:
        super().polygon(xy, *args, **kwargs)
        self._mask.polygon(xy, fill=255 * self.on_landmark)

    def ellipse(self, xy: Any, *args: Any, **kwargs: Any) -> None:
        super().ellipse(xy, *args, **kwargs)
        self._mask.ellipse(xy, fill=255 * self.on_landmark)

    def rectangle(self, xy: Any, *args: Any, **kwargs: Any) -> None:
        super().rectangle(xy, *args, **kwargs)
        self._mask.rectangle(xy, fill=255 * self.on_landmark)


def _photograph(landmark: Model, rng: np.random.Generator, size: int, mask: Image.Image | None) -> Image.Image:
    light = draw_light(rng)
    camera = draw_camera(landmark, rng, size * SUPERSAMPLING)
    scene = landmark.extend(surroundings(landmark, camera.eye, rng))
    canvas = backdrop(camera, light, rng, size, SUPERSAMPLING)
    draw = _MaskedDraw(canvas, mask) if mask else ImageDraw.Draw(canvas)
    if not light.night and light.sun_colour.max() > 0.2:
        _shadows(canvas, scene, camera, light)
    _paint(draw, scene, camera, light, len(landmark.low), rng)
    if isinstance(draw, _MaskedDraw):
        draw.on_landmark = False
    frame(draw, camera.size, rng)
    return _develop(canvas.reduce(SUPERSAMPLING), light, rng)


def draw_camera(landmark: Model, rng: np.random.Generator, size: int) -> Camera:
    """Draws a viewpoint around the front: near or far, from the street or from above, the landmark roughly centred."""
    low, high = landmark.bounds()
    extent = high - low
    fov = np.radians(rng.uniform(34, 72))
    azimuth = np.radians(np.clip(rng.normal(0, 45), -100, 100))
    breadth = abs(np.cos(azimuth)) * extent[0] + abs(np.sin(azimuth)) * extent[1]
    share = rng.uniform(0.5, 1.2)  # part of the picture that the landmark spans
    distance = max(breadth, extent[2]) / 2 / np.tan(fov / 2) / share + np.hypot(extent[0], extent[1]) * 0.25
    distance = max(distance, np.hypot(extent[0], extent[1]) * 0.62 + 3)
    height = rng.uniform(1.6, 3.5) if rng.random() < 0.6 else distance * np.tan(np.radians(rng.uniform(4, 32)))
    middle = (low + high) / 2
    eye = np.array([middle[0] + distance * np.sin(azimuth), middle[1] - distance * np.cos(azimuth), height])
    side = np.array([np.cos(azimuth), np.sin(azimuth), 0])
    slack = max(0.06, 0.55 - 0.38 * share)
    aim = middle + side * breadth * rng.uniform(-slack, slack) + [0, 0, extent[2] * rng.uniform(-slack, slack)]
    return Camera.looking_at(eye, aim, np.radians(rng.normal(0, 2.5)), fov, size)


def _shadows(canvas: Image.Image, scene: Model, camera: Camera, light: Light) -> None:
    """Projects every polygon along the sun's direction onto the ground."""
    mask = Image.new("L", canvas.size, 0)
    draw = ImageDraw.Draw(mask)
    slope = light.sun[:2] / max(light.sun[2], 0.12)
    corners = np.concatenate([points for points, _, _ in scene.polygons])
    flat = np.column_stack([corners[:, :2] - corners[:, 2:] * slope, np.zeros(len(corners))])
    pixels, depth = camera.project(flat)
    pixels = np.clip(pixels, -9999, 9999)
    start = 0
    for points, _, _ in scene.polygons:
        end = start + len(points)
        if len(points) <= 4 and depth[start:end].min() > _NEAR:
            draw.polygon(pixels[start:end].ravel().tolist(), fill=105)
        start = end
    for x, y, z, radius, _ in scene.blobs:
        (middle,), (away,) = camera.project(np.array([[x - z * slope[0], y - z * slope[1], 0.0]]))
        if away > _NEAR:
            wide = camera.focal * radius / away
            draw.ellipse([middle[0] - wide, middle[1] - wide * 0.4, middle[0] + wide, middle[1] + wide * 0.4], fill=105)
    horizon = camera.rays()[..., 2] < 0
    mask = Image.fromarray(np.asarray(mask) * horizon.astype(np.uint8))
    canvas.paste(tuple(int(v * 40) for v in light.ambient), mask=mask.filter(ImageFilter.BoxBlur(1)))


def _paint(
    draw: ImageDraw.ImageDraw, scene: Model, camera: Camera, light: Light, landmark_parts: int, rng: np.random.Generator
) -> None:
    """Paints all parts from back to front; polygons are flat-shaded by their angle to the sun, then hazed."""
    points = np.concatenate([corners for corners, _, _ in scene.polygons])
    counts = np.array([len(corners) for corners, _, _ in scene.polygons])
    starts = np.concatenate([[0], np.cumsum(counts)])
    following = np.arange(len(points)) + 1
    following[starts[1:] - 1] = starts[:-1]
    normals = np.add.reduceat(np.cross(points, points[following]), starts[:-1])  # Newell: twice the area, outwards
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    pixels, depth = camera.project(points)
    nearest = np.minimum.reduceat(depth, starts[:-1])
    front = np.einsum("ij,ij->i", normals, points[starts[:-1]] - camera.eye) < 0
    albedo = np.array([colour for _, colour, _ in scene.polygons])
    shines = np.array([shine for _, _, shine in scene.polygons])
    part = np.array(scene.polygon_part)
    lit = (
        light.ambient * (0.78 + 0.22 * normals[:, 2:]) + light.sun_colour * np.clip(normals @ light.sun, 0, 1)[:, None]
    )
    if light.night:
        lamps = np.where(rng.random() < 0.85, rng.uniform(0.3, 0.65), 0.12) * np.array([1.0, 0.86, 0.62])
        lit = lit + np.where((part < landmark_parts)[:, None], lamps * (0.75 - 0.35 * normals[:, 2:]), 0.03)
    colour = albedo * lit
    if light.night:
        on = shines & (rng.random(len(shines)) < 0.6)
        colour[on] = np.array([0.95, 0.80, 0.45]) * rng.uniform(0.7, 1.0)
    else:
        glass = shines & (albedo.max(1) < 0.3)
        colour[glass] = 0.65 * colour[glass] + 0.22 * light.horizon * rng.uniform(0.3, 1.2, (int(glass.sum()), 1))
    middle = np.add.reduceat(depth, starts[:-1]) / counts
    colour = veil(colour * rng.uniform(0.95, 1.05, (len(colour), 1)), middle, light)
    fills = (np.clip(colour, 0, 1) * 255).astype(np.uint8).tolist()
    outlines = np.clip(pixels, -9999, 9999).tolist()
    polygons_of: dict[int, list[int]] = {}
    for number in np.flatnonzero(front & (nearest > _NEAR)).tolist():
        polygons_of.setdefault(int(part[number]), []).append(number)
    blobs_of: dict[int, list[int]] = {}
    for number, owner in enumerate(scene.blob_part):
        blobs_of.setdefault(owner, []).append(number)
    bounds = starts.tolist()
    for owner in paint_order(np.array(scene.low), np.array(scene.high), camera.eye):
        if isinstance(draw, _MaskedDraw):
            draw.on_landmark = owner < landmark_parts
        for number in polygons_of.get(owner, ()):
            outline = [tuple(point) for point in outlines[bounds[number] : bounds[number + 1]]]
            draw.polygon(outline, fill=tuple(fills[number]))
        if owner in blobs_of:
            _blobs(draw, [scene.blobs[number] for number in blobs_of[owner]], camera, light)


def _blobs(draw: ImageDraw.ImageDraw, blobs: list[Blob], camera: Camera, light: Light) -> None:
    places, depth = camera.project(np.array([blob[:3] for blob in blobs]))
    for (x, y), away, (_, _, _, radius, albedo) in zip(places.tolist(), depth.tolist(), blobs, strict=True):
        if away < 2 * _NEAR:
            continue
        wide = camera.focal * radius / away
        shade = light.ambient + light.sun_colour * 0.45
        rim, face = (veil(np.array(albedo) * shade * f, np.array(away), light) for f in (0.8, 1.05))
        for grow, colour in ((1.0, rim), (0.72, face)):
            box = [x - wide * grow, y - wide * (1.15 * grow), x + wide * grow, y + wide * (1.3 * grow - 0.3)]
            draw.ellipse(box, fill=tuple((np.clip(colour, 0, 1) * 255).astype(int).tolist()))


def _develop(image: Image.Image, light: Light, rng: np.random.Generator) -> Image.Image:
    """Adds rain or snow, blur, exposure, white balance, saturation, vignetting and grain."""
    size = image.width
    falling = rng.random()
    if falling < 0.12:
        draw = ImageDraw.Draw(image)
        snow, tone = falling < 0.06, int(90 + 120 * light.ambient.mean())
        for x, y in (rng.random((size, 2)) * size).tolist():
            if snow:
                r = size * 0.004 + 0.3
                draw.ellipse([x - r, y - r, x + r, y + r], fill=(min(255, tone + 60),) * 3)
            elif x % 3 < 1:
                draw.line([x, y, x - size * 0.01, y + size * 0.05], fill=(tone,) * 3)
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(size / 256 * rng.uniform(0.4, 1.4)))
    pixels = np.asarray(image, np.float32) / 255
    balance = np.exp(rng.normal(0, 0.045, 3)) * rng.uniform(0.8, 1.25)
    pixels = (pixels * balance.astype(np.float32)).clip(0, 1) ** np.float32(rng.uniform(0.8, 1.2))
    grey = pixels.mean(-1, keepdims=True)
    saturation = 0.0 if rng.random() < 0.06 else rng.uniform(0.6, 1.25)
    pixels = grey + (pixels - grey) * np.float32(saturation)
    edge = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    pixels = pixels * (1 - np.float32(rng.uniform(0, 0.2)) * (edge[:, None] + edge)[..., None] / 2)
    pixels = pixels + rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(0.004, 0.02))
    return Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))
