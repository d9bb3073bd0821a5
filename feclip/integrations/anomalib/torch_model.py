"""The model between anomalib's pre-processor and post-processor: marked images in, logits out.

Shapes: B images, S side of the model input in pixels, H_t x W_t token grid.
"""

from typing import NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn

from feclip.data import valid_tokens
from feclip.integrations.anomalib.pre_processor import unmarked
from feclip.model import FeClipModel, FeClipOutput, autocast, pixel_maps

__all__ = ["FeClipInference", "Scored"]


class Scored(NamedTuple):
    """What the model says of a batch, and of which pixels."""

    output: FeClipOutput
    valid_pixels: torch.Tensor
    """Bool ``(B, S, S)``, false on padding."""


class FeClipInference(nn.Module):
    """FE-CLIP on images as the pre-processor leaves them, by the steps of a scoring job.

    Args:
        model: The model.
        precision: Number format of the trunk: ``auto``, ``float32`` or ``bfloat16``.
        smoothing_sigma: Standard deviation of the Gaussian that smooths maps, pixels of the model input; 0 for none.
        group_index: Zero-based group of all images in the model's memory bank; without effect where it has none.
    """

    def __init__(self, model: FeClipModel, *, precision: str, smoothing_sigma: float, group_index: int = 0) -> None:
        super().__init__()
        self.feclip = model
        self.precision = precision
        self.smoothing_sigma = smoothing_sigma
        self.group_index = group_index

    def score(self, images: torch.Tensor) -> Scored:
        """Run the model, with a graph where one is wanted.

        Args:
            images: Marked images ``(B, 3, S, S)``, float32.
        """
        pixels, valid = unmarked(images)
        tokens = valid_tokens(valid, patch_size=self.feclip.patch_size)
        groups = torch.full((len(images),), self.group_index, device=images.device)
        with autocast(self.precision, device=images.device):
            return Scored(self.feclip(self.feclip.normalize(pixels, valid), tokens, groups=groups), valid)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Return logits: image score ``(B,)`` and anomaly map ``(B, S, S)``, both float32.

        The map is drawn from the float16 token map that a score table would hold, as all our maps are. On padding it
        is filled in and means nothing.
        """
        output = self.score(images).output
        with torch.autocast(images.device.type, enabled=False):
            maps = pixel_maps(
                output.token_map.half(), image_size=self.feclip.image_size, smoothing_sigma=self.smoothing_sigma
            )
        return InferenceBatch(pred_score=output.image_logit, anomaly_map=maps)
