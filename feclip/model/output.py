"""What one forward pass of FE-CLIP returns.

With a memory bank of normal images (`feclip.model.memory_bank`) a score is no probability any more but the sum of
the paper's Section 4.6, probability + distance, within 0..3. A third of it lies within 0..1, and its logit is what is
ranked and stored: one scale for both, and the ranking is that of the sum.

Shapes: B images, T taps, H_t x W_t token grid, H x W pixels of the model input, E embedding width.
"""

from typing import NamedTuple

import torch

from feclip.model.maps import add_distances, fill_padding, mean_probability_logit, upsample


class FeClipOutput(NamedTuple):
    """Logits per tap, which the loss reads, and the scores derived from them when asked for.

    A plain tuple of tensors underneath, so that ``DistributedDataParallel`` can walk it. Scores are ranked,
    thresholded and stored as logits; probabilities saturate.

    Attributes:
        class_embeddings: Image embedding after each tap, not normalised, ``(B, T, E)``, float32.
        class_logits: Logit of P(abnormal) of each image after each tap, ``(B, T)``, float32.
        token_logits: Logit of P(abnormal) of each token at each tap, ``(B, T, H_t, W_t)``, float32; finite on
            padding too, without meaning there.
        valid_tokens: Bool ``(B, H_t, W_t)``, false on padding, as given; none means all valid.
        image_size: ``(H, W)``, in pixels.
        token_distances: Distance of each token at each tap to the nearest of a memory bank, ``(B, T, H_t, W_t)``,
            float32, 0..2; None without a bank.

    Example:
        >>> logits = torch.tensor([[[[2.0, 9.0]]]])
        >>> valid_tokens = torch.tensor([[[True, False]]])
        >>> output = FeClipOutput(torch.zeros(1, 1, 8), torch.zeros(1, 1), logits, valid_tokens, (1, 2))
        >>> output.image_score.tolist(), output.token_map.tolist(), output.anomaly_map.shape
        ([0.5], [[[2.0, nan]]], torch.Size([1, 1, 2]))
    """

    class_embeddings: torch.Tensor
    class_logits: torch.Tensor
    token_logits: torch.Tensor
    valid_tokens: torch.Tensor | None
    image_size: tuple[int, int]
    token_distances: torch.Tensor | None = None

    @property
    def image_logit(self) -> torch.Tensor:
        """Logit of the mean P(abnormal) over the taps (Eq. 3), ``(B,)``, float32.

        With a memory bank the largest distance of a valid token is added to that mean.
        """
        logits = mean_probability_logit(self.class_logits, dim=1)
        if self.token_distances is None:
            return logits
        distances = self.token_distances.mean(dim=1)
        if self.valid_tokens is not None:
            distances = distances.masked_fill(~self.valid_tokens, 0)
        return add_distances(logits, distances.flatten(1).amax(dim=1))

    @property
    def image_score(self) -> torch.Tensor:
        """Probability that each image is anomalous, before calibration, ``(B,)``, 0..1."""
        return self.image_logit.sigmoid()

    @property
    def token_map(self) -> torch.Tensor:
        """Logit of the mean P(abnormal) over the taps, ``(B, H_t, W_t)``, float32; NaN on padding.

        With a memory bank the mean distance over the taps is added to that mean.
        """
        logits = mean_probability_logit(self.token_logits, dim=1)
        if self.token_distances is not None:
            logits = add_distances(logits, self.token_distances.mean(dim=1))
        return logits if self.valid_tokens is None else torch.where(self.valid_tokens, logits, torch.nan)

    @property
    def anomaly_map(self) -> torch.Tensor:
        """Probability per pixel of the model input, ``(B, H, W)``, 0..1: upsampled as a logit, padding filled."""
        return upsample(fill_padding(self.token_map, self.valid_tokens), self.image_size).sigmoid()
