"""Textures that fill the image: woven cloth, brushed metal, wood grain, tiles, granite, perforated sheet."""

import numpy as np

from feclip.demo.fields import (
    FloatArray,
    blend,
    chance,
    coverage,
    draw_color,
    fractal_noise,
    noise_at,
    smooth_noise,
    smoothstep,
)
from feclip.demo.geometry import draw_frame, rounded_box, unit_of
from feclip.demo.surfaces.base import HALF, Surface, full_sheet, per_cell

WEAVES = ((1, 2, 1), (1, 4, 2), (1, 3, 2), (2, 2, 1))  # threads per bundle, repeat, threads over: plain, twills, basket


def paint_weave(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint woven cloth: plain, twill or basket weave of twisted yarn."""
    frame = draw_frame(rng, size=size, zoom=(0.8, 1.4))
    period = rng.uniform(9, 20)
    wobble = 0.12 * smooth_noise(rng, size=size, cell=60 * unit_of(size))
    a, b = frame.u / period + wobble, frame.v / (period * rng.uniform(0.8, 1.2)) + wobble
    column, row = np.floor(a), np.floor(b)
    bundle, repeat, over = WEAVES[rng.integers(len(WEAVES))]
    on_top = (np.floor(column / bundle) + np.floor(row / bundle)) % repeat < over
    across = np.where(on_top, a - column, b - row) - 0.5
    along = np.where(on_top, b - row, a - column) - 0.5
    twist = 0.07 * np.sin(2 * np.pi * (2 * across + rng.uniform(1, 3) * along))
    light = (1.0 - rng.uniform(1.5, 2.6) * across**2) * (1.0 - rng.uniform(0.3, 1.2) * along**2) + twist
    thread = np.where(on_top, per_cell(rng, column, spread=0.05), per_cell(rng, row, spread=0.05))
    fuzz = 0.05 * smooth_noise(rng, size=size, cell=1.6 * max(unit_of(size), 0.6))
    warp = draw_color(rng, saturation=(0.0, 0.7), value=(0.25, 0.9))
    weft = warp * rng.uniform(0.75, 1.1) if chance(rng, 0.6) else draw_color(rng)
    color = np.where(on_top[..., None], warp, weft)
    return full_sheet(rng, image=color * (light * (1.0 + thread) + fuzz)[..., None])


def paint_brushed_metal(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint straight or circular brushing with the band of light it throws."""
    frame = draw_frame(rng, size=size, zoom=(0.8, 1.5))
    along, across = frame.u, frame.v
    if chance(rng, 0.3):
        center = rng.uniform(120, 500)
        along, across = center * np.arctan2(frame.u, frame.v + center), np.hypot(frame.u, frame.v + center)
    depth = rng.uniform(0.6, 1.6)
    lines = 0.06 * noise_at(rng, along, across, cell=(rng.uniform(60, 160), 1.2))
    lines += 0.04 * noise_at(rng, along, across, cell=(260, 3.0))
    lines += 0.03 * noise_at(rng, along, across, cell=(22, 0.9))
    band = (across - rng.uniform(-100, 100)) / rng.uniform(30, 120)
    glow = rng.uniform(0.0, 0.35) * np.exp(-(band**2)) + 0.03 * smooth_noise(rng, size=size, cell=80 * unit_of(size))
    metal = draw_color(rng, hue=(0.04, 0.65), saturation=(0.0, 0.18), value=(0.3, 0.75))
    if chance(rng, 0.15):
        metal = draw_color(rng, hue=(0.03, 0.13), saturation=(0.3, 0.55), value=(0.45, 0.75))
    return full_sheet(rng, image=metal * (1.0 + depth * lines + glow)[..., None])


def paint_wood(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint sawn wood: rings, pores, and now and then a harmless knot."""
    frame = draw_frame(rng, size=size, zoom=(0.8, 1.4))
    u, v = frame.u, frame.v
    spacing = rng.uniform(9, 30)
    bend = rng.uniform(0.1, 0.9) * noise_at(rng, u, v, cell=(rng.uniform(80, 220), 45)) + 0.06 * noise_at(
        rng, u, v, cell=(30, 6)
    )
    cathedral = rng.uniform(0.0, 0.0012) * u**2 / spacing
    phase = v / spacing + bend + cathedral
    if chance(rng, 0.15):
        knot = np.hypot((u - rng.uniform(-70, 70)) / 1.6, v - rng.uniform(-70, 70)) / rng.uniform(7, 14)
        phase = phase + 2.2 / (0.35 + knot**2)
    ring = phase - np.floor(phase)
    late = ring**2 * smoothstep(ring, low=1.0, high=0.93)
    late *= 1.0 + per_cell(rng, np.floor(phase), spread=0.2)
    fibre = 0.05 * noise_at(rng, u, v, cell=(45, 1.1)) + 0.03 * noise_at(rng, u, v, cell=(120, 4.0))
    pores = rng.uniform(0.0, 0.3) * smoothstep(noise_at(rng, u, v, cell=(16, 1.0)), low=1.4, high=2.4)
    pale = draw_color(rng, hue=(0.05, 0.12), saturation=(0.25, 0.6), value=(0.5, 0.92))
    dark = pale * np.array([0.72, 0.62, 0.55]) * rng.uniform(0.75, 1.1)
    image = blend(np.broadcast_to(pale, (*size, 3)), dark, late * rng.uniform(0.4, 1.0))
    return full_sheet(rng, image=image * (1.0 + fibre - pores)[..., None])


def paint_tile(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint laid tiles with grout between them and a bevel around each."""
    frame = draw_frame(rng, size=size, max_turn=np.pi / 5 if chance(rng, 0.6) else np.pi, zoom=(0.8, 1.3))
    tall = rng.uniform(32, 80)
    wide = tall * rng.choice([1.0, 1.0, 1.5, 2.2])
    row = np.floor(frame.v / tall)
    shifted = frame.u / wide + rng.choice([0.0, 0.5, 0.33]) * row
    column = np.floor(shifted)
    x, y = (shifted - column - 0.5) * wide, (frame.v / tall - row - 0.5) * tall
    grout = rng.uniform(1.0, 2.8)
    edge = rounded_box(x, y, half=(wide / 2 - grout, tall / 2 - grout), radius=rng.uniform(0.5, 4))
    bevel = smoothstep(edge, low=-rng.uniform(2, 6), high=0.0) * np.sign(x + y) * rng.uniform(-0.18, 0.18)
    tone = 1.0 + per_cell(rng, row, column, spread=rng.uniform(0.015, 0.08))
    mottle = rng.uniform(0.02, 0.09) * fractal_noise(rng, size=size, cell=40 * unit_of(size), octaves=4)
    if chance(rng, 0.4):
        slant = per_cell(rng, row, column, spread=40.0)
        vein = np.abs(noise_at(rng, frame.u + slant, frame.v - slant, cell=(60, 24)))
        mottle -= rng.uniform(0.05, 0.2) * smoothstep(vein, low=0.16, high=0.0)
    face = draw_color(rng, saturation=(0.0, 0.55), value=(0.35, 0.92)) * (tone + mottle + bevel)[..., None]
    joint = draw_color(rng, saturation=(0.0, 0.15), value=(0.25, 0.85))
    sand = 1.0 + 0.08 * smooth_noise(rng, size=size, cell=1.5 * max(unit_of(size), 0.7))
    return full_sheet(rng, image=blend(joint * sand[..., None], face, coverage(edge, pixel=frame.pixel)))


def paint_granite(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint polished stone: grains of three to five minerals, dust-fine glitter."""
    unit = max(unit_of(size), 0.4)
    count, grain = int(rng.integers(3, 6)), rng.uniform(3.0, 8.0)
    layers = [
        fractal_noise(rng, size=size, cell=grain * unit * rng.uniform(0.6, 1.6), octaves=2) + rng.uniform(-0.5, 0.5)
        for _ in range(count)
    ]
    base = draw_color(rng, saturation=(0.0, 0.35), value=(0.32, 0.75))
    spread = rng.uniform(0.06, 0.24)
    minerals = np.clip(base + rng.uniform(-spread, spread, (count, 1)) + rng.normal(0, 0.025, (count, 3)), 0.06, 0.95)
    image = minerals[np.argmax(layers, axis=0)]
    cloud = 0.05 * fractal_noise(rng, size=size, cell=90 * unit, octaves=2)
    fine = 0.06 * smooth_noise(rng, size=size, cell=1.3 * unit)
    glitter = 0.25 * smoothstep(smooth_noise(rng, size=size, cell=2.0 * unit), low=2.4, high=3.2)
    return full_sheet(rng, image=image * (1.0 + cloud + fine)[..., None] + glitter[..., None])


def paint_perforated_sheet(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint punched sheet metal: round, square or slotted holes in a square or staggered grid."""
    frame = draw_frame(rng, size=size, zoom=(0.8, 1.3))
    pitch = rng.uniform(16, 36)
    staggered, slotted = chance(rng, 0.6), chance(rng, 0.3)
    pitch_u, pitch_v = pitch * (1.9 if slotted else 1.0), pitch * (0.87 if staggered else 1.0)
    row = np.floor(frame.v / pitch_v)
    shifted = frame.u / pitch_u + (0.5 * (row % 2) if staggered else 0.0)
    x, y = (shifted - np.floor(shifted) - 0.5) * pitch_u, (frame.v / pitch_v - row - 0.5) * pitch_v
    radius = pitch * rng.uniform(0.24, 0.34)
    corner = radius if slotted or chance(rng, 0.7) else radius * 0.2
    hole = rounded_box(x, y, half=(radius + (pitch_u - pitch) * 0.7, radius), radius=corner)
    rim = smoothstep(hole, low=pitch * 0.09, high=0.0) * np.sign(x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1))
    brushed = rng.uniform(0.01, 0.07) * noise_at(rng, frame.u, frame.v, cell=(60, 1.2))
    mottle = rng.uniform(0.01, 0.05) * fractal_noise(rng, size=size, cell=30 * unit_of(size), octaves=3)
    metal = draw_color(rng, saturation=(0.0, 0.2), value=(0.4, 0.85))
    if chance(rng, 0.3):
        metal = draw_color(rng, saturation=(0.3, 0.8), value=(0.3, 0.85))
    image: FloatArray = metal * (1.0 + brushed + mottle + 0.18 * rim)[..., None]
    inside = coverage(-hole, pixel=frame.pixel)
    value = (0.02, 0.2) if chance(rng, 0.7) else (0.8, 0.95)
    behind = (
        draw_color(rng, saturation=(0.0, 0.2), value=value)
        * (1.0 + 0.05 * smooth_noise(rng, size=size, cell=40 * unit_of(size)))[..., None]
    )
    image = np.clip(blend(behind, image, inside), 0.0, 1.0)
    return Surface(image=image, foreground=inside > HALF, beneath=np.clip(behind, 0.0, 1.0))
