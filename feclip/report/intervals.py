"""How far a rate that was counted may lie from the rate itself."""

import numpy as np
import numpy.typing as npt

__all__ = ["Z_95", "wilson_interval"]

Z_95 = 1.959963984540054
"""Quantile of the standard normal law that leaves 2.5 % above it."""


def wilson_interval(
    num: npt.ArrayLike, total: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the 95 % score interval of a rate (Wilson, 1927), which keeps its promise near 0 as well.

    Args:
        num: Counted, any shape.
        total: Out of how many, at least ``num``; the same shape.

    Returns:
        Lower and upper ends, 0..1; 0 and 1 where there is nothing.

    Example:
        >>> [round(float(end), 4) for end in wilson_interval(5, 1000)]
        [0.0021, 0.0117]
    """
    counted, trials = np.asarray(num, np.float64), np.asarray(total, np.float64)
    safe = np.maximum(trials, 1)
    rate = counted / safe
    spread = Z_95 * np.sqrt(rate * (1 - rate) / safe + (Z_95 / (2 * safe)) ** 2)
    center = rate + Z_95**2 / (2 * safe)
    scale = 1 + Z_95**2 / safe
    lower = np.where(counted == 0, 0.0, (center - spread) / scale)
    return lower, np.where(counted == trials, 1.0, (center + spread) / scale)
