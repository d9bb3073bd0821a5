"""Where things lie: coordinate frames, lines and blobs.

Lengths are in reference pixels ("ref px"): one is a pixel of a 256 x 256 image, and images of other sizes are scaled
by the square root of their area, so a texture or a defect keeps its share of the image.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from feclip.demo.fields import BoolArray, FloatArray, draw_sign
from feclip.errors import DataError

REFERENCE_SIDE = 256.0  # pixels; the size at which a ref px is a pixel
MIN_SIDE = 32  # pixels; below, no texture is left to be damaged
ELONGATED_TURN = 0.1  # share of its turn that a part keeps in an elongated image
ELONGATED = 1.4  # aspect ratio from which a part is laid along the image


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Coordinates of a texture or a part, rotated and scaled within its image."""

    u: FloatArray
    """Coordinate along the part, ``(H, W)``, ref px from the frame's origin."""
    v: FloatArray
    """Coordinate across the part, ``(H, W)``, ref px."""
    pixel: float
    """Side of one image pixel, in ref px of this frame."""
    half_length: float
    """Half of what the image shows along u if the part is not turned, ref px."""
    half_width: float
    """The same along v."""
    angle: float
    """Direction of u in the image, radians from +x towards +y."""


def unit_of(size: tuple[int, int]) -> float:
    """Return the pixels per reference pixel of an image of ``size`` (H, W).

    Example:
        >>> unit_of((256, 256)), unit_of((128, 512)), unit_of((64, 64))
        (1.0, 1.0, 0.25)
    """
    return float(np.sqrt(size[0] * size[1]) / REFERENCE_SIDE)


def check_size(size: tuple[int, int]) -> None:
    """Raise ``ValueError`` for an image side below ``MIN_SIDE``."""
    if min(size) < MIN_SIDE:
        msg = f"Both image sides must be at least {MIN_SIDE} px, got {size}."
        raise ValueError(msg)


def draw_frame(
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    max_turn: float = np.pi,
    zoom: tuple[float, float] = (0.8, 1.3),
    drift: float = 0.06,
) -> Frame:
    """Draw a frame: u runs along the longer side, then everything is turned, scaled and moved.

    Args:
        rng: Source of the draw.
        size: Image height and width, pixels.
        max_turn: Largest turn to either side, radians; an elongated image turns a tenth of it at most.
        zoom: Range of the scale; above 1 the part looks larger.
        drift: Largest shift of the origin, as a share of each image side.
    """
    height, width = size
    elongated = max(size) > ELONGATED * min(size)
    upright = elongated and height > width
    turn = float(rng.uniform(-max_turn, max_turn)) * (ELONGATED_TURN if elongated else 1.0)
    angle = turn + (np.pi / 2 if upright else 0.0)
    pixel = 1.0 / (unit_of(size) * rng.uniform(*zoom))
    x = (np.arange(width) - width * (0.5 + rng.uniform(-drift, drift)) + 0.5) * pixel
    y = ((np.arange(height) - height * (0.5 + rng.uniform(-drift, drift)) + 0.5) * pixel)[:, None]
    cosine, sine = np.cos(angle), np.sin(angle)
    half_sides = (height * pixel / 2, width * pixel / 2)
    return Frame(
        u=x * cosine + y * sine,
        v=y * cosine - x * sine,
        pixel=pixel,
        half_length=max(half_sides),
        half_width=min(half_sides),
        angle=angle,
    )


def rounded_box(u: FloatArray, v: FloatArray, *, half: tuple[float, float], radius: float) -> FloatArray:
    """Signed distance to a box of half sides ``half`` whose corners are rounded by ``radius``; negative inside."""
    outer_u, outer_v = np.abs(u) - (half[0] - radius), np.abs(v) - (half[1] - radius)
    outside = np.hypot(np.maximum(outer_u, 0.0), np.maximum(outer_v, 0.0))
    return outside + np.minimum(np.maximum(outer_u, outer_v), 0.0) - radius


def draw_path(
    rng: np.random.Generator,
    *,
    center: tuple[float, float],
    length: float,
    wander: float,
    jag: float = 0.0,
    heading: float | None = None,
) -> FloatArray:
    """Draw a curve through ``center``.

    Args:
        rng: Source of the draw.
        center: y and x of its middle, pixels.
        length: Length of the curve, pixels.
        wander: Standard deviation of the smooth turn over the whole curve, radians.
        jag: Standard deviation of the independent turn of every piece, radians.
        heading: Direction at the middle, radians; random where absent.

    Returns:
        Points ``(N, 2)`` as y, x, pixels.
    """
    count = int(np.clip(length / 6.0, 6, 40))
    start = rng.uniform(0, 2 * np.pi) if heading is None else heading
    knots = rng.standard_normal(4)
    curve = np.interp(np.linspace(0, 3, count), np.arange(4), knots)
    turns = np.cumsum(curve) * (wander / np.sqrt(count)) * 0.6 + rng.standard_normal(count) * jag
    angles = start + turns - turns[count // 2]
    steps = np.stack([np.sin(angles), np.cos(angles)], axis=1) * (length / count)
    points = np.cumsum(steps, axis=0)
    return np.asarray(points - points[count // 2] + np.array(center))


def path_distance(
    points: FloatArray, *, size: tuple[int, int], reach: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Measure every pixel against a curve of ``points`` ``(N, 2)``.

    Returns:
        Three ``(H, W)`` fields: the distance in pixels (infinite beyond about ``reach``), the side of the curve
        (-1 or 1) and the position along it, 0..1.
    """
    distance = np.full(size, np.inf)
    side, progress = np.ones(size), np.zeros(size)
    pieces = len(points) - 1
    for index, ((y0, x0), (y1, x1)) in enumerate(itertools.pairwise(points)):
        top, bottom = max(0, int(min(y0, y1) - reach)), min(size[0], int(max(y0, y1) + reach) + 2)
        left, right = max(0, int(min(x0, x1) - reach)), min(size[1], int(max(x0, x1) + reach) + 2)
        if top >= bottom or left >= right:
            continue
        window = (slice(top, bottom), slice(left, right))
        dy, dx = np.arange(top, bottom)[:, None] - y0, np.arange(left, right)[None, :] - x0
        step_y, step_x = y1 - y0, x1 - x0
        share = np.clip((dy * step_y + dx * step_x) / (step_y**2 + step_x**2), 0.0, 1.0)
        here = np.hypot(dy - share * step_y, dx - share * step_x)
        closer = here < distance[window]
        distance[window][closer] = here[closer]
        side[window][closer] = np.where(dx * step_y - dy * step_x < 0, -1.0, 1.0)[closer]
        progress[window][closer] = ((index + share) / pieces)[closer]
    return distance, side, progress


def draw_blob(
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    center: tuple[float, float],
    radius: float,
    roughness: float,
) -> FloatArray:
    """Return the signed distance (pixels, negative inside, ``(H, W)``) to an irregular, stretched round shape.

    Args:
        rng: Source of the draw.
        size: Image height and width, pixels.
        center: y and x of the middle, pixels.
        radius: Mean radius, pixels.
        roughness: Relative size of the dents in its outline; 0 is an ellipse.
    """
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(0.65, 1.0)
    dy, dx = np.arange(size[0])[:, None] - center[0], np.arange(size[1])[None, :] - center[1]
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = (dy * np.cos(angle) - dx * np.sin(angle)) / stretch
    outline = np.ones(64)
    turn = np.arange(64) * (2 * np.pi / 64)
    for harmonic in range(2, 8):
        outline += roughness / harmonic * draw_sign(rng) * np.cos(harmonic * turn + rng.uniform(0, 2 * np.pi))
    theta = np.arctan2(across, along)
    limit = np.interp(theta, turn, outline, period=2 * np.pi) * radius
    return np.asarray((np.hypot(along, across) - limit) * stretch)


def draw_point(rng: np.random.Generator, *, inside: BoolArray, margin: float = 0.06) -> tuple[float, float]:
    """Draw y and x (pixels) of a point of ``inside`` ``(H, W)``, off the border by ``margin`` of each side."""
    height, width = inside.shape
    top, left = int(height * margin), int(width * margin)
    inner = inside[top : height - top, left : width - left]
    candidates = np.flatnonzero(inner)
    if candidates.size == 0:
        msg = f"The part leaves the inner {1 - 2 * margin:.0%} of its {width}x{height} px image: nothing to damage."
        raise DataError(msg)
    row, column = divmod(int(rng.choice(candidates)), inner.shape[1])
    return float(top + row), float(left + column)
