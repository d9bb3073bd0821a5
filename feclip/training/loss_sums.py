"""The loss of a batch as sums over its images, which ranks and steps add up (docs/adr/0006).

Shapes: B images, S side of the model input in pixels.
"""

import math
from collections.abc import Sequence

import torch

from feclip.config import LossConfig
from feclip.model import FeClipOutput, LossTerms, fe_clip_loss_terms
from feclip.training.prefixes import PrefixBatch

__all__ = ["batch_sums", "loss_sums", "mean_loss", "mean_terms"]


def loss_sums(
    output: FeClipOutput,
    *,
    labels: torch.Tensor,
    gt_masks: torch.Tensor,
    has_mask: torch.Tensor,
    valid_pixels: torch.Tensor,
    loss: LossConfig,
) -> torch.Tensor:
    """Return the sums of a batch: class, focal, dice, images, images with a gt mask; ``(5,)``, float32, with a graph.

    Args:
        output: What the model returned.
        labels: Ground truth ``(B,)``, 1 = anomalous.
        gt_masks: Bool ``(B, S, S)``, true where anomalous.
        has_mask: Bool ``(B,)``, whether the gt mask is known.
        valid_pixels: Bool ``(B, S, S)``, false on padding.
        loss: Exponent and weight of the focal loss.
    """
    terms: LossTerms = fe_clip_loss_terms(
        output,
        labels,
        gt_masks,
        valid_pixels=valid_pixels,
        focal_gamma=loss.focal_gamma,
        focal_alpha=loss.focal_alpha,
    )
    masked = has_mask.to(terms.focal.dtype)
    return torch.stack(
        [
            terms.class_loss.sum(),
            (terms.focal * masked).sum(),
            (terms.dice * masked).sum(),
            torch.tensor(float(len(labels)), device=labels.device),
            masked.sum(),
        ]
    )


def batch_sums(outputs: Sequence[FeClipOutput], parts: Sequence[PrefixBatch], *, loss: LossConfig) -> torch.Tensor:
    """Return `loss_sums` of a batch whose images came to the model in parts, one for each shape.

    Args:
        outputs: What the model returned of each part.
        parts: The parts.
        loss: As for `loss_sums`.
    """
    found = [
        loss_sums(
            output,
            labels=part.labels,
            gt_masks=part.gt_masks,
            has_mask=part.has_mask,
            valid_pixels=part.valid_pixels,
            loss=loss,
        )
        for output, part in zip(outputs, parts, strict=True)
    ]
    return torch.stack(found).sum(dim=0)


def mean_loss(sums: torch.Tensor, counts: torch.Tensor, *, loss: LossConfig) -> torch.Tensor:
    """Return the weighted mean loss, of which a step takes the gradient; a scalar.

    Args:
        sums: `loss_sums` of one rank.
        counts: Those of all ranks, whose images the mean is over.
        loss: Weights of the terms.
    """
    images, masks = counts[3].float(), counts[4].clamp(min=1).float()
    total = loss.class_weight * sums[0] / images
    return total + (loss.focal_weight * sums[1] + loss.dice_weight * sums[2]) / masks


def mean_terms(totals: torch.Tensor, *, loss: LossConfig) -> dict[str, float]:
    """Return the mean loss and its terms from the sums of some steps; a term that no image has is absent."""
    class_sum, focal_sum, dice_sum, images, masks = totals.tolist()
    terms = {"class_loss": class_sum / images}
    total = loss.class_weight * terms["class_loss"]
    if masks:
        terms |= {"focal_loss": focal_sum / masks, "dice_loss": dice_sum / masks}
        total += loss.focal_weight * terms["focal_loss"] + loss.dice_weight * terms["dice_loss"]
    assert math.isfinite(total)
    return {"loss": total, **terms}
