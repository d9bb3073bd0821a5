"""The model on prepared images: scores and token maps; one process can do it, without ray.

    pixels, valid pixels -> model -> image logit, float16 token map -> statistics -> rows of the score table

Statistics are computed from the token map after it was rounded to float16, by the function that later decides anew
from the stored map (`feclip.model.map_statistics`), so both agree to the last bit.

Shapes: N images, S side of the model input in pixels, H_t x W_t token grid.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from feclip.bundle import Bundle
from feclip.data import valid_tokens
from feclip.errors import BundleError, ConfigError, RunError
from feclip.model import MapStatistics, autocast, map_statistics, num_top_pixels
from feclip.score_table import pack_token_map

__all__ = ["BATCH_SIZE", "Scorer", "Scores"]

BATCH_SIZE = 16
"""Images in one forward pass."""
_MAX_FLOAT16 = 65504.0
_MAX_MARGIN = 2.0  # between two cosine similarities


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scores of N images, in their order."""

    image_logit: npt.NDArray[np.float32]
    """Logit of P(abnormal), shape ``(N,)``."""
    map_max: npt.NDArray[np.float32]
    """Highest valid pixel of the anomaly map, logit, shape ``(N,)``."""
    map_topk_mean: npt.NDArray[np.float32]
    """Mean of the highest valid pixels, logit, shape ``(N,)``."""
    token_map: npt.NDArray[np.float16]
    """Anomaly map in logits, shape ``(N, H_t, W_t)``; NaN on padding."""

    @property
    def image_score(self) -> npt.NDArray[np.float32]:
        """P(abnormal), shape ``(N,)``, 0..1; saturates, so rank by the logit."""
        return torch.from_numpy(self.image_logit).sigmoid().numpy()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the score columns of each image as a mapping, for `build_score_table`."""
        image_score = self.image_score
        for index, token_map in enumerate(self.token_map):
            yield {
                "image_logit": float(self.image_logit[index]),
                "image_score": float(image_score[index]),
                "map_max": float(self.map_max[index]),
                "map_topk_mean": float(self.map_topk_mean[index]),
                "token_map": pack_token_map(token_map),
            }


class Scorer:
    """A bundle's model on a device, which turns prepared images into scores.

    Args:
        bundle: The bundle; its backbone is loaded here, once.
        device: Where the model runs.
        precision: Number format of the trunk: ``auto``, ``float32`` or ``bfloat16``.
        pretrained: Weight file or tag of the backbone instead of the recorded one; the same weights.
        batch_size: Images in one forward pass, at least 1. Another one changes scores by rounding alone.
        topk_fraction: Share of the valid pixels that ``map_topk_mean`` is taken over, above 0 and at most 1.
        smoothing_sigma: Standard deviation of the Gaussian that smooths a map before its statistics, pixels; 0 = none.

    Raises:
        BundleError: If the backbone or a tensor does not fit, or the maps would not fit in float16.
        ConfigError: If an option is out of range, or the backbone's weights cannot be had.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        pretrained: str | None = None,
        batch_size: int = BATCH_SIZE,
        topk_fraction: float = 0.01,
        smoothing_sigma: float = 0.0,
    ) -> None:
        self.device = torch.device(device)
        self.model_id = bundle.model_id
        self._precision = precision
        self._batch_size = batch_size
        self._topk_fraction = topk_fraction
        self._smoothing_sigma = smoothing_sigma
        self._check_options()
        if _MAX_MARGIN / bundle.model.temperature > _MAX_FLOAT16:
            msg = (
                f"{bundle.uri}: with model.temperature {bundle.model.temperature} logits can pass {_MAX_FLOAT16:g}, "
                "the largest that a score table holds; train with a higher temperature."
            )
            raise BundleError(msg)
        self._model = bundle.build(pretrained=pretrained).to(self.device).eval()
        self.token_grid = self._model.token_grid
        self.image_size = self._model.image_size

    @torch.inference_mode()
    def score(self, pixels: npt.NDArray[np.uint8], valid_pixels: npt.NDArray[np.bool_]) -> Scores:
        """Score prepared images.

        Args:
            pixels: RGB, shape ``(N, S, S, 3)``; N may be 0, or more than a batch.
            valid_pixels: Shape ``(N, S, S)``, false on padding, somewhere true in each image.

        Returns:
            Scores, in the order of the images.

        Raises:
            RunError: If a score is not finite, which is the model's fault and not the image's.
        """
        size = self._model.image_size
        assert pixels.shape == (len(pixels), size, size, 3)
        assert valid_pixels.shape == pixels.shape[:3]
        logits, token_maps = [torch.zeros(0)], [torch.zeros(0, *self.token_grid, dtype=torch.float16)]
        statistics = [MapStatistics(torch.zeros(0), torch.zeros(0))]
        with autocast(self._precision, device=self.device):
            for start in range(0, len(pixels), self._batch_size):
                batch = slice(start, start + self._batch_size)
                image_logit, token_map, found = self._score_batch(pixels[batch], valid_pixels[batch])
                logits.append(image_logit)
                token_maps.append(token_map)
                statistics.append(found)
        scores = Scores(
            image_logit=torch.cat(logits).numpy(),
            map_max=torch.cat([found.map_max for found in statistics]).numpy(),
            map_topk_mean=torch.cat([found.map_topk_mean for found in statistics]).numpy(),
            token_map=torch.cat(token_maps).numpy(),
        )
        for name in ("image_logit", "map_max", "map_topk_mean"):
            if not np.isfinite(getattr(scores, name)).all():
                msg = f"The model gives a {name} that is not finite; score with precision float32, or train again."
                raise RunError(msg)
        return scores

    def _score_batch(
        self, pixels: npt.NDArray[np.uint8], valid_pixels: npt.NDArray[np.bool_]
    ) -> tuple[torch.Tensor, torch.Tensor, MapStatistics]:
        images = torch.from_numpy(pixels.copy()).to(self.device).permute(0, 3, 1, 2).contiguous()
        valid = torch.from_numpy(valid_pixels.copy()).to(self.device)
        tokens = valid_tokens(valid, patch_size=self._model.patch_size)
        output = self._model(self._model.normalize(images, valid), tokens)
        token_map = output.token_map.half()  # what is stored; the statistics start from it
        with torch.autocast(self.device.type, enabled=False):
            found = map_statistics(
                token_map, valid, topk_fraction=self._topk_fraction, smoothing_sigma=self._smoothing_sigma
            )
        if not torch.equal(token_map.isfinite(), tokens):
            msg = "The model gives a token_map that is not finite; score with precision float32, or train again."
            raise RunError(msg)
        return output.image_logit.cpu(), token_map.cpu(), found

    def _check_options(self) -> None:
        if self._batch_size < 1:
            msg = f"score.batch_size must be at least 1, got {self._batch_size}."
            raise ConfigError(msg)
        if not (self._smoothing_sigma >= 0 and math.isfinite(self._smoothing_sigma)):
            msg = f"score.smoothing_sigma must be at least 0 pixels, got {self._smoothing_sigma}."
            raise ConfigError(msg)
        try:
            num_top_pixels(1, topk_fraction=self._topk_fraction)
            autocast(self._precision, device=self.device)
        except ValueError as error:
            msg = f"score.{error}"
            raise ConfigError(msg) from error
