"""Whether normal scores still lie where the calibration saw them.

An archive has no labels, so what is compared is the part *not* called anomalous, with the same part of the normals that
the thresholds were fitted on. Both are counted on one grid, so the distance is that of the counts.

Two measures: the Kolmogorov-Smirnov distance, the largest difference of the two shares at or below any stop of the
grid; and the population stability index over ten bins of equal share of the reference (rules of thumb: 0.1 to watch,
0.25 to act; Siddiqi, 2006, "Credit Risk Scorecards"). Each must also exceed what chance alone gives at 1 in 1,000:
for the first the limit law of the two-sample test, for the second ``(1/n + 1/m)`` times a chi-square quantile
(Yurdakul and Naranjo, 2020, "Statistical properties of the population stability index"). So a few images mark nothing,
and a million do not mark what is too small to matter.

Letters: n images, m reference images (fewer where groups are weighted), K bins of the grid.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

__all__ = ["FEWEST", "HALF_COUNT", "Drift", "Verdict", "compare_normals", "weighted_reference"]

FEWEST = 50
"""Images on either side below which nothing is said."""
CHANCE = 0.001  # of a mark without drift
PSI_BINS = 10
PSI_WATCH, PSI_MOVED = 0.1, 0.25
KS_WATCH, KS_MOVED = 0.1, 0.2
HALF_COUNT = 0.5  # added to each bin, so that an empty one has a logarithm

Shares = npt.NDArray[np.float64]


class Verdict(StrEnum):
    """What a comparison says about the thresholds."""

    too_few = "too few images to tell"
    steady = "no drift seen"
    watch = "watch"
    moved = "threshold may no longer hold"


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One comparison."""

    num: int
    """n: images not called anomalous."""
    num_reference: float
    """m, effective where groups are weighted."""
    ks: float
    """Kolmogorov-Smirnov distance, 0..1."""
    psi: float
    """Population stability index, at least 0."""
    shift: float
    """Median minus the reference's, in steps of the grid."""
    verdict: Verdict


def weighted_reference(
    references: Mapping[str, npt.NDArray[np.int64]], *, weights: Mapping[str, int]
) -> tuple[Shares, float]:
    """Return the reference of a mixture of groups: each group's own, by its share of the images.

    Otherwise an archive with other shares of the groups than the calibration would look as if scores had moved.

    Args:
        references: Counts ``(K,)`` of the normals of each group.
        weights: Images of each group that are compared.

    Returns:
        Shares ``(K,)`` that sum to 1, or zeros where a group has no normals, and the effective number of normals.
    """
    total = sum(weights.values())
    length = len(next(iter(references.values())))
    mixed, variance = np.zeros(length), 0.0
    for group, weight in weights.items():
        counts = references.get(group)
        num = 0 if counts is None else int(counts.sum())
        if not num and weight:
            return np.zeros(length), 0.0
        if weight:
            assert counts is not None
            mixed += (weight / total) * counts / num
            variance += (weight / total) ** 2 / num
    return mixed, 1 / variance if variance else 0.0


def compare_normals(counts: npt.NDArray[np.int64], *, reference: Shares, num_reference: float) -> Drift:
    """Compare counts with a reference; both hold only what is not called anomalous.

    Args:
        counts: ``(K,)``.
        reference: Shares ``(K,)`` that sum to 1.
        num_reference: m.

    Returns:
        The measures; 0 where there are too few images.

    Example:
        >>> counts = np.array([0, 50, 50])
        >>> found = compare_normals(counts, reference=np.array([0.5, 0.5, 0.0]), num_reference=1000)
        >>> found.ks, found.verdict.name
        (0.5, 'moved')
    """
    num = int(counts.sum())
    if min(num, num_reference) < FEWEST:
        return Drift(num=num, num_reference=num_reference, ks=0, psi=0, shift=0, verdict=Verdict.too_few)
    shares, noise = counts / num, 1 / num + 1 / num_reference
    ks = float(np.abs(np.cumsum(shares) - np.cumsum(reference)).max())
    edges = _equal_shares(reference)
    psi = _stability_index(counts, reference, edges=edges, num_reference=num_reference)
    ks_chance = math.sqrt(-math.log(CHANCE / 2) / 2 * noise)
    psi_chance = float(chi2.ppf(1 - CHANCE, max(len(edges) - 1, 1))) * noise
    moved = (psi >= PSI_MOVED and psi > psi_chance) or (ks >= KS_MOVED and ks > ks_chance)
    watch = (psi >= PSI_WATCH and psi > psi_chance) or (ks >= KS_WATCH and ks > ks_chance)
    verdict = Verdict.moved if moved else Verdict.watch if watch else Verdict.steady
    shift = float(_median(shares) - _median(reference))
    return Drift(num=num, num_reference=num_reference, ks=ks, psi=psi, shift=shift, verdict=verdict)


def _equal_shares(reference: Shares) -> Sequence[int]:
    """Return where bins of about equal share of the reference begin, zero-based indices into the grid."""
    below = np.cumsum(reference)
    wanted = np.arange(1, PSI_BINS) / PSI_BINS
    starts = {int(index) + 1 for index in np.searchsorted(below, wanted)}
    return sorted(start for start in {0} | starts if start < len(below))


def _stability_index(
    counts: npt.NDArray[np.int64], reference: Shares, *, edges: Sequence[int], num_reference: float
) -> float:
    found = np.add.reduceat(counts, edges) + HALF_COUNT
    expected = np.add.reduceat(reference, edges) * num_reference + HALF_COUNT
    found, expected = found / found.sum(), expected / expected.sum()
    return float(((found - expected) * np.log(found / expected)).sum())


def _median(shares: Shares) -> int:
    return int(np.searchsorted(np.cumsum(shares), 0.5))
