"""Valid pixels in a few bytes: the box around them and, only where the box is not wholly valid, its bits.

Shapes: S side of the model input, pixels.

Padding of a letterbox, and of nothing, is told by the box alone. A border that the image brings, or a mask of its own,
may leave holes or round a corner: then the bits of the box, row by row and compressed, say the rest (about 20 bytes for
a corner, some hundred for a drawn region). So a score table carries what its statistics rest on, and nothing must be
read or guessed again to compute them anew.
"""

import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["ValidBox", "pack_valid_pixels", "unpack_valid_pixels"]

_Mask = npt.NDArray[np.bool_]


class ValidBox(NamedTuple):
    """Smallest rectangle that holds all valid pixels, on the model input, zero-based."""

    top: int
    left: int
    height: int
    width: int


def pack_valid_pixels(valid_pixels: _Mask) -> tuple[ValidBox, bytes | None]:
    """Describe a mask of valid pixels.

    Args:
        valid_pixels: Shape ``(S, S)``, somewhere true.

    Returns:
        The box, and its bits where it holds an invalid pixel, else None.

    Raises:
        ValueError: If no pixel is valid.

    Example:
        >>> pack_valid_pixels(np.array([[False, False], [True, True]]))
        (ValidBox(top=1, left=0, height=1, width=2), None)
    """
    rows, columns = np.flatnonzero(valid_pixels.any(axis=1)), np.flatnonzero(valid_pixels.any(axis=0))
    if not rows.size:
        msg = "valid_pixels must be true somewhere, got none."
        raise ValueError(msg)
    top, left = int(rows[0]), int(columns[0])
    box = ValidBox(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)
    content = valid_pixels[top : top + box.height, left : left + box.width]
    return box, None if content.all() else zlib.compress(np.packbits(content).tobytes(), 9)


def unpack_valid_pixels(box: tuple[int, int, int, int], bits: bytes | None, *, image_size: int) -> _Mask:
    """Bring back what `pack_valid_pixels` described.

    Args:
        box: Top, left, height, width; pixels.
        bits: The box's bits, or None for all valid.
        image_size: Side S, pixels.

    Returns:
        Shape ``(S, S)``.

    Raises:
        ValueError: If the box does not lie on the input, or the bits are not those of the box.
    """
    top, left, height, width = box
    if min(top, left) < 0 or min(height, width) < 1 or max(top + height, left + width) > image_size:
        msg = f"the valid box {tuple(box)} must lie on an input of {image_size} x {image_size} pixels."
        raise ValueError(msg)
    valid = np.zeros((image_size, image_size), np.bool_)
    if bits is None:
        valid[top : top + height, left : left + width] = True
        return valid
    size = (height * width + 7) // 8
    decompressor = zlib.decompressobj()
    try:
        packed = np.frombuffer(decompressor.decompress(bits, size + 1), np.uint8)  # a bomb ends here
    except zlib.error:
        packed = np.zeros(0, np.uint8)
    if packed.size != size or not decompressor.eof or decompressor.unused_data:
        msg = f"the valid mask does not hold the {height} x {width} bits of its box."
        raise ValueError(msg)
    content = np.unpackbits(packed, count=height * width).reshape(height, width)
    valid[top : top + height, left : left + width] = content
    return valid
