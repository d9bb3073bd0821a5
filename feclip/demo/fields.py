"""Scalar and colour fields: seeded generators, smooth noise, blur, blending.

Shapes: H x W pixels. Everything is computed in float64, so that a difference in the last bit between two
processors practically never survives the rounding to eight bits.
"""

import colorsys
import zlib
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
ByteArray: TypeAlias = NDArray[np.uint8]
BoolArray: TypeAlias = NDArray[np.bool_]

MAX_KEY = 2**32 - 1  # a SeedSequence word; a larger key would spill into the next one and could collide
SPLINE_SPREAD = 0.48  # standard deviation of a unit lattice after cubic B-spline smoothing, both axes
BILINEAR_SPREAD = 0.74  # the same after smoothstep interpolation, both axes
LATTICE = 128  # side of the periodic lattice behind noise_at, in cells
BLUR_REACH = 3.0  # taps reach this many standard deviations
MIN_BLUR = 0.2  # pixels; a narrower kernel is the identity to three digits


def generator(*keys: int | str) -> np.random.Generator:
    """Return the generator of one named stream; equal keys give equal draws in any process and any order.

    Args:
        *keys: Integers in [0, 2**32) and words; words enter by their CRC-32.

    Raises:
        ValueError: If an integer key is out of range.

    Example:
        >>> first, again = generator(7, "casting", 3), generator(7, "casting", 3)
        >>> bool(first.random() == again.random())
        True
    """
    words = [zlib.crc32(key.encode()) if isinstance(key, str) else int(key) for key in keys]
    for word in words:
        if not 0 <= word <= MAX_KEY:
            msg = f"A seed or index must lie in [0, {MAX_KEY}], got {word}."
            raise ValueError(msg)
    return np.random.default_rng(np.random.SeedSequence(words))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Return true with the given probability (0..1)."""
    return bool(rng.random() < probability)


def draw_sign(rng: np.random.Generator) -> float:
    """Return -1.0 or 1.0."""
    return 1.0 if chance(rng, 0.5) else -1.0


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Return a draw whose logarithm is uniform between the positive ``bounds``."""
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


def draw_color(
    rng: np.random.Generator,
    *,
    hue: tuple[float, float] = (0.0, 1.0),
    saturation: tuple[float, float] = (0.0, 0.6),
    value: tuple[float, float] = (0.3, 0.9),
) -> FloatArray:
    """Return an RGB colour of shape ``(3,)``, 0..1, uniform in the given HSV ranges (0..1 each)."""
    return np.array(colorsys.hsv_to_rgb(rng.uniform(*hue) % 1.0, rng.uniform(*saturation), rng.uniform(*value)))


def blend(below: FloatArray, above: FloatArray, weight: FloatArray) -> FloatArray:
    """Lay ``above`` over ``below``; both ``(H, W, 3)`` or ``(3,)``, ``weight`` is ``(H, W)`` in 0..1."""
    return below + (above - below) * weight[..., None]


def smoothstep(values: FloatArray, *, low: float, high: float) -> FloatArray:
    """Rise smoothly from 0 at ``low`` to 1 at ``high`` (or fall, where ``high < low``).

    Example:
        >>> smoothstep(np.array([0.0, 1.0, 2.0]), low=0.0, high=2.0).tolist()
        [0.0, 0.5, 1.0]
    """
    ramp = np.clip((values - low) / (high - low), 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def coverage(distance: FloatArray, *, pixel: float) -> FloatArray:
    """Antialiased inside of a shape from its signed distance (negative inside); same unit as ``pixel``."""
    return np.clip(0.5 - distance / pixel, 0.0, 1.0)


def smooth_noise(rng: np.random.Generator, *, size: tuple[int, int], cell: float) -> FloatArray:
    """Return ``(H, W)`` noise of about unit variance whose features are ``cell`` pixels wide."""
    rows, columns = (_spline_weights(rng, length=length, cell=max(cell, 1.0)) for length in size)
    lattice = rng.standard_normal((rows.shape[1], columns.shape[1]))
    return np.asarray((rows @ lattice @ columns.T) / SPLINE_SPREAD)


def fractal_noise(rng: np.random.Generator, *, size: tuple[int, int], cell: float, octaves: int) -> FloatArray:
    """Return ``(H, W)`` noise of about unit variance: ``octaves`` layers, each half as wide and half as strong."""
    weights = 0.5 ** np.arange(octaves)
    layers = [weight * smooth_noise(rng, size=size, cell=cell * weight) for weight in weights]
    return np.asarray(np.sum(layers, axis=0) / np.sqrt(np.sum(weights**2)))


def noise_at(rng: np.random.Generator, u: FloatArray, v: FloatArray, *, cell: tuple[float, float]) -> FloatArray:
    """Return noise of about unit variance at the points ``(u, v)``; ``cell`` is its width along u and along v."""
    lattice = rng.standard_normal((LATTICE, LATTICE)).ravel()
    column, column_weight = _cell_position(u / cell[0] + rng.uniform(0, LATTICE))
    row, row_weight = _cell_position(v / cell[1] + rng.uniform(0, LATTICE))
    next_column, row_start = (column + 1) % LATTICE, row * LATTICE
    next_start = (row + 1) % LATTICE * LATTICE
    upper = lattice[row_start + column]
    upper += (lattice[row_start + next_column] - upper) * column_weight
    lower = lattice[next_start + column]
    lower += (lattice[next_start + next_column] - lower) * column_weight
    return np.asarray((upper + (lower - upper) * row_weight) / BILINEAR_SPREAD)


def blur_reach(sigma: float) -> int:
    """Return how many pixels to each side a blur of ``sigma`` pixels reads."""
    return max(1, int(np.ceil(BLUR_REACH * sigma)))


def gaussian_blur(field: FloatArray, *, sigma: float) -> FloatArray:
    """Blur ``(H, W)`` or ``(H, W, C)`` over its first two axes; ``sigma`` in pixels, borders repeated."""
    if sigma < MIN_BLUR:
        return field
    reach = blur_reach(sigma)
    taps = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    taps /= taps[0] + 2 * taps[1:].sum()
    for axis in (0, 1):
        length = field.shape[axis]
        indices = np.clip(np.arange(-reach, length + reach), 0, length - 1)
        padded = np.moveaxis(np.take(field, indices, axis=axis), axis, 0)
        total = taps[0] * padded[reach : reach + length]
        for offset in range(1, reach + 1):
            pair = padded[reach - offset : reach - offset + length] + padded[reach + offset : reach + offset + length]
            pair *= taps[offset]
            total += pair
        field = np.moveaxis(total, 0, axis)
    return field


def _spline_weights(rng: np.random.Generator, *, length: int, cell: float) -> FloatArray:
    """Cubic B-spline weights ``(length, lattice points)`` of a lattice of spacing ``cell`` at a random phase."""
    position = np.arange(length) / cell + rng.random()
    base = np.floor(position).astype(np.intp)
    t = position - base
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = np.zeros((length, int(base[-1]) + 4))
    for offset, piece in enumerate(pieces):
        weights[np.arange(length), base + offset] = piece / 6.0
    return weights


def _cell_position(position: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
    """Split lattice positions into the cell's index (periodic) and the smooth weight of the next point."""
    base = np.floor(position)
    rest = position - base
    return base.astype(np.intp) % LATTICE, rest * rest * (3.0 - 2.0 * rest)
