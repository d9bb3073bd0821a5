"""Displacements: bend and shift move the surface itself."""

import numpy as np

from feclip.demo.defects.site import Site
from feclip.demo.fields import FloatArray, chance, coverage, draw_sign
from feclip.demo.geometry import rounded_box


def bend(rng: np.random.Generator, site: Site) -> FloatArray:
    """Push or twist a round region smoothly out of place; the slope it leaves takes a little shade."""
    radius = max(6.0, site.draw_radius(rng) * 1.2)
    dy, dx = np.arange(site.size[0])[:, None] - site.center[0], np.arange(site.size[1])[None, :] - site.center[1]
    inner = np.clip(1.0 - (dx**2 + dy**2) / radius**2, 0.0, 1.0) ** 2
    # The steepest slope of `inner` is 1.54 / radius; a displacement below 0.6 radius therefore folds nothing over.
    reach = min(float(rng.uniform(*site.difficulty.displacement)) * site.unit, 0.6 * radius)
    if chance(rng, 0.5):
        turn = draw_sign(rng) * 2.0 * reach / radius
        move_y, move_x = dx * turn * inner, -dy * turn * inner
    else:
        angle = rng.uniform(0, 2 * np.pi)
        move_y, move_x = reach * np.sin(angle) * inner, reach * np.cos(angle) * inner
    light = rng.uniform(0, 2 * np.pi)
    slope = (dx * np.cos(light) + dy * np.sin(light)) / radius * np.sqrt(inner) * 1.5
    moved = _displace(site.surface.image, move_y, move_x)
    return np.asarray(moved + (0.4 * site.contrast * slope)[..., None])


def shift(rng: np.random.Generator, site: Site) -> FloatArray:
    """Slip a box-shaped region along itself, leaving a sharp step at both long sides."""
    radius = max(5.0, site.draw_radius(rng))
    angle = rng.uniform(0, np.pi)
    dy, dx = np.arange(site.size[0])[:, None] - site.center[0], np.arange(site.size[1])[None, :] - site.center[1]
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    half = (radius * rng.uniform(1.0, 1.8), radius * rng.uniform(0.35, 0.8))
    edge = rounded_box(along, across, half=half, radius=min(half) * 0.15)
    distance = draw_sign(rng) * max(1.5, float(rng.uniform(*site.difficulty.displacement)) * site.unit)
    inside = coverage(edge, pixel=1.0)[..., None]
    moved = _displace(
        site.surface.image, np.full(site.size, distance * np.sin(angle)), np.full(site.size, distance * np.cos(angle))
    )
    seam = np.exp(-((edge / 0.9) ** 2)) * 0.35 * site.contrast
    return np.asarray(site.surface.image * (1 - inside) + moved * inside + seam[..., None])


def _displace(image: FloatArray, move_y: FloatArray, move_x: FloatArray) -> FloatArray:
    """Read ``image`` ``(H, W, 3)`` at each pixel minus its displacement (pixels), bilinearly, borders repeated."""
    height, width = image.shape[:2]
    y = np.clip(np.arange(height)[:, None] - move_y, 0, height - 1.001)
    x = np.clip(np.arange(width)[None, :] - move_x, 0, width - 1.001)
    top, left = y.astype(np.intp), x.astype(np.intp)
    down, right = (y - top)[..., None], (x - left)[..., None]
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)
