"""An anomaly map drawn over its image: padding cut away, letterbox undone, readable without telling red from green.

Colours run along Plasma, whose lightness rises evenly from dark blue to yellow, so that their order is seen with every
kind of colour vision and in grey. Low values are transparent: the image stays what it is where nothing stands out. What
exceeds a threshold also gets an outline, white in a black rim, which needs no colour at all.

Shapes: S side of the model input, pixels.
"""

import functools

import numpy as np
import numpy.typing as npt
import plotly.colors
from PIL import Image
from scipy import ndimage

from feclip.data import Letterbox

__all__ = ["COLORS", "color_table", "draw_overlay"]

COLORS: tuple[str, ...] = tuple(plotly.colors.sequential.Plasma)
"""Stops of the colour map at equal distances, from the lowest value to the highest, as hexadecimal colours."""
OPACITY = 0.7
"""Of the highest values."""
OUTLINE_SHARE = 1 / 400
"""Width of an outline as a share of the image's longer side; at least one pixel."""
_LEVELS = 256

_Mask = npt.NDArray[np.bool_]


def draw_overlay(
    image: Image.Image,
    anomaly_map: npt.NDArray[np.floating],
    *,
    placed: Letterbox,
    low: float,
    high: float,
    valid_pixels: _Mask | None = None,
    threshold: float | None = None,
) -> Image.Image:
    """Draw an anomaly map over its image.

    Args:
        image: The image, upright, at any size: a thumbnail gets the map at the size of the thumbnail.
        anomaly_map: Values on the model's input, shape ``(S, S)``.
        placed: Where on the input the image lies.
        low: Value that is transparent, like all below it.
        high: Value that has the last colour, like all above it; above ``low``.
        valid_pixels: Shape ``(S, S)``, false where the map means nothing and is not drawn; None for all valid.
        threshold: Value above which an outline is drawn; None for none.

    Returns:
        An RGB image of the size of ``image``.

    Example:
        >>> placed = Letterbox.fitted(4, 8, image_size=8)
        >>> picture = draw_overlay(Image.new("L", (8, 4)), np.zeros((8, 8)), placed=placed, low=0.0, high=1.0)
        >>> picture.size, picture.getextrema()
        ((8, 4), ((0, 0), (0, 0), (0, 0)))
    """
    assert low < high
    assert anomaly_map.shape == (placed.image_size, placed.image_size)
    valid = np.ones(anomaly_map.shape, np.bool_) if valid_pixels is None else valid_pixels
    values = _resized(np.where(valid, anomaly_map, low), placed=placed, size=image.size)
    shown = _resized(valid, placed=placed, size=image.size)
    shares = np.clip((values - low) / (high - low), 0, 1)
    colors = Image.fromarray(color_table()[(shares * (_LEVELS - 1)).round().astype(np.uint8)])
    opacity = Image.fromarray((shares * shown * OPACITY * 255).round().astype(np.uint8))
    drawn = Image.composite(colors, image.convert("RGB"), opacity)
    if threshold is not None:
        _outline(drawn, values > threshold)
    return drawn


@functools.cache
def color_table() -> npt.NDArray[np.uint8]:
    """Return the colours of 256 levels, shape ``(256, 3)``, interpolated between the stops."""
    stops = np.array([[int(color[start : start + 2], 16) for start in (1, 3, 5)] for color in COLORS], np.float64)
    at = np.linspace(0, len(stops) - 1, _LEVELS)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def _resized(
    values: npt.NDArray[np.floating] | _Mask, *, placed: Letterbox, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Return the part of the input that shows the image at another size, width first; bilinear."""
    content = Image.fromarray(np.ascontiguousarray(values[placed.content()], np.float32))
    return np.asarray(content.resize(size, Image.Resampling.BILINEAR))


def _outline(picture: Image.Image, inside: _Mask) -> None:
    """Draw a line around regions, outside of them; a black rim makes it seen on white."""
    width = max(1, round(max(picture.size) * OUTLINE_SHARE))
    line, rim = (ndimage.maximum_filter(inside, size=2 * steps * width + 1) for steps in (1, 2))
    picture.paste((0, 0, 0), mask=Image.fromarray(rim & ~line))
    picture.paste((255, 255, 255), mask=Image.fromarray(line & ~inside))
