"""Printed circuit boards: traces routed on a lattice, vias, chips with pins, silkscreen."""

import numpy as np

from feclip.demo.fields import (
    BoolArray,
    FloatArray,
    blend,
    chance,
    coverage,
    draw_color,
    draw_sign,
    fractal_noise,
    smooth_noise,
)
from feclip.demo.geometry import Frame, draw_frame, rounded_box, unit_of
from feclip.demo.surfaces.base import Surface, place_part

PIN_HALF_WIDTH = 0.22  # lattice cells
COMPONENT_REACH = 6.0  # lattice cells; the largest chip and its silkscreen lie within
MEAN_RUN = 7.0  # lattice cells
LAID_SHARE = 0.5  # of the runs; the others stay bare
LATTICE_SIDE = 64  # cells; the routing repeats beyond, which no image reaches
SOLDER = np.array([0.86, 0.78, 0.55])  # tinned gold, RGB
MASK_HUES = (0.38, 0.38, 0.36, 0.6, 0.0, 0.12)  # green most often, blue, red, amber


def paint_circuit_board(rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
    """Paint a populated board that fills the image or lies on a table."""
    frame = draw_frame(rng, size=size, max_turn=0.25 if chance(rng, 0.6) else np.pi, zoom=(0.85, 1.3))
    pitch = rng.uniform(7, 12)
    hue = MASK_HUES[rng.integers(len(MASK_HUES))]
    lacquer = draw_color(rng, hue=(hue - 0.03, hue + 0.03), saturation=(0.4, 0.9), value=(0.15, 0.5))
    traces, pads, drills = _route(rng, frame=frame, pitch=pitch)
    mottle = 1.0 + 0.05 * fractal_noise(rng, size=size, cell=25 * unit_of(size), octaves=3)
    image = lacquer * mottle[..., None]
    image = blend(image, lacquer * rng.uniform(1.25, 1.7) + 0.03, traces * rng.uniform(0.6, 1.0))
    image = blend(image, SOLDER * rng.uniform(0.8, 1.05), pads)
    image = blend(image, np.array([0.05, 0.05, 0.05]), drills)
    for _ in range(int(rng.integers(3, 8))):
        _mount(rng, image=image, frame=frame, pitch=pitch)
    image = image + 0.015 * smooth_noise(rng, size=size, cell=1.5 * max(unit_of(size), 0.7))[..., None]
    reach = rng.uniform(0.72, 0.9) if chance(rng, 0.5) else 2.0
    half = (frame.half_length * reach, frame.half_width * reach)
    edge = rounded_box(frame.u, frame.v, half=half, radius=rng.uniform(1, 6))
    return place_part(rng, image=image, inside=coverage(edge, pixel=frame.pixel), distance=edge)


def _route(rng: np.random.Generator, *, frame: Frame, pitch: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the coverage ``(H, W)`` of traces, of pads and of drilled holes, on a lattice of ``pitch`` ref px."""
    a, b = frame.u / pitch + LATTICE_SIDE / 2, frame.v / pitch + LATTICE_SIDE / 2
    column, row = np.floor(a), np.floor(b)
    x, y = a - column - 0.5, b - row - 0.5
    rightward, downward = _runs(rng), _runs(rng).T
    i, j = row.astype(np.intp) % LATTICE_SIDE, column.astype(np.intp) % LATTICE_SIDE
    arm_x = np.where(x > 0, rightward[i, j], rightward[i, j - 1])
    arm_y = np.where(y > 0, downward[i, j], downward[i - 1, j])
    half, pixel = rng.uniform(0.1, 0.2), frame.pixel / pitch
    traces = np.maximum(
        coverage(np.abs(y) - half, pixel=pixel) * arm_x,
        coverage(np.abs(x) - half, pixel=pixel) * arm_y,
    )
    arms = rightward.astype(int) + np.roll(rightward, 1, axis=1) + downward + np.roll(downward, 1, axis=0)
    padded = (arms == 1) | (rng.random((LATTICE_SIDE, LATTICE_SIDE)) < rng.uniform(0.0, 0.06))
    radius = np.hypot(x, y)
    pads = coverage(radius - rng.uniform(0.3, 0.4), pixel=pixel) * padded[i, j]
    drills = coverage(radius - rng.uniform(0.14, 0.2), pixel=pixel) * padded[i, j] * float(chance(rng, 0.8))
    return traces, pads, drills


def _runs(rng: np.random.Generator) -> BoolArray:
    """Lay straight runs of traces along the rows of the lattice: true where a node joins the next one."""
    shape = (LATTICE_SIDE, LATTICE_SIDE)
    breaks = rng.random(shape) < 1.0 / MEAN_RUN
    laid = rng.random(shape) < LAID_SHARE
    runs = np.cumsum(breaks, axis=1) % LATTICE_SIDE
    return np.asarray(np.take_along_axis(laid, runs, axis=1) & ~breaks)


def _mount(rng: np.random.Generator, *, image: FloatArray, frame: Frame, pitch: float) -> None:
    """Solder one component somewhere onto the board."""
    u = frame.u - np.rint(rng.uniform(-0.75, 0.75) * frame.half_length / pitch) * pitch
    v = frame.v - np.rint(rng.uniform(-0.75, 0.75) * frame.half_width / pitch) * pitch
    near = np.hypot(u, v) < COMPONENT_REACH * pitch
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if rows.size:
        window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        u, v = u[window], v[window]
        if chance(rng, 0.5):
            u, v = v, u
        image[window] = _component(rng, image=image[window], u=u, v=v, pitch=pitch, pixel=frame.pixel)


def _component(
    rng: np.random.Generator, *, image: FloatArray, u: FloatArray, v: FloatArray, pitch: float, pixel: float
) -> FloatArray:
    """Paint a pinned chip, a small chip resistor or a round capacitor at the origin of u and v."""
    metal = SOLDER * 0.9 if chance(rng, 0.3) else np.array([0.75, 0.76, 0.78])
    kind = rng.choice(("chip", "resistor", "capacitor"), p=(0.4, 0.4, 0.2))
    if kind == "chip":
        half = (pitch * float(rng.integers(2, 5)), pitch * float(rng.uniform(1.0, 2.2)))
        pins = (np.abs(u / pitch - np.rint(u / pitch)) < PIN_HALF_WIDTH) & (np.abs(u) < half[0])
        legs = coverage(np.abs(v) - half[1] - 0.5 * pitch, pixel=pixel) * pins
        image = blend(image, metal, legs)
        body, color = rounded_box(u, v, half=half, radius=1.0), draw_color(rng, saturation=(0, 0.1), value=(0.06, 0.2))
        mark = coverage(np.hypot(u - half[0] * 0.75, v - half[1] * 0.6) - 0.22 * pitch, pixel=pixel)
    elif kind == "resistor":
        half = (pitch * float(rng.uniform(0.6, 1.0)), pitch * float(rng.uniform(0.35, 0.5)))
        body, color = rounded_box(u, v, half=half, radius=0.5), draw_color(rng, saturation=(0, 0.5), value=(0.1, 0.7))
        image = blend(image, metal, coverage(body - 0.18 * pitch, pixel=pixel))
        mark = coverage(0.6 * half[0] - np.abs(u), pixel=pixel)
    else:
        radius = pitch * rng.uniform(0.8, 1.5)
        body, color = np.hypot(u, v) - radius, draw_color(rng, saturation=(0, 0.6), value=(0.3, 0.9))
        mark = coverage(draw_sign(rng) * (u - 0.3 * radius), pixel=pixel) * 0.6
    part = blend(np.broadcast_to(color, image.shape), metal, mark)
    screen = np.abs(body - 0.55 * pitch) - 0.35
    image = blend(image, np.array([0.9, 0.9, 0.88]), coverage(screen, pixel=pixel) * float(chance(rng, 0.5)))
    return blend(image, part, coverage(body, pixel=pixel))
