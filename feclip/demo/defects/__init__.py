"""Damage: one function per defect type, applied so that the mask is exactly what changed."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from feclip.demo.camera import Camera
from feclip.demo.defects.areas import dent, foreign_body, missing_piece, spot, stain
from feclip.demo.defects.lines import crack, fibre, scratch, streak
from feclip.demo.defects.settings import Difficulty
from feclip.demo.defects.site import Site, draw_site
from feclip.demo.defects.warps import bend, shift
from feclip.demo.fields import BoolArray, ByteArray, FloatArray, blur_reach
from feclip.demo.geometry import unit_of
from feclip.demo.surfaces import Surface
from feclip.errors import DataError

__all__ = ["DEFECT_TYPES", "LINE_DEFECTS", "MIN_LEVELS", "Difficulty", "add_defect"]

MIN_LEVELS = 2  # grey levels of 255; a pixel that changes by less in every channel is left as it was
MIN_PIXELS = 6  # a smaller mask is drawn again, whatever the image size
MAX_ATTEMPTS = 32
BOOST = 1.15  # factor on the contrast after each attempt that left too small a trace

_LINES = {"scratch": scratch, "crack": crack, "fibre": fibre, "streak": streak}
_DISPLACEMENTS = {"bend": bend, "shift": shift}
_DAMAGE: Mapping[str, Callable[[np.random.Generator, Site], FloatArray]] = MappingProxyType(
    {
        **_LINES,
        "spot": spot,
        "stain": stain,
        "dent": dent,
        "foreign_body": foreign_body,
        "missing_piece": missing_piece,
        **_DISPLACEMENTS,
    }
)
LINE_DEFECTS = tuple(_LINES)
DEFECT_TYPES = tuple(_DAMAGE)


def add_defect(
    rng: np.random.Generator,
    *,
    surface: Surface,
    camera: Camera,
    defect_type: str,
    difficulty: Difficulty,
) -> tuple[ByteArray, BoolArray]:
    """Photograph a surface with one defect on it.

    Changes outside the part, and changes below ``MIN_LEVELS``, are undone; so the picture equals the flawless
    ``camera.capture(surface.image)`` outside the mask and differs from it at every pixel of the mask.

    Args:
        rng: Source of the defect alone; surface and camera were drawn before.
        surface: The flawless surface.
        camera: The camera that took the flawless picture.
        defect_type: One of ``DEFECT_TYPES``.
        difficulty: Ranges of size and contrast.

    Returns:
        The picture ``(H, W, 3)`` and the mask ``(H, W)``, which is never empty.

    Raises:
        ValueError: If the defect type is unknown.
        DataError: If no attempt left a visible trace.
    """
    if defect_type not in _DAMAGE:
        msg = f"Unknown defect type {defect_type!r}; there are {', '.join(DEFECT_TYPES)}."
        raise ValueError(msg)
    flawless = camera.capture(surface.image)
    height, width = surface.foreground.shape
    enough = max(MIN_PIXELS, difficulty.min_area * unit_of((height, width)) ** 2)
    for attempt in range(MAX_ATTEMPTS):
        site = draw_site(
            rng,
            surface=surface,
            difficulty=difficulty,
            boost=BOOST**attempt,
            structured=defect_type in _DISPLACEMENTS,
        )
        damaged = np.clip(_DAMAGE[defect_type](rng, site), 0.0, 1.0)
        image, mask = _photograph_change(camera=camera, surface=surface, damaged=damaged, flawless=flawless)
        if mask.sum() >= enough:
            return image, mask
    msg = f"No visible {defect_type!r} in {MAX_ATTEMPTS} attempts on a {width}x{height} px image: raise Difficulty."
    raise DataError(msg)


def _photograph_change(
    *, camera: Camera, surface: Surface, damaged: FloatArray, flawless: ByteArray
) -> tuple[ByteArray, BoolArray]:
    """Photograph what the damage changed and keep the flawless picture elsewhere; picture and mask."""
    image, mask = flawless.copy(), np.zeros_like(surface.foreground)
    change = np.abs(damaged - surface.image) @ np.ones(3) > 0
    if not change.any():
        return image, mask
    # The blur carries the change `reach` pixels further, and reads as far again to do so.
    reach = blur_reach(camera.blur)
    altered, read = _bounds(change, margin=reach), _bounds(change, margin=2 * reach)
    candidate = flawless.copy()
    candidate[read] = camera.crop(read).capture(damaged[read])
    levels = np.abs(candidate[altered].astype(np.int16) - flawless[altered])
    strongest = np.maximum(np.maximum(levels[..., 0], levels[..., 1]), levels[..., 2])
    mask[altered] = (strongest >= MIN_LEVELS) & surface.foreground[altered]
    image[mask] = candidate[mask]
    return image, mask


def _bounds(inside: BoolArray, *, margin: int) -> tuple[slice, slice]:
    """Return the rows and columns around the true pixels of ``inside`` ``(H, W)``, and ``margin`` pixels more."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
    )
