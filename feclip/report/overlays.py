"""Stored token maps as pictures that lie exactly on their image.

Shapes: h x w the source image, S side of the model input, both in pixels; H_t x W_t token grid.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from feclip.data import Letterbox
from feclip.overlay import color_table

__all__ = ["HeatScale", "encode_overlay", "overlay_pixels", "source_map"]

FULL_ALPHA = 0.72  # of the highest values; what lies below the scale is not covered
LEAST_RANGE = 1e-3  # logits between the ends of a scale
QUALITY = 80
SMALLEST_SIDE = 336  # pixels; a browser would draw the outline of a smaller map in steps

_Colors = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class HeatScale:
    """What the colours of all pictures of a report mean."""

    low: float
    """Logit of the first colour and below, which is not drawn."""
    high: float
    """Logit of the last colour and above."""
    outline: float | None
    """Logit that is drawn as a line: the threshold of the map; None for none."""

    @classmethod
    def fitted(cls, token_maps: npt.NDArray[np.float16], *, outline: float | None) -> Self:
        """Return the scale of some maps: from the middle of their values to near the highest, the outline within.

        Args:
            token_maps: Logits ``(N, H_t, W_t)``, NaN on padding.
            outline: The threshold of the maps.
        """
        values = token_maps[np.isfinite(token_maps)].astype(np.float64)
        low, high = (float(value) for value in np.quantile(values, [0.5, 0.999])) if values.size else (0.0, 0.0)
        if outline is not None:
            high = max(high, outline + 0.25 * abs(outline - low))
        return cls(low=low, high=max(high, low + LEAST_RANGE), outline=outline)


def source_map(
    token_map: npt.NDArray[np.float16],
    *,
    geometry: Letterbox,
    valid_pixels: npt.NDArray[np.bool_],
    smoothing_sigma: float = 0.0,
) -> npt.NDArray[np.float32]:
    """Draw a token map as its source image lies on the model's input: padding cut away, the image's own shape.

    Args:
        token_map: Logits, float16 ``(H_t, W_t)``, NaN on padding.
        geometry: Where the image lies on the input.
        valid_pixels: ``(S, S)``, false on padding.
        smoothing_sigma: What the statistics of the map were smoothed by, pixels of the model input.

    Returns:
        Logits ``(rows, columns)`` in the aspect ratio of the image, NaN on what is not valid; the longer side is that
        of the input, or `SMALLEST_SIDE` where the input is smaller.
    """
    import torch  # noqa: PLC0415 - see docs/adr/0020

    from feclip.model import pixel_maps  # noqa: PLC0415 - see docs/adr/0020

    maps = pixel_maps(
        torch.from_numpy(token_map.copy())[None], image_size=geometry.image_size, smoothing_sigma=smoothing_sigma
    )
    values: npt.NDArray[np.float32] = np.where(valid_pixels, maps[0].numpy(), np.nan)[geometry.content()]
    side = max(geometry.image_size, SMALLEST_SIDE)
    shape = Letterbox.fitted(geometry.source_height, geometry.source_width, image_size=side)
    if values.shape == (shape.height, shape.width):
        return values
    size = (shape.width, shape.height)
    is_valid = Image.fromarray(np.isfinite(values)).resize(size, Image.Resampling.NEAREST)
    filled = Image.fromarray(np.nan_to_num(values)).resize(size, Image.Resampling.BILINEAR)
    return np.where(np.asarray(is_valid), np.asarray(filled), np.nan).astype(np.float32)


def overlay_pixels(values: npt.NDArray[np.float32], scale: HeatScale) -> _Colors:
    """Return a map as colours that let the image through where there is little.

    Args:
        values: Logits ``(rows, columns)``, NaN where nothing is drawn.
        scale: What the colours mean.

    Returns:
        RGBA, ``(rows, columns, 4)``, uint8.
    """
    share = np.clip((np.nan_to_num(values, nan=-np.inf) - scale.low) / (scale.high - scale.low), 0, 1)
    colors = color_table()
    pixels = np.empty((*values.shape, 4), np.uint8)
    pixels[..., :3] = colors[np.rint(share * (len(colors) - 1)).astype(np.intp)]
    pixels[..., 3] = np.rint(255 * FULL_ALPHA * np.sqrt(share))
    if scale.outline is not None:
        pixels[_edge(np.nan_to_num(values, nan=-np.inf) > scale.outline)] = (255, 255, 255, 255)
    return pixels


def encode_overlay(pixels: _Colors) -> bytes:
    """Return colours as a WebP file with transparency."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()


def _edge(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels of a region that touch what is not of it, ``(rows, columns)``; the picture's rim is no edge."""
    padded = np.pad(inside, 1, mode="edge")
    whole = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~whole
