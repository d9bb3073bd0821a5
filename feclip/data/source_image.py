"""A decoded image on its way to the model's input, and the rule by which a large JPEG is decoded smaller than it is.

Shapes: h x w the source image, upright, in pixels.

The rule of scaled decoding: a JPEG is decoded at 1/8, 1/4 or 1/2 of its sides, whichever is the smallest that leaves at
least `LEAST_REDUCTION` pixels of the reduced image for each pixel that it will cover on the model's input, along both
sides; at its full size where none does. The JPEG library leaves out the high frequencies of each block then, and the
bicubic filter that makes the input from the rest still halves it at least, so hardly anything aliases. Nothing but the
file's header and the size of the input decides, so the same file gives the same pixels everywhere.

A side that the factor does not divide ends in a pixel that is only partly image. `SourceImage.box` says how far the
image goes, so that nothing is stretched or displaced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

__all__ = ["LEAST_REDUCTION", "JpegRegion", "SourceImage", "scale_jpeg", "scaling_factor", "upright"]

LEAST_REDUCTION = 2
"""Pixels of a reduced JPEG for each pixel of the model's input, along a side, at least."""
_FACTORS = (8, 4, 2)  # what libjpeg and its faster kin all decode, each by a transform of its own
_JPEG = ("JPEG", "MPO")  # MPO is a JPEG that further ones follow
_MIRRORED_X, _MIRRORED_Y, _TURNED = (2, 3, 6, 7), (3, 4, 7, 8), (5, 6, 7, 8)  # by EXIF orientation, on the upright side

_Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class JpegRegion:
    """Where on a reduced, upright JPEG the source lies."""

    height: int
    """Source pixels h, upright."""
    width: int
    """Source pixels w, upright."""
    box: _Box
    """Left, top, right, bottom; pixels of the reduced image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceImage:
    """A decoded image, upright and RGB; of a large JPEG perhaps a reduced one."""

    image: Image.Image
    """RGB."""
    height: int
    """Source pixels h."""
    width: int
    """Source pixels w."""
    box: _Box
    """Where on ``image`` the source lies: left, top, right, bottom, in its pixels; all of it unless reduced."""

    @classmethod
    def of(cls, image: Image.Image | npt.NDArray[np.uint8], *, region: JpegRegion | None = None) -> Self:
        """Return an image with its geometry.

        Args:
            image: RGB; pixels have the shape ``(h, w, 3)``.
            region: Where the source lies on it; None for everywhere.
        """
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        if region is not None:
            return cls(image=image, height=region.height, width=region.width, box=region.box)
        return cls(image=image, height=image.height, width=image.width, box=(0, 0, image.width, image.height))

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """Pixels as decoded, shape ``(h, w, 3)``; fewer where the image was reduced."""
        return np.asarray(self.image)

    def resized(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Return the image at another size, antialiased, bicubic; shape ``(height, width, 3)``."""
        return np.array(self.image.resize((width, height), Image.Resampling.BICUBIC, box=self.box))


def scaling_factor(height: int, width: int, *, content_height: int, content_width: int) -> int:
    """Return by what the sides of a JPEG are divided while it is decoded.

    Args:
        height: Its pixels h.
        width: Its pixels w.
        content_height: Rows that it covers on the model's input.
        content_width: Columns that it covers there.

    Returns:
        8, 4, 2, or 1 for not at all.

    Example:
        >>> scaling_factor(3000, 4000, content_height=252, content_width=336)
        4
    """
    reduction = min(height // (LEAST_REDUCTION * content_height), width // (LEAST_REDUCTION * content_width))
    return next((factor for factor in _FACTORS if factor <= reduction), 1)


def scale_jpeg(image: Image.Image, *, fit: Callable[[int, int], tuple[int, int]]) -> JpegRegion | None:
    """Let an opened JPEG, whose pixels are not loaded yet, be decoded at a reduced size.

    Args:
        image: The opened file; what is no JPEG stays as it is.
        fit: Tells from height and width of the source, upright, in pixels, the rows and columns that it covers on the
            model's input.

    Returns:
        Where the source lies on what will be loaded and turned upright; None where nothing is reduced.
    """
    if image.format not in _JPEG:
        return None
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    width, height = upright(image.size, orientation)
    rows, columns = fit(height, width)
    factor = scaling_factor(height, width, content_height=rows, content_width=columns)
    size = upright((width // factor, height // factor), orientation)
    if factor == 1 or image.draft(None, size) is None:
        return None
    columns, rows = upright(image.size, orientation)
    assert (columns, rows) == (-(-width // factor), -(-height // factor))
    extent_x, extent_y = width / factor, height / factor
    left = columns - extent_x if orientation in _MIRRORED_X else 0.0
    top = rows - extent_y if orientation in _MIRRORED_Y else 0.0
    return JpegRegion(height=height, width=width, box=(left, top, left + extent_x, top + extent_y))


def upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return width and height of a file's pixels as turned upright, or the other way round."""
    return size[::-1] if orientation in _TURNED else size
