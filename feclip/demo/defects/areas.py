"""Area defects: spot, stain, dent, foreign body, missing piece."""

import numpy as np

from feclip.demo.defects.site import Site
from feclip.demo.fields import FloatArray, blend, chance, coverage, draw_color, log_uniform, smooth_noise, smoothstep
from feclip.demo.geometry import draw_blob

MIN_SPOT = 1.8  # pixels; a smaller spot could lie between the holes of a small image of perforated sheet
RIM_POINTS = 30  # places tried when a missing piece looks for the edge of its part


def spot(rng: np.random.Generator, site: Site) -> FloatArray:
    """Put a small round mark with a soft or a hard edge."""
    radius = max(MIN_SPOT, log_uniform(rng, site.difficulty.spot_radius) * site.unit)
    edge = draw_blob(rng, size=site.size, center=site.center, radius=radius, roughness=rng.uniform(0.0, 0.25))
    cover = coverage(edge, pixel=max(1.0, radius * rng.uniform(0.15, 0.8)))
    tint = 1.0 + rng.uniform(-0.3, 0.3, 3)
    return np.asarray(site.surface.image + site.contrast * tint * cover[..., None])


def stain(rng: np.random.Generator, site: Site) -> FloatArray:
    """Spill something: a large, pale, cloudy patch, often darker along its rim."""
    radius = site.draw_radius(rng)
    edge = draw_blob(rng, size=site.size, center=site.center, radius=radius, roughness=rng.uniform(0.2, 0.6))
    body = coverage(edge, pixel=max(1.5, radius * rng.uniform(0.1, 0.5)))
    cloud = 1.0 + 0.3 * smooth_noise(rng, size=site.size, cell=max(2.0, radius * 0.5))
    ring = np.exp(-((edge / max(1.0, 0.1 * radius)) ** 2)) * rng.uniform(0.0, 0.9)
    tint = np.sign(site.contrast) * (1.0 + rng.uniform(-0.5, 0.5, 3))
    strength = min(abs(site.contrast), 0.4) * 0.75
    return np.asarray(site.surface.image + strength * tint * (np.maximum(body, ring) * cloud)[..., None])


def dent(rng: np.random.Generator, site: Site) -> FloatArray:
    """Press a dent or a bump: one flank catches the light, the other lies in shadow."""
    radius = max(3.0, site.draw_radius(rng) * 0.7)
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(0.5, 1.0)
    dy, dx = np.arange(site.size[0])[:, None] - site.center[0], np.arange(site.size[1])[None, :] - site.center[1]
    along = (dx * np.cos(angle) + dy * np.sin(angle)) / radius
    across = (dy * np.cos(angle) - dx * np.sin(angle)) / (radius * stretch)
    light = rng.uniform(0, 2 * np.pi)
    slope = along * np.cos(light) + across * np.sin(light)
    flanks = slope * np.exp(-2.0 * (along**2 + across**2)) * 3.0
    return np.asarray(site.surface.image + (site.contrast * flanks)[..., None])


def foreign_body(rng: np.random.Generator, site: Site) -> FloatArray:
    """Drop a chip, crumb or droplet that does not belong: own colour, own grain, own shadow."""
    radius = max(2.0, site.draw_radius(rng) * 0.6)
    edge = draw_blob(rng, size=site.size, center=site.center, radius=radius, roughness=rng.uniform(0.1, 0.7))
    bright = site.contrast > 0
    color = draw_color(rng, saturation=(0.0, 0.8), value=(0.55, 1.0) if bright else (0.02, 0.4))
    grain = 1.0 + 0.15 * smooth_noise(rng, size=site.size, cell=max(1.2, radius * 0.35))
    light = rng.uniform(0, 2 * np.pi)
    dy, dx = np.arange(site.size[0])[:, None] - site.center[0], np.arange(site.size[1])[None, :] - site.center[1]
    slope = np.clip((dx * np.cos(light) + dy * np.sin(light)) / (1.5 * radius), -1.0, 1.0)
    solid = min(1.0, 2.5 * abs(site.contrast) + 0.1)
    shadow = 0.35 * solid * smoothstep(edge, low=0.35 * radius, high=0.0) * (slope < 0)
    image = site.surface.image * (1.0 - shadow)[..., None]
    return blend(image, color * (grain * (1.0 + 0.35 * slope))[..., None], coverage(edge, pixel=1.0) * solid)


def missing_piece(rng: np.random.Generator, site: Site) -> FloatArray:
    """Break material away, at the rim of a part where it has one, so that what lies beneath shows."""
    radius = max(2.5, site.draw_radius(rng) * 0.8)
    edge = draw_blob(
        rng, size=site.size, center=_towards_rim(rng, site), radius=radius, roughness=rng.uniform(0.3, 0.9)
    )
    depth = 1.0 - 0.35 * smoothstep(edge, low=-0.5 * radius, high=0.0)
    beneath = site.surface.beneath * depth[..., None]
    hidden = min(1.0, 0.35 + 2.0 * abs(site.contrast))
    image = blend(site.surface.image, beneath, coverage(edge, pixel=1.0) * hidden)
    lip = np.exp(-(((edge - 0.8) / 0.9) ** 2)) * 0.3 * site.contrast
    return np.asarray(image + lip[..., None])


def _towards_rim(rng: np.random.Generator, site: Site) -> tuple[float, float]:
    """Walk from the site in a random direction and stop where the part ends, or stay on a full sheet."""
    inside = site.surface.foreground
    if bool(inside.all()) or chance(rng, 0.2):
        return site.center
    angle, (y, x) = rng.uniform(0, 2 * np.pi), site.center
    stride = max(site.size) / (2 * RIM_POINTS)
    for _ in range(RIM_POINTS):
        row, column = y + stride * np.sin(angle), x + stride * np.cos(angle)
        within = 0 <= row < site.size[0] and 0 <= column < site.size[1]
        if not within or not inside[int(row), int(column)]:
            break
        y, x = row, column
    return y, x
