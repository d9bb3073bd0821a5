"""The pixel metrics of a set of images, and the mean of any metrics over categories."""

import statistics
from collections.abc import Mapping

from feclip.metrics.community import aupro_community
from feclip.metrics.pixel_counts import PixelCounts
from feclip.metrics.pixel_curve import PixelCurve, curve_metrics

__all__ = ["mean_over_categories", "pixel_metrics"]


def pixel_metrics(counts: PixelCounts) -> dict[str, float]:
    """Return every metric of the pixels of a set of images, the same for any order and division of them.

    Returns:
        ``pixel_auroc``, ``pixel_ap``, ``pixel_f1_max``, ``aupro`` (exact, up to a false-positive rate of 0.3) and
        ``aupro_community`` (the recipe behind published tables), in 0..1; those that have no value are absent, which
        is all of them where no normal or no anomalous pixel counts.

    Example:
        >>> import numpy as np
        >>> logits, masks = np.float32([[[5.0, 1.0, 0.0, 2.0]]]), np.array([[[True, False, False, True]]])
        >>> pixel_metrics(PixelCounts.of(logits, masks))["aupro"]
        1.0
    """
    curve = PixelCurve.of(counts)
    if curve is None:
        return {}
    community = aupro_community(counts)
    return curve_metrics(curve) | ({} if community is None else {"aupro_community": community})


def mean_over_categories(by_category: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the categories that have it, each category counting alike.

    Pooling the images of all categories would rank scores of different objects against each other and gives other
    numbers.

    Example:
        >>> mean_over_categories({"screw": {"image_auroc": 1.0}, "tile": {"image_auroc": 0.5, "aupro": 0.25}})
        {'image_auroc': 0.75, 'aupro': 0.25}
    """
    names = dict.fromkeys(name for metrics in by_category.values() for name in metrics)
    return {
        name: statistics.fmean(metrics[name] for metrics in by_category.values() if name in metrics) for name in names
    }
