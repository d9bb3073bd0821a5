"""Where and how strongly one defect acts: what all damage functions draw first."""

from dataclasses import dataclass

import numpy as np

from feclip.demo.defects.settings import Difficulty
from feclip.demo.fields import FloatArray, chance, draw_sign, log_uniform
from feclip.demo.geometry import draw_point, unit_of
from feclip.demo.surfaces import Surface

MIN_LINE = 0.8  # image pixels; a thinner line would vanish between two of them
NEIGHBOURHOOD = 10.0  # ref px; half side of the window whose brightness and grain a defect adapts to
DARK, PALE = 0.22, 0.75  # brightness below which a defect can only be brighter, above which only darker
CANDIDATES = 6  # places compared where a defect needs structure to be seen


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place on a surface, with the strength drawn for it."""

    surface: Surface
    """The flawless surface."""
    center: tuple[float, float]
    """y and x, pixels."""
    unit: float
    """Image pixels per ref px."""
    weak: bool
    """Whether the weak ranges apply."""
    contrast: float
    """Change of reflected light, signed: negative is darker."""
    difficulty: Difficulty
    """The ranges to draw sizes from."""

    @property
    def size(self) -> tuple[int, int]:
        """Image height and width, pixels."""
        height, width = self.surface.foreground.shape
        return height, width

    def draw_line_width(self, rng: np.random.Generator) -> float:
        """Draw the width of a line, pixels."""
        bounds = self.difficulty.weak_line_width if self.weak else self.difficulty.line_width
        return max(MIN_LINE, float(rng.uniform(*bounds)) * self.unit)

    def draw_line_length(self, rng: np.random.Generator) -> float:
        """Draw the length of a line, pixels."""
        return log_uniform(rng, self.difficulty.line_length) * self.unit

    def draw_radius(self, rng: np.random.Generator) -> float:
        """Draw the radius of a patch, pixels."""
        return log_uniform(rng, self.difficulty.patch_radius) * self.unit


def draw_site(
    rng: np.random.Generator, *, surface: Surface, difficulty: Difficulty, boost: float, structured: bool
) -> Site:
    """Draw a place on the part and the strength of the defect there.

    Args:
        rng: Source of the draw.
        surface: The flawless surface.
        difficulty: Ranges of size and contrast.
        boost: Factor on the contrast; above 1 when earlier attempts left no visible trace.
        structured: Prefer places with structure, since a displacement shows nowhere else.
    """
    unit = unit_of(surface.foreground.shape)
    points = [draw_point(rng, inside=surface.foreground) for _ in range(CANDIDATES if structured else 1)]
    looks = [_look(surface.image, point, reach=int(NEIGHBOURHOOD * unit) + 2) for point in points]
    best = int(np.argmax([grain for _, grain in looks]))
    (brightness, grain), weak = looks[best], chance(rng, difficulty.weak_share)
    size = log_uniform(rng, difficulty.weak_contrast if weak else difficulty.contrast)
    sign = draw_sign(rng)
    if brightness < DARK:
        sign = 1.0
    elif brightness > PALE:
        sign = -1.0
    contrast = sign * boost * (size + difficulty.grain_gain * grain)
    return Site(surface=surface, center=points[best], unit=unit, weak=weak, contrast=contrast, difficulty=difficulty)


def _look(image: FloatArray, point: tuple[float, float], *, reach: int) -> tuple[float, float]:
    """Return brightness and standard deviation (0..1) of the window around a point."""
    y, x = int(point[0]), int(point[1])
    window = image[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].mean(axis=2)
    return float(window.mean()), float(window.std())
