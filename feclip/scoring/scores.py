"""Scores of images, and the rows that a score table gets of them.

Shapes: N images, H_t x W_t token grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from feclip.score_table import pack_token_map

__all__ = ["Scores"]


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
