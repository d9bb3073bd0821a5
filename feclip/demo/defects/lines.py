"""Line defects: scratch, crack, fibre, streak."""

import numpy as np

from feclip.demo.defects.site import Site
from feclip.demo.fields import FloatArray, blend, chance, draw_color, draw_sign, smoothstep
from feclip.demo.geometry import draw_path, path_distance

SOFT_EDGE = 1.0  # pixels over which a line fades


def scratch(rng: np.random.Generator, site: Site) -> FloatArray:
    """Cut a nearly straight groove: tapered, at places interrupted, often with a ridge along one side."""
    width = site.draw_line_width(rng)
    path = draw_path(rng, center=site.center, length=site.draw_line_length(rng), wander=rng.uniform(0.02, 0.5))
    distance, side, progress = path_distance(path, size=site.size, reach=2 * width + 3)
    strength = site.contrast * _taper(rng, progress, gaps=chance(rng, 0.4))
    change = strength * _profile(distance, width=width)
    if chance(rng, 0.5):
        ridge = _profile(np.abs(distance - width * 1.1), width=width * 0.8)
        change -= 0.6 * strength * ridge * (side == draw_sign(rng))
    return np.asarray(site.surface.image + change[..., None])


def crack(rng: np.random.Generator, site: Site) -> FloatArray:
    """Break the surface: a jagged dark line of changing width, with up to three branches."""
    width, length = site.draw_line_width(rng), site.draw_line_length(rng)
    trunk = draw_path(rng, center=site.center, length=length, wander=0.8, jag=rng.uniform(0.25, 0.6))
    cover = np.zeros(site.size)
    for index in range(1 + int(rng.integers(0, 4))):
        path, share = trunk, 1.0
        if index:
            share = rng.uniform(0.4, 0.8)
            fork = trunk[int(rng.integers(1, len(trunk) - 1))]
            branch = draw_path(
                rng, center=(0.0, 0.0), length=length * rng.uniform(0.2, 0.6), wander=0.6, jag=rng.uniform(0.25, 0.6)
            )
            path = branch - branch[0] + fork
        distance, _, progress = path_distance(path, size=site.size, reach=2 * width + 3)
        local = width * share * (0.6 + 0.8 * np.sin(progress * np.pi) ** 0.5)
        faded = _taper(rng, progress, gaps=False) if not index else smoothstep(progress, low=1.0, high=0.4)
        cover = np.maximum(cover, _profile(distance, width=local) * faded)
    return np.asarray(site.surface.image + (site.contrast * cover)[..., None])


def fibre(rng: np.random.Generator, site: Site) -> FloatArray:
    """Drop a thread or hair: a smooth, curled line of its own colour with a soft shadow."""
    width = site.draw_line_width(rng)
    path = draw_path(rng, center=site.center, length=site.draw_line_length(rng), wander=rng.uniform(1.5, 6.0))
    distance, _, progress = path_distance(path, size=site.size, reach=2 * width + 4)
    cover = _profile(distance, width=width) * (1.0 - 0.3 * np.sin(progress * rng.uniform(10, 60)) ** 2)
    shade = 0.25 * np.roll(_profile(distance, width=width * 1.5), (1, 1), axis=(0, 1))
    image = site.surface.image * (1.0 - shade * min(1.0, abs(site.contrast) * 2))[..., None]
    if chance(rng, 0.5):
        return np.asarray(image + (site.contrast * cover)[..., None])
    color = draw_color(rng, saturation=(0.0, 0.9), value=(0.7, 1.0) if site.contrast > 0 else (0.0, 0.25))
    return blend(image, color, cover * min(1.0, 1.8 * abs(site.contrast)))


def streak(rng: np.random.Generator, site: Site) -> FloatArray:
    """Leave a straight, wide and faint band, as a worn roller or a dry brush does."""
    width = site.draw_line_width(rng) * rng.uniform(2.5, 4.5)
    length = site.draw_line_length(rng) * 1.5
    path = draw_path(rng, center=site.center, length=length, wander=0.05)
    distance, _, progress = path_distance(path, size=site.size, reach=2.5 * width + 2)
    cover = np.exp(-((distance / (0.6 * width)) ** 2)) * _taper(rng, progress, gaps=chance(rng, 0.3))
    faint = np.sign(site.contrast) * min(abs(site.contrast), 0.3) * 0.65
    return np.asarray(site.surface.image + (faint * cover)[..., None])


def _profile(distance: FloatArray, *, width: float | FloatArray) -> FloatArray:
    """Antialiased cross-section of a line, 0..1, of ``width`` pixels."""
    return np.clip((width / 2 - distance) / SOFT_EDGE + 0.5, 0.0, 1.0)


def _taper(rng: np.random.Generator, progress: FloatArray, *, gaps: bool) -> FloatArray:
    """Strength along a line: thinning towards both ends, now and then interrupted."""
    ends = np.sin(np.pi * np.clip(progress, 0.02, 0.98)) ** 0.4
    if not gaps:
        return np.asarray(ends)
    wave = np.sin(progress * rng.uniform(8, 30) + rng.uniform(0, 6))
    return np.asarray(ends * smoothstep(wave, low=-0.7, high=0.1))
