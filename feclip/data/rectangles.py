"""Images on squares as batches of one rectangle: the tokens that show the image, and no others.

Shapes: N images, S side of the square that carries an input, pixels; H_t x W_t its token grid.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["TokenBox", "by_rectangle"]


class TokenBox(NamedTuple):
    """A rectangle of tokens on the square's grid, zero-based."""

    top: int
    left: int
    height: int
    width: int

    def tokens(self) -> tuple[slice, slice]:
        """Return its rows and columns on the token grid."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def pixels(self, *, patch_size: int) -> tuple[slice, slice]:
        """Return its rows and columns on the square, for patches of this side."""
        rows, columns = self.tokens()
        return (
            slice(rows.start * patch_size, rows.stop * patch_size),
            slice(columns.start * patch_size, columns.stop * patch_size),
        )


def by_rectangle(valid_pixels: npt.NDArray[np.bool_], *, patch_size: int) -> dict[TokenBox, npt.NDArray[np.int64]]:
    """Tell which images have the same rectangle: the smallest that holds each token with a valid pixel.

    Args:
        valid_pixels: Shape ``(N, S, S)``, somewhere true in each image.
        patch_size: Side of a patch, pixels; divides S.

    Returns:
        By rectangle the zero-based indices of its images, ascending; the rectangles in ascending order.

    Example:
        >>> valid = np.zeros((3, 4, 4), np.bool_)
        >>> valid[0], valid[1, :2], valid[2] = True, True, True
        >>> by_rectangle(valid, patch_size=2)  # doctest: +NORMALIZE_WHITESPACE
        {TokenBox(top=0, left=0, height=1, width=2): array([1]),
         TokenBox(top=0, left=0, height=2, width=2): array([0, 2])}
    """
    number, side, _ = valid_pixels.shape
    patches = valid_pixels.reshape(number, side // patch_size, patch_size, side // patch_size, patch_size)
    rows, columns = (np.logical_or.reduce(patches, axis=axes) for axes in ((2, 3, 4), (1, 2, 4)))
    (top, height), (left, width) = _span(rows), _span(columns)
    boxes, inverse = np.unique(np.stack([top, left, height, width], axis=1), axis=0, return_inverse=True)
    return {TokenBox(*box): np.flatnonzero(inverse.reshape(-1) == index) for index, box in enumerate(boxes.tolist())}


def _span(lines: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first true entry of each row, and how many there are from it to the last."""
    first = lines.argmax(axis=1)
    return first, lines.shape[1] - lines[:, ::-1].argmax(axis=1) - first
