"""What every surface is made of: the picture, where the part is, and what would show where material is missing."""

from dataclasses import dataclass

import numpy as np

from feclip.demo.fields import BoolArray, FloatArray, blend, chance, draw_color, smooth_noise, smoothstep
from feclip.demo.geometry import unit_of

HALF = 0.5  # a pixel belongs to the part that covers more than half of it


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A flawless surface or part before the camera sees it."""

    image: FloatArray
    """Reflected light, ``(H, W, 3)``, 0..1."""
    foreground: BoolArray
    """Where the material is, ``(H, W)``; defects lie here."""
    beneath: FloatArray
    """What shows where material is missing, ``(H, W, 3)``, 0..1."""


def relief(height: FloatArray, *, light: float, strength: float) -> FloatArray:
    """Return the shading ``(H, W)``, around 0, of a height field lit from ``light`` (radians, image axes)."""
    slope_y, slope_x = np.gradient(height)
    shade = -(slope_x * np.cos(light) + slope_y * np.sin(light)) * strength
    return np.asarray(np.tanh(shade))


def backdrop(rng: np.random.Generator, *, size: tuple[int, int]) -> FloatArray:
    """Paint the ``(H, W, 3)`` table or belt behind a part."""
    value = (0.68, 0.95) if chance(rng, 0.45) else (0.05, 0.4)
    color = draw_color(rng, saturation=(0.0, 0.25), value=value)
    unit = unit_of(size)
    texture = 0.02 * smooth_noise(rng, size=size, cell=70 * unit)
    if chance(rng, 0.5):
        texture += rng.uniform(0.01, 0.04) * smooth_noise(rng, size=size, cell=rng.uniform(1.2, 5) * max(unit, 0.5))
    return np.asarray(np.clip(color * (1.0 + texture)[..., None], 0.0, 1.0))


def place_part(rng: np.random.Generator, *, image: FloatArray, inside: FloatArray, distance: FloatArray) -> Surface:
    """Lay a part on a backdrop, with the soft shadow that its rim throws.

    Args:
        rng: Source of the draw.
        image: Picture of the part, ``(H, W, 3)``; anything outside.
        inside: Antialiased share of the part in each pixel, ``(H, W)``.
        distance: Distance from the part's outline, positive outside, ref px, ``(H, W)``.
    """
    height, width = inside.shape
    behind = backdrop(rng, size=(height, width))
    shadow = rng.uniform(0.1, 0.45) * smoothstep(distance, low=rng.uniform(4, 16), high=0.0)
    behind = behind * (1.0 - shadow)[..., None]
    image = blend(behind, image, inside)
    return Surface(image=np.clip(image, 0.0, 1.0), foreground=inside > HALF, beneath=behind)


def full_sheet(rng: np.random.Generator, *, image: FloatArray) -> Surface:
    """Wrap a texture ``(H, W, 3)`` that fills its image; a darker or paler substrate lies beneath."""
    height, width = image.shape[:2]
    tone = image[::4, ::4].mean(axis=(0, 1))
    deep = tone * rng.uniform(0.15, 0.5) if tone.mean() > rng.uniform(0.15, 0.6) else tone + rng.uniform(0.2, 0.4)
    grain = 1.0 + 0.12 * smooth_noise(rng, size=(height, width), cell=4 * unit_of((height, width)))
    return Surface(
        image=np.clip(image, 0.0, 1.0),
        foreground=np.ones((height, width), dtype=np.bool_),
        beneath=np.clip(deep * grain[..., None], 0.0, 1.0),
    )


def per_cell(
    rng: np.random.Generator, row: FloatArray, column: FloatArray | float = 0.0, *, spread: float
) -> FloatArray:
    """Return a normal draw of standard deviation ``spread`` for each whole-numbered cell ``(row, column)``."""
    table = rng.standard_normal((64, 64)) * spread
    rows, columns = np.asarray(row).astype(np.intp) % 64, np.asarray(column).astype(np.intp) % 64
    return np.asarray(table[rows, columns])
