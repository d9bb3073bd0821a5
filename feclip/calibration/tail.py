"""Whether the upper tail of normal scores looks as if something else lay in it: anomalies, or a second population.

Letters: a tail is the n scores above a point a; before them r = n, n - 1, ..., 1 scores remain.

The scores of one population thin out upwards: most laws (normal, Gumbel, exponential, logistic, bounded ones) have a
tail no heavier than an exponential one. Then the *total time on test*, the gaps between neighbouring scores each
times the number r that remain, grows ever more slowly: as a function of it the share of scores passed is convex
(Barlow and Campo, 1975, "Total time on test processes"). For the exponential tail itself the normalised times are
uniform order statistics exactly. A second bump, with a valley before it, breaks the convexity, and so does a heavier
tail. The measure is ``sqrt(n)`` times the largest distance of that curve from its greatest convex minorant; the
straight line is the case hardest to tell from a bump (Beare, 2021, "Least favorability of the uniform distribution for
tests of the concavity of a distribution function"), so the bound is simulated there and holds for lighter tails.

Tails of the upper quarter, eighth, sixteenth ... are all looked at, since a bump shows best where it is about half.
The curve is read at the edges of the first pass's bins, which are at most 1/128 of the score's value wide.
"""

import math

import numpy as np
import numpy.typing as npt

from feclip.calibration.counts import BIN_BITS, Counts, scores_of

__all__ = ["count_suspects"]

FIRST_TAIL = 4  # the tail starts where a quarter is left: above the mode of any usual law
FEWEST = 16  # scores in a tail; a bump of fewer than about 4 cannot be told from chance
BOUND = 2.0  # exceeded by 1 in 100 exponential samples of 1,024 to 16,384 scores, fewer of less (tests simulate it)
SHALLOWEST = 0.1  # share of the tail that is out of place; less is significant among 1e5 scores and means nothing
CLEAR_GAP = 0.1  # share of the total time from which an empty stretch is the valley; else it is where the bend begins

Floats = npt.NDArray[np.float64]


def count_suspects(bins: Counts) -> int:
    """Return roughly how many of the scores lie above a valley in the upper tail, 0 where none stands out.

    Where the bump is not clear of the others the number is up to twice too high. A heavy tail (log-normal, Student)
    and scores rounded to few distinct values stand out too.

    Args:
        bins: Bins of the scores that were kept. What was trimmed is as if it had never been: with the bump gone nothing
            stands out, and a tail cut off without need is only lighter.

    Example:
        >>> from feclip.calibration.counts import bins_of, keys_of
        >>> scores = np.random.default_rng(0).normal(size=400).astype(np.float32)
        >>> count_suspects(Counts.of(bins_of(keys_of(scores))))
        0
        >>> scores[:12] += 8
        >>> count_suspects(Counts.of(bins_of(keys_of(scores))))
        12
    """
    starts = bins.values << np.uint32(BIN_BITS)
    lower = scores_of(starts).astype(np.float64)
    upper = scores_of(starts | np.uint32((1 << BIN_BITS) - 1)).astype(np.float64)
    ends = np.cumsum(bins.numbers)
    strongest, suspects = BOUND, 0
    total = bins.total
    size = total // FIRST_TAIL
    while size >= FEWEST:
        first = int(np.searchsorted(ends, total - size)) + 1  # the first bin that lies in the tail as a whole
        passed = ends[first - 1 :] - ends[first - 1]
        if passed[-1] >= FEWEST:
            bends, index = _bend(lower[first:], upper[first - 1 :], passed)
            if bends > strongest:
                strongest, suspects = bends, int(passed[-1] - passed[index])
        size //= 2
    return suspects


def _bend(lower: Floats, upper: Floats, passed: npt.NDArray[np.int64]) -> tuple[float, int]:
    """Return the measure of one tail and the index into ``passed`` after which the valley lies.

    That is the longest empty stretch from where the curve is farthest above its minorant, or that place itself.

    Args:
        lower: Lower edges of the tail's B bins, ``(B,)``.
        upper: Upper edges of the bin before them and of them, ``(B + 1,)``.
        passed: Scores of the tail up to each of the upper edges, ``(B + 1,)``, from 0.
    """
    size = int(passed[-1])
    left = size - passed
    gaps = (lower - upper[:-1]) * left[:-1]
    widths = (upper[1:] - lower) * (left[:-1] + left[1:]) / 2  # scores lie evenly inside a bin
    steps = np.stack([gaps, widths], axis=1).ravel()
    times = np.concatenate([[0.0], np.cumsum(steps)])
    total_time = float(times[-1])
    if total_time <= 0:
        return 0.0, 0
    times /= total_time
    shares = np.repeat(passed / size, 2)[:-1]  # after a gap as before it
    above = shares - _convex_minorant(times, shares)
    # Inside the list of edges, even entries are upper edges: those of `passed`.
    index = int(np.argmax(above[::2]))
    depth = float(above[::2][index])
    if depth < SHALLOWEST:
        return 0.0, index
    gap = index + int(np.argmax(gaps[index:]))
    return math.sqrt(size) * depth, gap if gaps[gap] >= CLEAR_GAP * total_time else index


def _convex_minorant(x: Floats, y: Floats) -> Floats:
    """Return the greatest convex function below the points, at the points; x ascends."""
    corners: list[tuple[float, float]] = []
    for right, high in zip(x.tolist(), y.tolist(), strict=True):
        while corners and right == corners[-1][0]:  # of points above one another the lowest counts
            if high >= corners[-1][1]:
                break
            corners.pop()
        else:
            while len(corners) > 1 and _above_chord(corners[-2], corners[-1], (right, high)):
                corners.pop()
            corners.append((right, high))
    corner_x, corner_y = zip(*corners, strict=True)
    minorant: Floats = np.interp(x, corner_x, corner_y)
    return minorant


def _above_chord(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
    return (middle[1] - left[1]) * (right[0] - left[0]) >= (right[1] - left[1]) * (middle[0] - left[0])
