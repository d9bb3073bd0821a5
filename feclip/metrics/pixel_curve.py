"""Metrics of pixels, each read from one curve: what is found, and what falsely, at falling thresholds.

AUPRO is the area under the per-region-overlap curve: Bergmann, Batzner, Fauser, Sattlegger, Steger, "The MVTec Anomaly
Detection Dataset", IJCV 2021, Section 5.3: every connected region of the gt masks counts alike, however small it is.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feclip.metrics.pixel_counts import PixelCounts
from feclip.metrics.ranking import RankCurve, ranking_metrics

__all__ = ["MAX_FPR", "PixelCurve", "aupro_of", "curve_metrics"]

MAX_FPR = 0.3  # Bergmann et al. 2021, Section 5.3


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelCurve:
    """The curve of pixels, and what of the regions lies at each of its K thresholds or above."""

    ranks: RankCurve
    """Counts of pixels."""
    overlap: npt.NDArray[np.float64]
    """The share of each region, summed over the regions, ``(K,)``."""
    num_regions: int
    """All regions, at least 1."""

    @classmethod
    def of(cls, counts: PixelCounts) -> "PixelCurve | None":
        """Return the exact curve, at every distinct score of an anomalous pixel; None where either class is absent."""
        ranks = RankCurve.of(counts.normal_keys, counts.anomalous_keys)
        if ranks is None:
            return None
        shares = np.cumsum(1.0 / counts.region_sizes[::-1])
        return cls(ranks=ranks, overlap=shares[ranks.found - 1], num_regions=counts.num_regions)


def curve_metrics(curve: PixelCurve) -> dict[str, float]:
    """Return ``pixel_auroc``, ``pixel_ap``, ``pixel_f1_max`` and ``aupro``, in 0..1."""
    auroc, average_precision, f1_max = ranking_metrics(curve.ranks)
    return {"pixel_auroc": auroc, "pixel_ap": average_precision, "pixel_f1_max": f1_max, "aupro": aupro_of(curve)}


def aupro_of(curve: PixelCurve, *, max_fpr: float = MAX_FPR) -> float:
    """Return the mean overlap of the regions with what is called anomalous, averaged over false-positive rates.

    Between two thresholds only normal pixels are added, so the curve is level there; at a threshold, the anomalous and
    normal pixels of that very score come together, and the curve is straight.

    Args:
        curve: Of all images.
        max_fpr: Pixel false-positive rate up to which the curve is integrated, above 0 and at most 1.

    Returns:
        The area up to ``max_fpr``, divided by ``max_fpr``: in 0..1.

    Raises:
        ValueError: If ``max_fpr`` is out of range.
    """
    if not 0 < max_fpr <= 1:
        msg = f"max_fpr must lie in (0, 1], got {max_fpr}."
        raise ValueError(msg)
    x = np.stack([curve.ranks.above, curve.ranks.reached], axis=1).reshape(-1) / curve.ranks.num_normal
    before = np.append(0.0, curve.overlap[:-1])
    y = np.stack([before, curve.overlap], axis=1).reshape(-1) / curve.num_regions
    x, y = np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, y[-1:]])
    inside = x <= max_fpr
    at_limit = float(np.interp(max_fpr, x, y))
    return float(np.trapezoid(np.append(y[inside], at_limit), np.append(x[inside], max_fpr)) / max_fpr)
