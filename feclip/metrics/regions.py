"""The area under the per-region-overlap curve (AUPRO), exact.

Bergmann, Batzner, Fauser, Sattlegger, Steger, "The MVTec Anomaly Detection Dataset", IJCV 2021, Section 5.3: every
connected region of the gt masks counts alike, however small it is. The curve is taken at every distinct score. The
community's code takes it at 200 thresholds of equal distance, which makes it depend on the sharpness of the scores
and not on their order alone.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["MAX_FPR", "aupro"]

MAX_FPR = 0.3  # Bergmann et al. 2021, Section 5.3
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)  # pixels that touch at a corner are one region


def aupro(pixel_logits: torch.Tensor, gt_masks: torch.Tensor, *, max_fpr: float = MAX_FPR) -> float | None:
    """Return the mean overlap of the regions with what is called anomalous, averaged over false-positive rates.

    Args:
        pixel_logits: Scores ``(N, H, W)``, higher is more anomalous; NaN where a pixel does not count. Normal images
            belong here: their pixels are in the false-positive rate.
        gt_masks: Ground truth ``(N, H, W)``, true is anomalous. A region is what hangs together by edges or corners
            in one image; its pixels that do not count are left out of its size.
        max_fpr: Pixel false-positive rate up to which the curve is integrated, above 0 and at most 1.

    Returns:
        The area up to ``max_fpr``, divided by ``max_fpr``: in 0..1. None where no region or no normal pixel counts.

    Raises:
        ValueError: If the shapes differ or ``max_fpr`` is out of range.

    Example:
        >>> logits = torch.tensor([[[5.0, 1.0, 0.0, 2.0]]])
        >>> masks = torch.tensor([[[True, False, False, True]]])
        >>> aupro(logits, masks), aupro(-logits, masks)
        (1.0, 0.0)
    """
    if pixel_logits.shape != gt_masks.shape or pixel_logits.ndim != 3:  # noqa: PLR2004 - (N, H, W)
        msg = f"pixel_logits and gt_masks must share one shape (N, H, W), got {tuple(pixel_logits.shape)} and "
        raise ValueError(msg + f"{tuple(gt_masks.shape)}.")
    if not 0 < max_fpr <= 1:
        msg = f"max_fpr must lie in (0, 1], got {max_fpr}."
        raise ValueError(msg)
    counted = ~pixel_logits.isnan()
    logits = pixel_logits[counted].numpy()
    regions = _number_regions(gt_masks.numpy())[counted.numpy()]
    sizes = np.bincount(regions)
    num_regions, num_normal = int((sizes[1:] > 0).sum()), int(sizes[0]) if len(sizes) else 0
    if num_regions == 0 or num_normal == 0:
        return None
    order = np.argsort(-logits, kind="stable")
    logits, regions = logits[order], regions[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(logits)), len(logits) - 1)
    normal = regions == 0
    shares = np.where(normal, 0.0, 1.0 / np.maximum(sizes, 1)[regions])  # of its region that each pixel is
    overlap = np.cumsum(shares)[last_of_ties] / num_regions
    fpr = np.cumsum(normal)[last_of_ties] / num_normal
    return _area(np.append(0.0, fpr), np.append(0.0, overlap), limit=max_fpr) / max_fpr


def _number_regions(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the region of each pixel, from 1 over all images; 0 is no region."""
    regions = np.zeros(masks.shape, dtype=np.int64)
    found = 0
    for index in np.flatnonzero(masks.any(axis=(1, 2))):
        numbered, count = ndimage.label(masks[index], structure=EIGHT_NEIGHBOURS)
        regions[index] = np.where(numbered > 0, numbered + found, 0)
        found += count
    return regions


def _area(x: NDArray[np.float64], y: NDArray[np.float64], *, limit: float) -> float:
    """Return the area under straight lines through the points, x ascending, from 0 to ``limit``."""
    inside = x <= limit
    at_limit = float(np.interp(limit, x, y))
    return float(np.trapezoid(np.append(y[inside], at_limit), np.append(x[inside], limit)))
