"""Exact order statistics and moments of float32 scores that lie anywhere: counts that merge, of bounded size.

A float32 is turned into an unsigned integer of the same order, its *key* (:mod:`feclip.score_keys`). The first pass
counts the upper 16 bits of the keys, the *bins* (at most 65,536 of them); whoever then wants certain ranks knows in
which bins they lie, and a second pass counts whole keys in those bins alone, again at most 65,536 in each. So memory
does not grow with the number of scores, and nothing depends on how they were divided or in which order they came.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np
import numpy.typing as npt

from feclip.score_keys import SIGN, Keys, keys_of, scores_of

__all__ = ["Counts", "ExactSums", "bins_of", "keys_of", "merge_all", "score_at", "scores_of"]

BIN_BITS = 16  # of the 32: sign, exponent and 7 bits of the mantissa, so a bin is at most 1/128 of its value wide
MANTISSA_BITS = 23
MANTISSA = np.uint32((1 << MANTISSA_BITS) - 1)
EXPONENT = np.uint32(0xFF)
SMALLEST = -149  # binary exponent of the smallest float32 above 0: every float32 is a whole multiple of it
HALF_BITS = 12  # a mantissa of 24 bits is squared in halves, whose sums over 2**39 scores fit int64


def bins_of(keys: Keys) -> Keys:
    """Return the upper 16 bits of each key, 0..65,535."""
    return keys >> np.uint32(BIN_BITS)


@dataclass(frozen=True, eq=False)
class Counts:
    """How often each value occurred: the state of either pass."""

    values: Keys
    """Distinct keys or bins, ascending."""
    numbers: npt.NDArray[np.int64]
    """Occurrences of each, at least 1."""

    @classmethod
    def of(cls, values: Keys) -> Self:
        """Count values of shape ``(N,)``."""
        distinct, numbers = np.unique(values, return_counts=True)
        return cls(distinct.astype(np.uint32), numbers.astype(np.int64))

    def merge(self, other: Self) -> Self:
        """Return the counts of both together."""
        values, inverse = np.unique(np.concatenate([self.values, other.values]), return_inverse=True)
        numbers = np.zeros(len(values), np.int64)
        np.add.at(numbers, inverse, np.concatenate([self.numbers, other.numbers]))
        return type(self)(values, numbers)

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.numbers.sum())

    def find(self, rank: int) -> tuple[int, int]:
        """Return the value at a one-based rank and how many values lie below it."""
        assert 1 <= rank <= self.total, f"rank {rank} of {self.total}"
        ends = np.cumsum(self.numbers)
        index = int(np.searchsorted(ends, rank))
        return int(self.values[index]), int(ends[index] - self.numbers[index])

    def first(self, num: int) -> Self:
        """Return the counts of the ``num`` smallest values."""
        ends = np.minimum(np.cumsum(self.numbers), num)
        numbers = np.diff(ends, prepend=np.int64(0))
        return type(self)(self.values[numbers > 0], numbers[numbers > 0])

    def in_bin(self, wanted: int) -> Self:
        """Return the part of a second pass's counts that lies in one bin."""
        start, end = np.searchsorted(self.values, [wanted << BIN_BITS, (wanted + 1) << BIN_BITS])
        return type(self)(self.values[start:end], self.numbers[start:end])


def score_at(rank: int, *, bins: Counts, keys: Counts) -> np.float32:
    """Return the score at a one-based rank.

    Args:
        rank: From the smallest score.
        bins: All of the first pass.
        keys: The second pass, which has counted the rank's bin.
    """
    wanted, below = bins.find(rank)
    key, _ = keys.in_bin(wanted).find(rank - below)
    score: np.float32 = scores_of(np.array([key], np.uint32))[0]
    return score


@dataclass(frozen=True)
class ExactSums:
    """Sum and sum of squares of float32 scores without any rounding, so the same in whatever order they were added."""

    num: int = 0
    """Scores added."""
    scaled_sum: int = 0
    """Sum, in units of 2**-149."""
    scaled_squares: int = 0
    """Sum of squares, in units of 2**-298."""

    @classmethod
    def of(cls, counts: Counts) -> Self:
        """Add scores by the counts of their keys."""
        bits = scores_of(counts.values).view(np.uint32)
        exponents = (bits >> np.uint32(MANTISSA_BITS)) & EXPONENT
        # Subnormal numbers have exponent 0, no leading one, and the unit of exponent 1.
        mantissas = ((bits & MANTISSA) | (np.minimum(exponents, 1) << np.uint32(MANTISSA_BITS))).astype(np.int64)
        shifts = np.maximum(exponents, 1).astype(np.int64) - 1
        signs = np.where(bits & SIGN, -1, 1)
        high, low = mantissas >> HALF_BITS, mantissas & ((1 << HALF_BITS) - 1)
        squares = ((2 * HALF_BITS, high * high), (HALF_BITS + 1, high * low), (0, low * low))
        total = total_squares = 0
        for shift in np.unique(shifts).tolist():
            chosen = shifts == shift
            numbers = counts.numbers[chosen]
            total += int((signs[chosen] * mantissas[chosen] * numbers).sum()) << shift
            for extra, parts in squares:
                total_squares += int((parts[chosen] * numbers).sum()) << (2 * shift + extra)
        return cls(counts.total, total, total_squares)

    def merge(self, other: Self) -> Self:
        """Return the sums of both together."""
        return type(self)(
            self.num + other.num, self.scaled_sum + other.scaled_sum, self.scaled_squares + other.scaled_squares
        )

    @property
    def mean(self) -> float:
        """Mean, rounded once."""
        return float(Fraction(self.scaled_sum, self.num) * Fraction(2) ** SMALLEST)

    @property
    def deviation(self) -> float:
        """Standard deviation of these scores themselves (divisor N), to two roundings."""
        variance = Fraction(self.num * self.scaled_squares - self.scaled_sum**2, self.num**2)
        return math.sqrt(variance * Fraction(2) ** (2 * SMALLEST))


def merge_all(parts: Iterable[Counts]) -> Counts:
    """Return the counts of all parts together."""
    return functools.reduce(Counts.merge, parts, Counts.of(np.zeros(0, np.uint32)))
