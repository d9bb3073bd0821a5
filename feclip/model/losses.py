"""Training loss of FE-CLIP (Gong et al., ICCV 2025, Eq. 4-5), one number per image.

Shapes: B images, T taps, H_t x W_t token grid, H x W pixels.

Every tap is supervised: the loss is the mean of each tap's loss, not the loss of the averaged output. Everything is
computed from float32 logits. Sums over images are left to the caller, so that uneven shards and images that have a
label only can be weighted.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from feclip.model.maps import fill_padding, upsample
from feclip.model.output import FeClipOutput

FOCAL_GAMMA = 2.0  # Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017
FOCAL_ALPHA = 0.25  # the same
DICE_SMOOTHING = 1.0  # pixels; with 1e-6 an empty mask would give loss 1 and no gradient


class LossTerms(NamedTuple):
    """Terms of the loss, each ``(B,)`` and a mean over the taps.

    Attributes:
        class_loss: Binary cross-entropy of the image (Eq. 4).
        focal: Focal loss, mean over the valid pixels (Eq. 5).
        dice: Dice loss over the valid pixels (Eq. 5).
    """

    class_loss: torch.Tensor
    focal: torch.Tensor
    dice: torch.Tensor


def fe_clip_loss_terms(
    output: FeClipOutput,
    labels: torch.Tensor,
    gt_masks: torch.Tensor | None = None,
    *,
    valid_pixels: torch.Tensor | None = None,
    focal_gamma: float = FOCAL_GAMMA,
    focal_alpha: float = FOCAL_ALPHA,
) -> LossTerms:
    """Return the loss terms of each image.

    Args:
        output: What the model returned; its ``valid_tokens`` say which logits may be upsampled.
        labels: Ground truth ``(B,)``, 1 = anomalous.
        gt_masks: Ground truth ``(B, H, W)``, 1 = anomalous, in pixels of any size. None gives zero mask losses that
            still hang on the token logits, so every parameter gets a gradient; images that have a label only are
            given an empty mask here and zero weight by the caller.
        valid_pixels: Bool ``(B, H, W)``, false on padding, which is left out; none means all valid.
        focal_gamma: Exponent of the focal loss, >= 0.
        focal_alpha: Weight of anomalous pixels, within 0..1; normal pixels weigh ``1 - focal_alpha``.

    Returns:
        Terms ``(B,)``, float32, finite for finite logits; mask terms of an image without valid pixels are 0.

    Raises:
        ValueError: If a shape, ``focal_gamma`` or ``focal_alpha`` is out of range.

    Example:
        >>> output = FeClipOutput(torch.zeros(1, 1, 8), torch.zeros(1, 1), torch.zeros(1, 1, 2, 2), None, (4, 4))
        >>> terms = fe_clip_loss_terms(output, torch.tensor([1]), torch.zeros(1, 4, 4))
        >>> [round(term.item(), 4) for term in terms]
        [0.6931, 0.13, 0.8889]
    """
    _check_inputs(len(output.class_logits), labels, gt_masks=gt_masks, valid_pixels=valid_pixels)
    if focal_gamma < 0 or not 0 <= focal_alpha <= 1:
        msg = f"focal_gamma must be at least 0 and focal_alpha lie in [0, 1], got {focal_gamma} and {focal_alpha}."
        raise ValueError(msg)
    class_logits = output.class_logits.float()
    targets = labels.float()[:, None].expand_as(class_logits)
    class_loss = functional.binary_cross_entropy_with_logits(class_logits, targets, reduction="none").mean(dim=1)
    if gt_masks is None:
        nothing = 0 * output.token_logits.float().flatten(1).sum(dim=1)
        return LossTerms(class_loss, nothing, nothing)
    filled = fill_padding(output.token_logits, output.valid_tokens)
    logits = upsample(filled, (gt_masks.shape[1], gt_masks.shape[2]))  # (B, T, H, W)
    masks = gt_masks.float()[:, None].expand_as(logits)
    valid = torch.ones_like(masks[:, :1]) if valid_pixels is None else valid_pixels.float()[:, None]
    focal = _focal_loss(logits, masks, valid, gamma=focal_gamma, alpha=focal_alpha)
    return LossTerms(class_loss, focal, _dice_loss(logits, masks, valid))


def _focal_loss(
    logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, *, gamma: float, alpha: float
) -> torch.Tensor:
    """Mean over taps and valid pixels of ``-alpha_t * (1 - p_t) ** gamma * log(p_t)``, of shape ``(B,)``."""
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    log_miss = functional.logsigmoid(logits * (1 - 2 * masks))  # log(1 - p_t), whose power has a finite gradient
    weights = alpha * masks + (1 - alpha) * (1 - masks)
    losses = weights * torch.exp(gamma * log_miss) * cross_entropy
    return ((losses * valid).sum(dim=(2, 3)) / valid.sum(dim=(2, 3)).clamp(min=1)).mean(dim=1)


def _dice_loss(logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean over taps of ``1 - (2 |P G| + 1) / (|P| + |G| + 1)`` over the valid pixels, of shape ``(B,)``."""
    probabilities = logits.sigmoid() * valid
    overlap = (probabilities * masks).sum(dim=(2, 3))
    total = probabilities.sum(dim=(2, 3)) + (masks * valid).sum(dim=(2, 3))
    return (1 - (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)).mean(dim=1)


def _check_inputs(
    batch_size: int, labels: torch.Tensor, *, gt_masks: torch.Tensor | None, valid_pixels: torch.Tensor | None
) -> None:
    if labels.shape != (batch_size,):
        msg = f"labels must have shape ({batch_size},), got {tuple(labels.shape)}."
        raise ValueError(msg)
    if gt_masks is None:
        return
    if gt_masks.ndim != 3 or len(gt_masks) != batch_size:  # noqa: PLR2004 - (B, H, W)
        msg = f"gt_masks must have shape ({batch_size}, H, W), got {tuple(gt_masks.shape)}."
        raise ValueError(msg)
    if valid_pixels is not None and (valid_pixels.dtype != torch.bool or valid_pixels.shape != gt_masks.shape):
        got = f"{valid_pixels.dtype} of shape {tuple(valid_pixels.shape)}"
        msg = f"valid_pixels must be torch.bool of shape {tuple(gt_masks.shape)}, got {got}."
        raise ValueError(msg)
