"""Metrics of pixels, each read from one curve: what is found, and what falsely, at falling thresholds.

AUROC is the share of (anomalous, normal) pairs in the right order, ties counted half, in integers and rounded once; AP
the step-wise area under the precision-recall curve; F1-max the highest F1 of all thresholds. torchmetrics has them, but
holds 16 bytes for each pixel and divides in float32, whose sums over millions of pixels are off in the fifth digit.
AUPRO is the area under the per-region-overlap curve: Bergmann, Batzner, Fauser, Sattlegger, Steger, "The MVTec Anomaly
Detection Dataset", IJCV 2021, Section 5.3: every connected region of the gt masks counts alike, however small it is.

Letters: K thresholds.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feclip.metrics.pixel_counts import PixelCounts

__all__ = ["MAX_FPR", "PixelCurve", "aupro_of", "curve_metrics"]

MAX_FPR = 0.3  # Bergmann et al. 2021, Section 5.3

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelCurve:
    """Counts at each threshold, highest threshold first; all of shape ``(K,)``, none of them falls.

    Thresholds where nothing anomalous is found need not stand here: no metric has its value from them.
    """

    above: Integers
    """Normal pixels above the threshold."""
    reached: Integers
    """Normal pixels at the threshold or above it."""
    found: Integers
    """Anomalous pixels at the threshold or above it."""
    overlap: Floats
    """The share of each region at the threshold or above it, summed over the regions."""
    num_normal: int
    """All normal pixels, at least 1."""
    num_regions: int
    """All regions, at least 1."""

    @classmethod
    def of(cls, counts: PixelCounts) -> "PixelCurve | None":
        """Return the exact curve, at every distinct score of an anomalous pixel; None where either class is absent."""
        if len(counts.normal_keys) == 0 or len(counts.anomalous_keys) == 0:
            return None
        ascending, starts = np.unique(counts.anomalous_keys, return_index=True)
        thresholds, found = ascending[::-1], len(counts.anomalous_keys) - starts[::-1]
        num_normal = len(counts.normal_keys)
        return cls(
            above=num_normal - np.searchsorted(counts.normal_keys, thresholds, side="right"),
            reached=num_normal - np.searchsorted(counts.normal_keys, thresholds, side="left"),
            found=found,
            overlap=np.cumsum(1.0 / counts.region_sizes[::-1])[found - 1],
            num_normal=num_normal,
            num_regions=counts.num_regions,
        )

    @property
    def num_anomalous(self) -> int:
        """All anomalous pixels."""
        return int(self.found[-1])


def curve_metrics(curve: PixelCurve) -> dict[str, float]:
    """Return ``pixel_auroc``, ``pixel_ap``, ``pixel_f1_max`` and ``aupro``, in 0..1."""
    num_anomalous = curve.num_anomalous
    gained = np.diff(curve.found, prepend=0)
    called = curve.found + curve.reached
    half_pairs = 2 * curve.num_normal * num_anomalous
    assert half_pairs < np.iinfo(np.int64).max, f"{half_pairs} does not fit int64"
    # Of each anomalous pixel: twice the normal ones below it, and those of its very score.
    in_order = int(((2 * curve.num_normal - curve.reached - curve.above) * gained).sum())
    return {
        "pixel_auroc": in_order / half_pairs,
        "pixel_ap": float((curve.found / called * gained).sum() / num_anomalous),
        "pixel_f1_max": float((2 * curve.found / (called + num_anomalous)).max()),
        "aupro": aupro_of(curve),
    }


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
    x = np.stack([curve.above, curve.reached], axis=1).reshape(-1) / curve.num_normal
    before = np.append(0.0, curve.overlap[:-1])
    y = np.stack([before, curve.overlap], axis=1).reshape(-1) / curve.num_regions
    x, y = np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, y[-1:]])
    inside = x <= max_fpr
    at_limit = float(np.interp(max_fpr, x, y))
    return float(np.trapezoid(np.append(y[inside], at_limit), np.append(x[inside], max_fpr)) / max_fpr)
