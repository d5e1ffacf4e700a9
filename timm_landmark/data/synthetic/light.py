"""Light and background of a procedural photograph: time of day, sky, clouds, haze, skyline, ground."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from timm_landmark.data.synthetic.geometry import Camera


@dataclass(frozen=True)
class Light:
    """Colours are RGB in 0..1, ``sun`` is the unit direction to the sun (or moon)."""

    sun: np.ndarray
    sun_colour: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    cloud: np.ndarray
    clouds: float
    haze: float
    night: bool


# name: range of the sun's elevation in degrees; colours of sun, ambient light, zenith, horizon and clouds
_HOURS = {
    "noon": ((40, 70), (0.62, 0.6, 0.55), (0.5, 0.52, 0.56), (0.22, 0.42, 0.75), (0.66, 0.78, 0.9), (0.96, 0.96, 0.97)),
    "morning": (
        (12, 35),
        (0.66, 0.58, 0.44),
        (0.42, 0.45, 0.52),
        (0.34, 0.52, 0.78),
        (0.86, 0.84, 0.8),
        (0.95, 0.9, 0.86),
    ),
    "golden": (
        (4, 14),
        (0.85, 0.52, 0.26),
        (0.36, 0.33, 0.38),
        (0.28, 0.36, 0.6),
        (0.96, 0.66, 0.4),
        (0.92, 0.62, 0.5),
    ),
    "overcast": (
        (30, 70),
        (0.12, 0.12, 0.12),
        (0.66, 0.67, 0.7),
        (0.58, 0.61, 0.66),
        (0.74, 0.76, 0.79),
        (0.86, 0.87, 0.89),
    ),
    "dusk": ((2, 8), (0.26, 0.18, 0.2), (0.4, 0.39, 0.5), (0.12, 0.15, 0.34), (0.62, 0.42, 0.46), (0.36, 0.3, 0.42)),
    "night": (
        (25, 60),
        (0.05, 0.06, 0.09),
        (0.13, 0.14, 0.2),
        (0.02, 0.03, 0.08),
        (0.1, 0.11, 0.18),
        (0.14, 0.14, 0.18),
    ),
}

_CHANCES = (0.27, 0.20, 0.17, 0.18, 0.09, 0.09)

_GROUNDS = [
    (0.36, 0.46, 0.22), (0.45, 0.50, 0.28), (0.62, 0.60, 0.56), (0.50, 0.49, 0.48), (0.78, 0.68, 0.50),
    (0.88, 0.90, 0.93), (0.26, 0.38, 0.46), (0.55, 0.45, 0.36),
]  # fmt: skip


def draw_light(rng: np.random.Generator) -> Light:
    """Draws time of day, sky and haze of one photograph."""
    hour = list(_HOURS)[rng.choice(len(_HOURS), p=_CHANCES)]
    height, *colours = _HOURS[hour]
    sun_colour, ambient, zenith, horizon, cloud = (np.array(c) * rng.uniform(0.94, 1.06, 3) for c in colours)
    elevation, azimuth = np.radians(rng.uniform(*height)), rng.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(elevation) * np.sin(azimuth), -np.cos(elevation) * np.cos(azimuth), np.sin(elevation)])
    clouds = 0.9 if hour == "overcast" else rng.uniform(0, 0.75)
    haze = rng.uniform(0.002, 0.007) if rng.random() < 0.15 else rng.uniform(0, 0.0015)
    return Light(sun, sun_colour, ambient, zenith, horizon, cloud, clouds, haze, hour == "night")


def backdrop(camera: Camera, light: Light, rng: np.random.Generator, size: int, enlarge: int) -> Image.Image:
    """Sky with clouds and sun, a distant skyline and textured ground, traced per pixel at final size, then enlarged."""
    small = Camera(camera.eye, camera.axes, camera.focal / enlarge, size)
    rays = small.rays()
    climb = rays[..., 2]
    up = np.clip(climb, 0, 1)[..., None]
    colour = light.horizon + (light.zenith - light.horizon) * np.minimum(up * 1.6, 1) ** 0.6
    towards_sun = np.clip(rays @ light.sun, 0, 1)[..., None]
    if not light.night:
        colour = colour + light.sun_colour * (0.35 * towards_sun**12 + 0.9 * towards_sun**400)
    offset, scale = rng.uniform(0, 256, 4), rng.uniform(18, 50)
    flat = np.maximum(climb, 0.03)
    clouds = _sample(rays[..., 0] / flat * scale + offset[0], rays[..., 1] / flat * scale + offset[1])
    cover = np.clip((clouds - 1 + light.clouds) * 3.5, 0, 0.95)[..., None] * np.clip(up * 8, 0, 1)
    colour = colour * (1 - cover) + light.cloud * (0.75 + 0.3 * clouds[..., None]) * cover
    bearing = np.arctan2(rays[..., 0], -rays[..., 1])
    hill = _ridge(bearing, rng)[..., None]
    far = light.horizon * 0.6 + light.ambient * np.array([0.30, 0.36, 0.30]) * rng.uniform(0.5, 1.1)
    colour = np.where(climb[..., None] < hill, far, colour)
    below = np.maximum(-climb, 1e-3)
    away = camera.eye[2] / below
    x, y = camera.eye[0] + rays[..., 0] * away, camera.eye[1] + rays[..., 1] * away
    patches = _sample(x * 2.1 + offset[2], y * 2.1 + offset[3]) * 0.3 + _sample(x * 11, y * 11) * 0.3
    fine = np.exp(-away / (40 + 6 * camera.eye[2]))
    texture = 0.72 + patches * fine + 0.3 * (1 - fine)
    if rng.random() < 0.4:  # paving
        joint = rng.uniform(1.5, 5)
        texture = texture - 0.16 * fine * (((x / joint) % 1 < 0.08) | ((y / joint) % 1 < 0.08))
    lit = light.ambient + light.sun_colour * max(light.sun[2], 0.0)
    ground = np.array(_GROUNDS[rng.integers(len(_GROUNDS))]) * rng.uniform(0.8, 1.15)
    floor = ground * lit * texture[..., None]
    fog = (1 - np.exp(-away * (light.haze + 0.0006)))[..., None]
    floor = floor * (1 - fog) + light.horizon * fog
    colour = np.where(climb[..., None] < 0, floor, colour)
    pixels = (np.clip(colour, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((camera.size, camera.size), Image.Resampling.BILINEAR)


def veil(colour: np.ndarray, depth: np.ndarray, light: Light) -> np.ndarray:
    """Adds haze to colours (n, 3) at depths (n,), or to one colour."""
    share = 1 - np.exp(-np.maximum(depth, 0) * light.haze)
    share = share[:, None] if share.ndim else share
    return colour * (1 - share) + light.horizon * share


def _ridge(bearing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Height of the skyline by bearing, as the sine of its elevation: none, hills, or the blocks of a town."""
    case, shift, height = rng.integers(4), rng.uniform(0, 256), rng.uniform(0.02, 0.14)
    if case == 0:
        return np.zeros_like(bearing)
    if case == 1:
        steps = np.floor(bearing * rng.uniform(14, 30))
        return height * _sample(steps * 37 + shift, np.full_like(bearing, shift))
    waves = bearing * rng.uniform(8, 26) + shift
    return height * (0.6 * _sample(waves * 2, np.full_like(bearing, shift)) + 0.4 * _sample(waves * 9, waves * 0))


@cache
def _noise() -> np.ndarray:
    """A tile (256, 256) of cloud-like noise in 0..1 that tiles seamlessly; the same for every picture."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None]) * 256
    amplitude = np.where(frequency > 0, np.maximum(frequency, 2.0) ** -1.6, 0.0)
    field = np.fft.ifft2(amplitude * np.exp(2j * np.pi * rng.random((256, 256)))).real
    return (field.argsort(None).argsort().reshape(256, 256) / 65535).astype(np.float32)


def _sample(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _noise()[y.astype(np.int64) % 256, x.astype(np.int64) % 256]
