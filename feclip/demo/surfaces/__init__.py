"""Flawless surfaces and parts: one painter per family."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np

from feclip.demo.geometry import check_size
from feclip.demo.surfaces.base import Surface
from feclip.demo.surfaces.boards import paint_circuit_board
from feclip.demo.surfaces.parts import (
    paint_bottle_cap,
    paint_cable_bundle,
    paint_capsule,
    paint_casting,
    paint_knurled_part,
)
from feclip.demo.surfaces.sheets import (
    paint_brushed_metal,
    paint_granite,
    paint_perforated_sheet,
    paint_tile,
    paint_weave,
    paint_wood,
)

__all__ = ["PAINTERS", "Painter", "Surface", "paint_surface"]


class Painter(Protocol):
    """Paints one flawless example of its family."""

    def __call__(self, rng: np.random.Generator, *, size: tuple[int, int]) -> Surface:
        """Paint an example of ``size`` (H, W) pixels."""


PAINTERS: Mapping[str, Painter] = MappingProxyType(
    {
        "weave": paint_weave,
        "brushed_metal": paint_brushed_metal,
        "wood": paint_wood,
        "tile": paint_tile,
        "granite": paint_granite,
        "perforated_sheet": paint_perforated_sheet,
        "circuit_board": paint_circuit_board,
        "casting": paint_casting,
        "knurled_part": paint_knurled_part,
        "bottle_cap": paint_bottle_cap,
        "capsule": paint_capsule,
        "cable_bundle": paint_cable_bundle,
    }
)


def paint_surface(rng: np.random.Generator, *, family: str, size: tuple[int, int]) -> Surface:
    """Paint one flawless example.

    Args:
        rng: Source of the draw.
        family: A key of ``PAINTERS``.
        size: Image height and width, pixels, each at least 32.

    Raises:
        ValueError: If the family is unknown or the image too small.

    Example:
        >>> surface = paint_surface(np.random.default_rng(0), family="tile", size=(48, 96))
        >>> surface.image.shape, surface.foreground.shape
        ((48, 96, 3), (48, 96))
    """
    check_size(size)
    if family not in PAINTERS:
        msg = f"Unknown family {family!r}; there are {', '.join(PAINTERS)}."
        raise ValueError(msg)
    return PAINTERS[family](rng, size=size)
