"""What the device computes of a batch: the part that may be compiled, and the part that must not be.

Shapes: B images, S side of the model input in pixels, H_t x W_t token grid.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from feclip.data import TokenBox, valid_tokens
from feclip.model import FeClipModel, MapStatistics, counted_statistics

__all__ = ["BatchScores", "Forward", "ForwardPass", "compiled", "score_batch"]

Forward = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""A `ForwardPass`, compiled or not."""


class ForwardPass(nn.Module):
    """From bytes to scores, one graph without a break."""

    def __init__(self, model: FeClipModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        pixels: torch.Tensor,
        valid_pixels: torch.Tensor,
        *,
        groups: torch.Tensor,
        nouns: torch.Tensor,
        box: TokenBox | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score a batch.

        Args:
            pixels: RGB ``(B, S, S, 3)``, uint8, on the model's device.
            valid_pixels: Bool ``(B, S, S)``, beside them.
            groups: Zero-based group of each image in the memory bank, int64 ``(B,)``; without effect where it has none.
            nouns: Zero-based noun of each image, int64 ``(B,)``; without effect where all images share one.
            box: The rectangle that the model reads, which holds all valid tokens; None for the square.

        Returns:
            Image logits ``(B,)``, float32; token maps ``(B, H_t, W_t)``, float16, NaN on padding; whether the maps are
            finite wherever a token is valid and nowhere else, a bool.
        """
        tokens = valid_tokens(valid_pixels, patch_size=self.model.patch_size)
        seen = tokens
        if box is not None:
            rows, columns = box.pixels(patch_size=self.model.patch_size)
            pixels, valid_pixels = pixels[:, rows, columns], valid_pixels[:, rows, columns]
            seen = tokens[(slice(None), *box.tokens())]
        images = self.model.normalize(pixels.permute(0, 3, 1, 2).contiguous(), valid_pixels)
        output = self.model(images, seen, groups=groups, nouns=nouns)
        token_maps = output.token_map.half()  # what is stored; the statistics start from it
        if box is not None:
            read, token_maps = token_maps, token_maps.new_full(tokens.shape, torch.nan)
            token_maps[(slice(None), *box.tokens())] = read
        return output.image_logit, token_maps, (token_maps.isfinite() == tokens).all()


def compiled(forward: Forward, *, device: torch.device) -> Forward:
    """Return a forward pass that is compiled for the first shape it meets; on a GPU it is replayed as a CUDA graph."""
    mode = "reduce-overhead" if device.type == "cuda" else None
    return torch.compile(forward, mode=mode, dynamic=False, fullgraph=True)


class BatchScores(NamedTuple):
    """Scores of a batch, on the device."""

    image_logit: torch.Tensor
    """``(B,)``, float32."""
    token_map: torch.Tensor
    """``(B, H_t, W_t)``, float16."""
    statistics: MapStatistics
    is_finite: torch.Tensor
    """Whether the token maps are, a bool."""


def score_batch(
    forward: Forward,
    batch: tuple[torch.Tensor, ...],
    *,
    topk_fraction: float,
    smoothing_sigma: float,
    box: TokenBox | None = None,
) -> BatchScores:
    """Queue a batch: a forward pass, then the statistics, which compiled code must not touch (`map_statistics`).

    Args:
        forward: The forward pass.
        batch: Pixels, valid pixels, groups and nouns as it takes them, and the number of highest pixels of each image,
            int64 ``(B,)``.
        topk_fraction: As for the `Scorer`.
        smoothing_sigma: As for the `Scorer`.
        box: As the forward pass takes it.
    """
    pixels, valid_pixels, groups, nouns, counts = batch
    # The next replay of a CUDA graph writes where this one did.
    rectangle = {} if box is None else {"box": box}
    found = forward(pixels, valid_pixels, groups=groups, nouns=nouns, **rectangle)
    image_logit, token_map, is_finite = (tensor.clone() for tensor in found)
    with torch.autocast(pixels.device.type, enabled=False):
        statistics = counted_statistics(
            token_map, valid_pixels, counts, topk_fraction=topk_fraction, smoothing_sigma=smoothing_sigma
        )
    return BatchScores(image_logit=image_logit, token_map=token_map, statistics=statistics, is_finite=is_finite)
