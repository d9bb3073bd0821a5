"""Image and pixel metrics of a set of scored images: per category first, then their mean."""

from dataclasses import dataclass

import torch

from feclip.metrics.ranking import auroc, average_precision
from feclip.metrics.regions import aupro

__all__ = ["ScoredImages", "image_and_pixel_metrics"]


@dataclass(frozen=True, kw_only=True)
class ScoredImages:
    """Scores and ground truth of N images; S is the side of the model input in pixels."""

    image_logits: torch.Tensor
    """``(N,)`` float32."""
    labels: torch.Tensor
    """``(N,)`` bool, true is anomalous."""
    category_index: torch.Tensor
    """``(N,)`` int64, zero-based."""
    pixel_logits: torch.Tensor
    """``(N, S, S)`` float32; NaN where a pixel does not count: on padding, or in an image without a gt mask."""
    gt_masks: torch.Tensor
    """``(N, S, S)`` bool."""


def image_and_pixel_metrics(scored: ScoredImages) -> dict[str, float]:
    """Return image AUROC and AP, pixel AUROC and exact AUPRO, each computed per category and then averaged.

    Pooling the images of all categories would rank scores of different objects against each other and gives other
    numbers. A category that lacks normal or anomalous images (pixels) has no value and is left out of the mean; a
    metric that no category has is absent from the result.

    Returns:
        ``image_auroc``, ``image_ap``, ``pixel_auroc`` and ``aupro``, in 0..1.
    """
    values: dict[str, list[float]] = {"image_auroc": [], "image_ap": [], "pixel_auroc": [], "aupro": []}
    for category in sorted(set(scored.category_index.tolist())):
        chosen = scored.category_index == category
        logits, labels = scored.image_logits[chosen], scored.labels[chosen]
        pixels = scored.pixel_logits[chosen]
        counted = ~pixels.isnan()
        for name, value in (
            ("image_auroc", auroc(logits, labels)),
            ("image_ap", average_precision(logits, labels)),
            ("pixel_auroc", auroc(pixels[counted], scored.gt_masks[chosen][counted])),
            ("aupro", aupro(pixels, scored.gt_masks[chosen])),
        ):
            if value is not None:
                values[name].append(value)
    return {name: sum(found) / len(found) for name, found in values.items() if found}
