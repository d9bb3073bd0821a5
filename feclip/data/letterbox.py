"""Letterbox, squash and rectangle: any image to the model's input, and anything on that input back.

Shapes: S side of the model input, h x w the source image, all in pixels; H_t x W_t token grid.

The input is carried on a square. Of a rectangle the model reads the tokens that show the image alone; it lies at the
top left, its sides are whole patches, and the rest of the square is never looked at (docs/adr/0040-rectangles.md).

Pixels are areas: pixel i covers i..i+1, so the source coordinate x lies at left + x * width / w on the input.
Masks go the same way as images: antialiased bilinear, then > 0.5, as the peers do. A line that covers one input pixel
or more in width survives, one below 0.59 (2 - sqrt(2)) is lost, between them its place decides: from 1024 to 336 px a
1-px line is lost and a 4-px line stays. Nearest neighbour would keep or lose all of them by chance.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from feclip.data.source_image import SourceImage
from feclip.errors import DataError

if TYPE_CHECKING:
    import torch  # the process that decodes an archive does without: it is large and slow to load

__all__ = ["Letterbox", "letterbox", "parse_padding_color", "rectangle", "squash", "uniform_border", "valid_tokens"]

CLIP_MEAN_COLOR = (123, 117, 104)
"""Mean colour of CLIP's training images (0.481, 0.458, 0.408 times 255): zero after normalisation."""
BORDER_TOLERANCE = 8
"""Largest difference from the padding colour within a border, 0..255: room for JPEG, not for a photographed surface."""
LARGEST_RATIO = 8
"""Longer side to shorter of a rectangle at most; a longer image is squashed to it."""
_NAMED_COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "mean": CLIP_MEAN_COLOR}
_MAX_CHANNEL = 255
_THRESHOLD = 0.5

_Pixels = npt.NDArray[np.uint8]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Where an image lies on the model's input, and how to bring something back from there.

    Example:
        >>> record = letterbox(np.zeros((50, 100, 3), np.uint8), image_size=24, padding_color="white")[1]
        >>> record.top, record.left, record.height, record.width
        (6, 0, 12, 24)
        >>> record.scale
        (0.24, 0.24)
    """

    source_height: int
    """Pixels."""
    source_width: int
    """Pixels."""
    image_size: int
    """Side S of the model input, pixels."""
    top: int
    """First row of the content on the input, zero-based."""
    left: int
    """First column of the content on the input, zero-based."""
    height: int
    """Rows of the content."""
    width: int
    """Columns of the content."""

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels for each source pixel, vertically and horizontally; equal for a letterbox up to rounding."""
        return self.height / self.source_height, self.width / self.source_width

    @classmethod
    def fitted(cls, source_height: int, source_width: int, *, image_size: int) -> Self:
        """Return where an image of this size lies when it keeps its aspect ratio; `letterbox` puts it there."""
        scale = image_size / max(source_height, source_width)
        height = max(1, min(image_size, round(source_height * scale)))
        width = max(1, min(image_size, round(source_width * scale)))
        return cls(
            source_height=source_height,
            source_width=source_width,
            image_size=image_size,
            top=(image_size - height) // 2,
            left=(image_size - width) // 2,
            height=height,
            width=width,
        )

    @classmethod
    def squashed(cls, source_height: int, source_width: int, *, image_size: int) -> Self:
        """Return where an image of this size lies when it fills the square; `squash` puts it there."""
        return cls(
            source_height=source_height,
            source_width=source_width,
            image_size=image_size,
            top=0,
            left=0,
            height=image_size,
            width=image_size,
        )

    @classmethod
    def rectangle(cls, source_height: int, source_width: int, *, image_size: int, patch_size: int) -> Self:
        """Return where an image of this size lies as whole patches; `rectangle` puts it there.

        The longer side has as many patches as the square. The shorter one is rounded, so that the aspect ratio changes
        by half a patch at most, up to `LARGEST_RATIO`.

        Example:
            >>> record = Letterbox.rectangle(300, 1000, image_size=336, patch_size=14)
            >>> record.height // 14, record.width // 14
            (7, 24)
        """
        num_patches = image_size // patch_size
        shorter = round(num_patches * min(source_height, source_width) / max(source_height, source_width))
        short = max(shorter, -(-num_patches // LARGEST_RATIO)) * patch_size
        return cls(
            source_height=source_height,
            source_width=source_width,
            image_size=image_size,
            top=0,
            left=0,
            height=image_size if source_height >= source_width else short,
            width=image_size if source_width >= source_height else short,
        )

    def valid_pixels(self) -> _Mask:
        """Return where the input shows the image, shape ``(S, S)``; false on padding."""
        valid = np.zeros((self.image_size, self.image_size), np.bool_)
        valid[self.content()] = True
        return valid

    def place(self, mask: _Mask) -> _Mask:
        """Bring a mask of the source image onto the input.

        Args:
            mask: Shape ``(h, w)``.

        Returns:
            Shape ``(S, S)``; true where more than half is covered, false on padding.
        """
        assert mask.shape == (self.source_height, self.source_width)
        placed = np.zeros((self.image_size, self.image_size), np.bool_)
        shares = Image.fromarray(mask.astype(np.float32)).resize((self.width, self.height), Image.Resampling.BILINEAR)
        placed[self.content()] = np.asarray(shares) > _THRESHOLD
        return placed

    def undo(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Bring a map of the input, such as an anomaly map, back to the source image.

        Args:
            values: Shape ``(S, S)``; what stands on padding is left out.

        Returns:
            Shape ``(h, w)``, resized bilinearly.
        """
        assert values.shape == (self.image_size, self.image_size)
        content = Image.fromarray(np.ascontiguousarray(values[self.content()], np.float32))
        return np.array(content.resize((self.source_width, self.source_height), Image.Resampling.BILINEAR))

    def content(self) -> tuple[slice, slice]:
        """Return rows and columns of the content on the input."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@lru_cache
def parse_padding_color(text: str) -> tuple[int, int, int]:
    """Read a padding colour.

    Args:
        text: ``white``, ``black``, ``mean`` (CLIP's, zero after normalisation), or ``r,g,b``.

    Returns:
        Red, green, blue, 0..255.

    Raises:
        DataError: If it is none of these.

    Example:
        >>> parse_padding_color("white"), parse_padding_color("12, 0, 255")
        ((255, 255, 255), (12, 0, 255))
    """
    named = _NAMED_COLORS.get(text.strip().lower())
    if named is not None:
        return named
    parts = [part.strip() for part in text.split(",")]
    if all(part.isascii() and part.isdigit() and int(part) <= _MAX_CHANNEL for part in parts):
        match parts:
            case [red, green, blue]:
                return int(red), int(green), int(blue)
    msg = f"padding_color must be white, black, mean, or r,g,b with numbers in 0..255, got {text!r}."
    raise DataError(msg)


def letterbox(image: _Pixels | SourceImage, *, image_size: int, padding_color: str) -> tuple[_Pixels, Letterbox]:
    """Resize an image, keeping its aspect ratio, so that it fits a square; pad the rest evenly on both sides.

    Args:
        image: A decoded image, or pixels of shape ``(h, w, 3)``.
        image_size: Side S, pixels; small images are enlarged.
        padding_color: As `parse_padding_color` reads it.

    Returns:
        Pixels of shape ``(S, S, 3)``, uint8, and the record that undoes it.

    Raises:
        DataError: If the padding colour cannot be read.
    """
    source = _source(image)
    record = Letterbox.fitted(source.height, source.width, image_size=image_size)
    return _on_square(source, record, padding_color=padding_color), record


def squash(image: _Pixels | SourceImage, *, image_size: int) -> tuple[_Pixels, Letterbox]:
    """Resize an image to the square whatever its aspect ratio, as the peers' protocol does; nothing is padding.

    Args:
        image: A decoded image, or pixels of shape ``(h, w, 3)``.
        image_size: Side S, pixels.

    Returns:
        Pixels of shape ``(S, S, 3)``, uint8, and the record that undoes it.
    """
    source = _source(image)
    record = Letterbox.squashed(source.height, source.width, image_size=image_size)
    return source.resized(image_size, image_size), record


def rectangle(
    image: _Pixels | SourceImage, *, image_size: int, patch_size: int, padding_color: str
) -> tuple[_Pixels, Letterbox]:
    """Resize an image to whole patches of its aspect ratio, at the top left of the square that carries it.

    Args:
        image: A decoded image, or pixels of shape ``(h, w, 3)``.
        image_size: Side S of the square, pixels, and of the longer side; small images are enlarged.
        patch_size: Side of a patch, pixels; divides S.
        padding_color: Of the rest of the square, as `parse_padding_color` reads it.

    Returns:
        Pixels of shape ``(S, S, 3)``, uint8, and the record that undoes it.

    Raises:
        DataError: If the padding colour cannot be read.
    """
    source = _source(image)
    record = Letterbox.rectangle(source.height, source.width, image_size=image_size, patch_size=patch_size)
    return _on_square(source, record, padding_color=padding_color), record


def uniform_border(image: _Pixels, *, padding_color: str = "white", tolerance: int = BORDER_TOLERANCE) -> _Mask:
    """Find the padding that an image already brings along; what might be product stays valid.

    Border is only what stands on opposite sides alike: whole rows from the top and as many from the bottom (one more
    or less where the padding was odd), or whole columns from left and right, every pixel within the tolerance. So a
    white product survives that touches the padding or the edge, and even one that fills whole rows at one side.
    Padding at one side only is therefore not found, JPEG blocks mixed with content stay valid, and a product that
    exactly equals the padding on opposite sides cannot be told from it: use masks of valid regions there.

    Args:
        image: Shape ``(h, w, 3)``.
        padding_color: As `parse_padding_color` reads it.
        tolerance: Largest difference of any channel from the padding colour, 0..255.

    Returns:
        Shape ``(h, w)``, true where there is image. An image that is all of one colour has no border.

    Raises:
        DataError: If the padding colour cannot be read.
    """
    color = np.array(parse_padding_color(padding_color), np.int16)
    padded = (np.abs(image.astype(np.int16) - color) <= tolerance).all(axis=2)
    top, bottom = _opposite_borders(padded.all(axis=1))
    left, right = _opposite_borders(padded.all(axis=0))
    valid = np.zeros(padded.shape, np.bool_)
    valid[top : padded.shape[0] - bottom, left : padded.shape[1] - right] = True
    return valid


def valid_tokens(valid_pixels: "torch.Tensor", *, patch_size: int) -> "torch.Tensor":
    """Reduce valid pixels to the token grid: a token is valid if any of its pixels is.

    Args:
        valid_pixels: Shape ``(B, S, S)``, bool. Pixels beyond the last whole patch belong to no token.
        patch_size: Side of a patch, pixels.

    Returns:
        Shape ``(B, H_t, W_t)``, bool.

    Example:
        >>> import torch
        >>> pixels = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> pixels[0, 3, 0] = True
        >>> valid_tokens(pixels, patch_size=2).tolist()
        [[[False, False], [True, False]]]
    """
    batch, height, width = valid_pixels.shape
    rows, columns = height // patch_size, width // patch_size
    whole = valid_pixels[:, : rows * patch_size, : columns * patch_size]
    return whole.reshape(batch, rows, patch_size, columns, patch_size).any(dim=4).any(dim=2)


def _on_square(source: SourceImage, record: Letterbox, *, padding_color: str) -> _Pixels:
    canvas = np.empty((record.image_size, record.image_size, 3), np.uint8)
    canvas[:] = parse_padding_color(padding_color)
    canvas[record.content()] = source.resized(record.height, record.width)
    return canvas


def _source(image: _Pixels | SourceImage) -> SourceImage:
    return image if isinstance(image, SourceImage) else SourceImage.of(image)


def _opposite_borders(uniform: _Mask) -> tuple[int, int]:
    """Return how many lines at the start and at the end are padding, given which lines are uniform."""
    if uniform.all():
        return 0, 0
    first, last = int(np.argmin(uniform)), int(np.argmin(uniform[::-1]))
    common = min(first, last)
    return (min(first, common + 1), min(last, common + 1)) if common else (0, 0)
