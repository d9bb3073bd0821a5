"""Parts lying on a table: casting, knurled part, bottle cap, capsule, cable bundle."""

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
from feclip.demo.geometry import Frame, draw_frame, rounded_box, unit_of
from feclip.demo.surfaces.base import Surface, per_cell, place_part, relief

CODE_HALF_HEIGHT = 2  # cells above and below the axis of a capsule that carry its printed code
STRIPE_HALF_WIDTH = 0.2  # of a marked wire, as a share of its radius


def paint_casting(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint a sand-cast plate with bosses, bores and a rib, lit hard from one side."""
    frame = draw_frame(rng, size=size, zoom=(0.85, 1.1))
    half = (frame.half_length * rng.uniform(0.6, 0.8), frame.half_width * rng.uniform(0.55, 0.78))
    distance = rounded_box(frame.u, frame.v, half=half, radius=min(half) * rng.uniform(0.2, 0.9))
    height = 14.0 * smoothstep(distance, low=0.0, high=-rng.uniform(6, 18))
    if chance(rng, 0.6):
        height = height + 6.0 * smoothstep(np.abs(frame.v - rng.uniform(-15, 15)), low=9.0, high=5.0)
    bores = np.full(size, np.inf)
    for u in np.linspace(-0.55, 0.55, int(rng.integers(2, 5))) * half[0]:
        boss = np.hypot(frame.u - u, frame.v - rng.uniform(-0.3, 0.3) * half[1])
        radius = rng.uniform(0.14, 0.3) * min(half)
        height = height + 7.0 * smoothstep(boss, low=radius * 1.7, high=radius * 1.45)
        if chance(rng, 0.75):
            bores = np.minimum(bores, boss - radius)
    grain = fractal_noise(rng, size=size, cell=rng.uniform(3, 7) * max(unit_of(size), 0.5), octaves=2)
    light = rng.uniform(0, 2 * np.pi)
    shade = relief((height + 0.25 * grain) / frame.pixel, light=light, strength=rng.uniform(0.25, 0.5))
    fall = (frame.u * np.cos(light) + frame.v * np.sin(light)) / max(half)
    metal = draw_color(rng, saturation=(0.0, 0.2), value=(0.3, 0.7))
    tone = 1.0 + rng.uniform(0.1, 0.45) * fall + 0.5 * shade + rng.uniform(0.02, 0.08) * grain
    inside = coverage(distance, pixel=frame.pixel) * coverage(-bores, pixel=frame.pixel)
    return place_part(rng, image=metal * tone[..., None], inside=inside, distance=np.maximum(distance, -bores))


def paint_knurled_part(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint a turned pin with a diamond-knurled grip between plain shoulders."""
    frame = draw_frame(rng, size=size, zoom=(0.85, 1.15))
    radius = min(frame.half_width * rng.uniform(0.42, 0.68), 0.45 * frame.half_length)
    length = frame.half_length * rng.uniform(0.7, 0.92)
    grip_center, grip_half = length * rng.uniform(-0.2, 0.2), length * rng.uniform(0.4, 0.65)
    on_grip = np.abs(frame.u - grip_center) < grip_half
    local = radius * np.where(on_grip, 1.0, rng.uniform(0.72, 0.93))
    across = np.clip(frame.v / local, -1.0, 1.0)
    facing = np.sqrt(1.0 - across**2)
    girth, pitch = radius * np.arcsin(across), rng.uniform(8, 15)
    first, second = frame.u / pitch + girth / pitch, frame.u / pitch - girth / pitch
    waves = [1.0 - np.abs(2.0 * (wave - np.floor(wave)) - 1.0) for wave in (first, second)]
    knurl = np.minimum(waves[0], waves[1]) * on_grip
    light = rng.uniform(0, 2 * np.pi)
    shade = relief(knurl * pitch * 0.5 / frame.pixel, light=light, strength=rng.uniform(0.35, 0.7))
    tilt = rng.uniform(-0.5, 0.5)
    body = 0.35 + 0.55 * np.maximum(facing * np.cos(tilt) + across * np.sin(tilt), 0.0)
    gloss = rng.uniform(0.1, 0.5) * np.exp(-(((across - rng.uniform(-0.4, 0.4)) / 0.18) ** 2))
    turned = 0.05 * noise_at(rng, frame.v, frame.u, cell=(150, 1.4)) * ~on_grip
    edge = np.maximum(np.abs(frame.v) - local, np.abs(frame.u) - length)
    chamfer = 0.35 * smoothstep(np.abs(np.abs(frame.u - grip_center) - grip_half), low=3.0, high=0.0)
    tone = (body + gloss + turned) * (1.0 + 0.5 * shade) - chamfer * 0.4
    tone += 0.03 * fractal_noise(rng, size=size, cell=9 * unit_of(size), octaves=3)
    metal = draw_color(rng, hue=(0.05, 0.65), saturation=(0.0, 0.25), value=(0.6, 1.0))
    return place_part(rng, image=metal * tone[..., None], inside=coverage(edge, pixel=frame.pixel), distance=edge)


def paint_bottle_cap(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint printed crown caps seen from above; an elongated image shows a row of them."""
    frame = draw_frame(rng, size=size, zoom=(0.9, 1.05), drift=0.04)
    radius = frame.half_width * rng.uniform(0.66, 0.84)
    slot, u = _row_of_items(frame, pitch=radius * 2.35, reach=radius)
    theta, rho = np.arctan2(frame.v, u) + slot * 1.7, np.hypot(u, frame.v)
    teeth = int(rng.integers(19, 27))
    crimp = np.cos(teeth * theta)
    edge = rho - radius * (1.0 + 0.03 * crimp)
    skirt = smoothstep(rho / radius, low=0.8, high=0.9)
    light = rng.uniform(0, 2 * np.pi)
    slope = smoothstep(np.abs(rho / radius - 0.84), low=0.12, high=0.0)
    tone = 1.0 + 0.25 * slope * np.cos(theta - light) + skirt * (0.22 * crimp * np.cos(theta - light + 0.8) - 0.12)
    tone += rng.uniform(0.0, 0.16) * np.cos(2 * (theta - light)) + 0.03 * smooth_noise(
        rng, size=size, cell=25 * unit_of(size)
    )
    tone += 0.02 * smooth_noise(rng, size=size, cell=1.5 * max(unit_of(size), 0.7))
    paint = draw_color(rng, saturation=(0.1, 0.9), value=(0.3, 0.95))
    ink = draw_color(rng, saturation=(0.0, 0.9), value=(0.1, 0.98))
    lobes, depth = int(rng.integers(3, 9)), rng.uniform(0.0, 0.35)
    emblem = rho / radius - rng.uniform(0.22, 0.42) * (1.0 + depth * np.cos(lobes * theta + rng.uniform(0, 6)))
    soft = frame.pixel / radius
    printed = coverage(emblem, pixel=soft)
    ring = np.abs(rho / radius - rng.uniform(0.58, 0.66)) - rng.uniform(0.015, 0.05)
    dashes = np.cos(int(rng.integers(6, 30)) * theta) > rng.uniform(-1.0, 0.4)
    printed = np.maximum(printed, coverage(ring, pixel=soft) * dashes)
    image = blend(np.broadcast_to(paint, (*size, 3)), ink, printed) * tone[..., None]
    return place_part(rng, image=image, inside=coverage(edge, pixel=frame.pixel), distance=edge)


def paint_capsule(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint two-coloured gelatine capsules with a seam and a printed code."""
    frame = draw_frame(rng, size=size, zoom=(0.9, 1.1))
    radius = frame.half_width * rng.uniform(0.34, 0.52)
    reach = min(frame.half_length * 0.88, radius * rng.uniform(2.0, 2.9))
    slot, u = _row_of_items(frame, pitch=2.2 * reach, reach=reach)
    straight = reach - radius
    seam = straight * rng.uniform(-0.3, 0.3)
    cap = u > seam
    local = radius * np.where(cap, 1.0, 0.955)
    off_axis = np.hypot(u - np.clip(u, -straight, straight), frame.v)
    edge = off_axis - local
    depth = np.clip(off_axis / local, 0.0, 1.0)
    facing = np.sqrt(1.0 - depth**2)
    lit = np.clip(frame.v / local, -1.0, 1.0) - rng.uniform(-0.5, 0.5)
    gloss = rng.uniform(0.15, 0.5) * np.exp(-((lit / 0.13) ** 2)) * facing
    tone = 0.45 + 0.55 * facing + 0.02 * smooth_noise(rng, size=size, cell=20 * unit_of(size))
    tone -= 0.35 * smoothstep(np.abs(u - seam), low=2.2, high=0.4)
    colors = [draw_color(rng, saturation=(0.0, 0.85), value=(0.4, 0.95)) for _ in range(2)]
    image = np.where(cap[..., None], colors[0], colors[1])
    cell = radius * rng.uniform(0.09, 0.14)
    column, row = np.floor((u - seam) / cell) + 20 * slot, np.floor(frame.v / cell)
    bits = per_cell(rng, column, row, spread=1.0) > 0.0
    label = (
        bits & (np.abs(row) <= CODE_HALF_HEIGHT) & (column % 6 > 0) & (np.abs(u - seam - 0.5 * radius) < 0.9 * radius)
    )
    image = image * (1.0 - rng.uniform(0.2, 0.6) * label)[..., None] * tone[..., None] + gloss[..., None]
    return place_part(rng, image=image, inside=coverage(edge, pixel=frame.pixel), distance=edge)


def paint_cable_bundle(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint parallel, slightly wavy insulated wires, now and then tied."""
    frame = draw_frame(rng, size=size, max_turn=np.pi if chance(rng, 0.5) else 0.3, zoom=(0.85, 1.2), drift=0.03)
    count = int(rng.integers(4, 9))
    spread = frame.half_width * rng.uniform(0.45, 0.75)
    width = spread / count
    image, inside = np.zeros((*size, 3)), np.zeros(size)
    nearest = np.full(size, np.inf)
    sway = rng.uniform(0, 9) * np.sin(frame.u / rng.uniform(50, 130) + rng.uniform(0, 6))
    phase = rng.uniform(0, 6)
    lit, gloss = rng.uniform(-0.4, 0.4), rng.uniform(0.1, 0.45)
    fine = 0.03 * smooth_noise(rng, size=size, cell=3.0 * max(unit_of(size), 0.5))
    for index in rng.permutation(count):
        center = (2 * index + 1 - count) * width * 0.96
        weave = width * rng.uniform(0.05, 0.35) * np.sin(frame.u / rng.uniform(35, 80) + phase + index)
        across = (frame.v - center - sway - weave) / (width * rng.uniform(0.9, 1.08))
        facing = np.sqrt(np.maximum(1.0 - across**2, 0.0))
        shine = gloss * np.exp(-(((across - lit) / 0.16) ** 2))
        color = draw_color(rng, saturation=(0.1, 0.95), value=(0.15, 0.95))
        cover = coverage(np.abs(across) - 1.0, pixel=frame.pixel / width)
        wire = color * (0.3 + 0.7 * facing + fine)[..., None] + (shine * facing)[..., None]
        if chance(rng, 0.25):
            wire *= np.where(np.abs(across - 0.1) < STRIPE_HALF_WIDTH, rng.uniform(0.5, 1.5), 1.0)[..., None]
        image, inside = blend(image, wire, cover), np.maximum(inside, cover)
        nearest = np.minimum(nearest, (np.abs(across) - 1.0) * width)
    if chance(rng, 0.35):
        tie = np.abs(frame.u - rng.uniform(-60, 60)) - rng.uniform(3, 6)
        strap = draw_color(rng, saturation=(0.0, 0.1), value=(0.1, 0.95)) * (1.0 + tie[..., None] * 0.05)
        image = blend(image, strap, coverage(tie, pixel=frame.pixel) * (inside > 0))
    return place_part(rng, image=image, inside=inside, distance=nearest)


def _row_of_items(frame: Frame, *, pitch: float, reach: float) -> tuple[FloatArray, FloatArray]:
    """Repeat an item along u as often as the image holds it whole: its index and its own u, ``(H, W)``."""
    beside = int(max(0.0, frame.half_length - reach) // pitch)
    slot = np.clip(np.rint(frame.u / pitch), -beside, beside)
    return slot, frame.u - slot * pitch
