"""AUPRO as the community's code computes it, for comparison with published tables.

The recipe is that of AnomalyCLIP's ``metrics.py``, which cites CFLOW-AD: 200 thresholds of equal distance from the
lowest to the highest *probability*; a pixel is called anomalous above the threshold; the points with a false-positive
rate below 0.3 are kept, their rates stretched to 0..1, and the area under straight lines is the value. So it depends on
the sharpness of the scores, not on their order alone, and leaves out what lies left of the first kept point.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from feclip.metrics.pixel_counts import PixelCounts
from feclip.metrics.pixel_curve import MAX_FPR
from feclip.score_keys import KEY_BITS, Keys, scores_of

__all__ = ["area_of_kept", "aupro_community", "community_keys"]

NUM_STEPS = 200  # AnomalyCLIP, metrics.py: max_step

Floats = npt.NDArray[np.float64]


def aupro_community(counts: PixelCounts) -> float | None:
    """Return the value of the recipe, in float64.

    Returns:
        The area, in 0..1. None where the recipe divides by zero: no region or no normal pixel counts, all scores are
        the same, or the kept points have one false-positive rate.
    """
    num_normal, num_anomalous = len(counts.normal_keys), len(counts.anomalous_keys)
    if num_normal == 0 or num_anomalous == 0:
        return None
    keys = community_keys(counts)
    false_alarms = num_normal - np.searchsorted(counts.normal_keys, keys)
    overlap = np.append(0.0, np.cumsum(1.0 / counts.region_sizes[::-1]))
    found = overlap[num_anomalous - np.searchsorted(counts.anomalous_keys, keys)]
    return area_of_kept(false_alarms / num_normal, found / counts.num_regions)


def area_of_kept(fpr: Floats, overlap: Floats) -> float | None:
    """Return the recipe's area for points of falling false-positive rate; None where it divides by zero."""
    kept = fpr < MAX_FPR
    x, y = fpr[kept], overlap[kept]
    if len(x) == 0 or x[0] == x[-1]:
        return None
    return float(-np.trapezoid(y, (x - x[-1]) / (x[0] - x[-1])))


def community_keys(counts: PixelCounts) -> Keys:
    """Return for each of the recipe's thresholds, lowest first, the lowest key whose probability lies above it.

    Both classes must be there; empty where all scores are the same.
    """
    low = min(counts.normal_keys[0], counts.anomalous_keys[0])
    high = max(counts.normal_keys[-1], counts.anomalous_keys[-1])
    lowest, highest = _probabilities(np.array([low, high])).tolist()
    if lowest == highest:
        return np.zeros(0, np.uint32)
    thresholds = np.arange(lowest, highest, (highest - lowest) / NUM_STEPS)
    # The logistic function has no exact inverse in floating point: bisect its values, key by key.
    first, last = np.full(len(thresholds), int(low)), np.full(len(thresholds), int(high) + 1)
    for _ in range(KEY_BITS):
        middle = (first + last) // 2
        passed = _probabilities(middle) > thresholds
        last = np.where(passed, middle, last)
        first = np.where(passed, first, np.minimum(middle + 1, last))
    return last.astype(np.uint32)


def _probabilities(keys: npt.NDArray[np.integer]) -> Floats:
    probabilities: Floats = expit(scores_of(keys.astype(np.uint32)).astype(np.float64))
    return probabilities
