"""What a bundle says of one image.

Shapes: S side of the model input, h x w the image, upright, in pixels; H_t x W_t token grid.
"""

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
from PIL import Image

from feclip.data import (
    MAX_FILE_BYTES,
    ImageError,
    InputOptions,
    ValidBox,
    decode_image,
    read_bytes,
    sha256,
    unpack_valid_pixels,
    write_bytes,
)
from feclip.errors import ConfigError, DataError
from feclip.overlay import draw_overlay

__all__ = ["OVERLAY_SUFFIXES", "FailedPrediction", "Prediction"]

OVERLAY_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Pillow's formats by the ends of the names of overlays."""
SHOWN_LOGITS = 6.0
"""Range of logits that has colours, up to the threshold of the map's pixels: down to 1/400 of its odds."""
USUAL_HIGH = 3.0
"""End of the colours where there is no threshold, logit: P(abnormal) 0.95."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Scores of one image, its anomaly map, and where the bundle has thresholds its label."""

    uri: str
    """The image, as it was named."""
    sha256: str
    """Of the file."""
    width: int
    """Pixels w of the image."""
    height: int
    """Pixels h of the image."""
    image_logit: float
    """Logit of P(abnormal): what is ranked and compared with a threshold."""
    image_score: float
    """P(abnormal), 0..1, for people."""
    map_max: float
    """Highest valid pixel of the anomaly map, logit."""
    map_topk_mean: float
    """Mean of the highest valid pixels, logit."""
    label: str | None
    """``normal`` or ``anomalous``; None where the bundle has no thresholds."""
    thresholds: Mapping[str, float]
    """What the label rests on: thresholds in logits by statistic; empty where the bundle has none."""
    pixel_threshold: float | None
    """Threshold of the anomaly map's pixels, logit; None where the bundle has none."""
    token_map: npt.NDArray[np.float16] = field(repr=False)
    """Anomaly map on the token grid as a score table stores it, logits, shape ``(H_t, W_t)``, NaN on padding."""
    valid_box: ValidBox = field(repr=False)
    """Smallest rectangle on the model input that holds all valid pixels."""
    valid_mask: bytes | None = field(repr=False)
    """Its bits, where not all of it is valid."""
    options: InputOptions = field(repr=False)
    """How the image became an input."""
    smoothing_sigma: float = field(repr=False)
    """Standard deviation of the Gaussian that smooths the map, pixels of the model input."""

    @functools.cached_property
    def anomaly_map(self) -> npt.NDArray[np.float32]:
        """Anomaly map at the image's own size, logits, shape ``(h, w)``; padding is cut away."""
        return self.options.geometry(self.height, self.width).undo(self._input_map())

    def overlay(self) -> Image.Image:
        """Return the image with its anomaly map over it, upright, w x h pixels.

        Colours end at the threshold of the map's pixels, which are outlined where they exceed it; without thresholds at
        P(abnormal) 0.95, so that images of one bundle can be compared.

        Raises:
            DataError: If the file is another one now, or cannot be decoded any more.
            StorageError: If it cannot be read.
        """
        data = read_bytes(self.uri, max_bytes=MAX_FILE_BYTES)
        if sha256(data) != self.sha256:
            msg = f"{self.uri} has changed since it was scored; score it again."
            raise DataError(msg)
        high = USUAL_HIGH if self.pixel_threshold is None else self.pixel_threshold
        return draw_overlay(
            Image.fromarray(decode_image(data, uri=self.uri)),
            self._input_map(),
            placed=self.options.geometry(self.height, self.width),
            low=high - SHOWN_LOGITS,
            high=high,
            valid_pixels=unpack_valid_pixels(self.valid_box, self.valid_mask, image_size=self.options.image_size),
            threshold=self.pixel_threshold,
        )

    def save(self, path: str | PurePath) -> str:
        """Write the overlay, whole or not at all.

        Args:
            path: Local file or ``s3://`` URI, ending in .png, .jpg, .jpeg or .webp.

        Returns:
            The path.

        Raises:
            ConfigError: If it ends otherwise.
            DataError: As for `overlay`.
            StorageError: If the image cannot be read or the overlay not written.
        """
        uri = str(path)
        kind = OVERLAY_SUFFIXES.get(PurePath(uri).suffix.lower())
        if kind is None:
            msg = f"An overlay is saved as {', '.join(OVERLAY_SUFFIXES)}, got {uri}."
            raise ConfigError(msg)
        content = io.BytesIO()
        self.overlay().save(content, kind)
        write_bytes(uri, content.getvalue())
        return uri

    def _input_map(self) -> npt.NDArray[np.float32]:
        """Return the anomaly map on the model input, logits, shape ``(S, S)``."""
        import torch  # noqa: PLC0415 - see docs/adr/0020

        from feclip.model import pixel_maps  # noqa: PLC0415 - see docs/adr/0020

        tokens = torch.from_numpy(self.token_map)[None]
        maps = pixel_maps(tokens, image_size=self.options.image_size, smoothing_sigma=self.smoothing_sigma)
        drawn: npt.NDArray[np.float32] = maps[0].numpy()
        return drawn


@dataclass(frozen=True, kw_only=True)
class FailedPrediction:
    """An image that has no scores, or no label where there are thresholds."""

    uri: str
    """The image, as it was named."""
    error: ImageError | DataError
    """What is wrong, in one line."""
