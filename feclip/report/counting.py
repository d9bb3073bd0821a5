"""Counts of scores on a grid of thresholds, of a size that does not grow with the archive.

A grid's stops are whole multiples of a power of two, measured from an origin, so a float64 quotient is exact, and a bin
holds what lies above one stop and not above the next. What lies above any stop is therefore counted exactly, as by
``value > stop``. The outermost bins also hold what lies beyond the grid.

Letters: M rows of a batch, K bins.
"""

import math
import re
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_CELLS", "MAX_GROUPS", "NO_VALUE", "NUM_BINS", "OTHER_GROUPS", "ZERO_BIN", "Cell", "Cube", "Grid"]

ZERO_BIN = 2048
"""The bin that ends at the origin, zero-based."""
NUM_BINS = 2 * ZERO_BIN + 1
STEPS_WANTED = 256  # between the 0.5th and the 99.5th percentile
LARGEST_SHARE = 0.9  # of the grid on one side of the origin that those percentiles may need
FEWEST_BITS = -40  # of a step, where all scores are one
MAX_GROUPS = 100
MAX_CELLS = 2048
NO_VALUE = "(none)"
OTHER_GROUPS = "(other groups)"
ALL_DATES = "(all dates)"
_ISO = re.compile(r"\d{4}(-\d{2}){0,2}")
_COARSER = {10: 7, 7: 4, 4: 0}  # characters kept: day, month, year, nothing

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Stops ``origin + k step`` for whole k from -2048 to 2047."""

    origin: float
    step: float
    """A power of two."""

    @classmethod
    def fitted(cls, sample: Floats, *, origin: float) -> Self:
        """Return the grid that resolves the bulk of a sample, shape ``(M,)``; an empty one gets steps of 1/64."""
        if not sample.size:
            return cls(origin=origin, step=2.0**-6)
        low, high = np.quantile(sample - origin, [0.005, 0.995])
        reach = max(abs(low), abs(high)) / (LARGEST_SHARE * ZERO_BIN)
        wanted = max((high - low) / STEPS_WANTED, reach, 2.0**FEWEST_BITS)
        return cls(origin=origin, step=2.0 ** math.ceil(math.log2(wanted)))

    def bins(self, values: Floats) -> Numbers:
        """Return the zero-based bin of each value, ``(M,)``."""
        steps = np.ceil((values - self.origin) / self.step)
        return np.clip(steps, -ZERO_BIN, ZERO_BIN).astype(np.int64) + ZERO_BIN

    def stop(self, index: int) -> float:
        """Return the stop that ends a bin."""
        return self.origin + (index - ZERO_BIN) * self.step


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """The images of one group and one date."""

    group: str
    date: str
    counts: Numbers
    """Scored images by bin, ``(K,)``."""
    num_errors: int
    """Images without a score."""


class Cube:
    """Scores on a grid, by group and date; at most `MAX_CELLS` of these, about 64 MiB.

    Groups beyond the first `MAX_GROUPS` are counted together. Where there are too many cells, dates are joined to
    months, to years, at last to one.

    Args:
        grid: The stops.

    Example:
        >>> cube = Cube(Grid(origin=0.0, step=1.0))
        >>> groups, dates = np.array(["a", "b", "a"], object), np.array(["d", "d", "d"], object)
        >>> cube.add(groups, dates, np.array([0.5, np.nan, 0.0]))
        >>> [(cell.group, int(cell.counts[ZERO_BIN + 1 :].sum()), cell.num_errors) for cell in cube.cells()]
        [('a', 1, 0), ('b', 0, 1)]
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._places: dict[tuple[str, str], int] = {}
        self._groups: set[str] = set()
        self._counts = np.zeros((16, NUM_BINS), np.int64)
        self._errors = np.zeros(16, np.int64)
        self._date_length = 10

    def add(self, groups: npt.NDArray[np.object_], dates: npt.NDArray[np.object_], margins: Floats) -> None:
        """Count rows.

        Args:
            groups: Texts, ``(M,)``.
            dates: Texts, ``(M,)``.
            margins: ``(M,)``, NaN where there is no score.
        """
        group_names, group_index = np.unique(groups, return_inverse=True)
        date_names, date_index = np.unique(dates, return_inverse=True)
        pairs, pair_index = np.unique(group_index * len(date_names) + date_index, return_inverse=True)
        named = [divmod(int(pair), len(date_names)) for pair in pairs]
        wanted = [(str(group_names[group]), str(date_names[date])) for group, date in named]
        for group, date in wanted:  # all first: a place may move when dates are joined
            self._place(group, date)
        places = np.array([self._place(group, date) for group, date in wanted], np.int64)[pair_index]
        scored = np.isfinite(margins)
        flat = places[scored] * NUM_BINS + self.grid.bins(margins[scored])
        np.add.at(self._counts.reshape(-1), flat, 1)
        np.add.at(self._errors, places[~scored], 1)

    def cells(self) -> list[Cell]:
        """Return the cells by group and date."""
        return [
            Cell(group=group, date=date, counts=self._counts[place], num_errors=int(self._errors[place]))
            for (group, date), place in sorted(self._places.items())
        ]

    def total(self, group: str | None = None) -> Numbers:
        """Return the counts of a group, or of all, ``(K,)``."""
        chosen = [place for (name, _), place in self._places.items() if group in {None, name}]
        total: Numbers = self._counts[chosen].sum(axis=0)
        return total

    def placed(self, group: str, date: str) -> tuple[str, str]:
        """Return the group and the date that a row of these is counted under."""
        return group if group in self._groups else OTHER_GROUPS, self._joined(date)

    @property
    def groups(self) -> list[str]:
        """Groups that were seen, the rest as one."""
        return sorted({group for group, _ in self._places})

    def _place(self, group: str, date: str) -> int:
        if group not in self._groups:
            if len(self._groups) >= MAX_GROUPS:
                group = OTHER_GROUPS
            self._groups.add(group)
        while True:
            key = (group, self._joined(date))
            if key in self._places:
                return self._places[key]
            if len(self._places) < MAX_CELLS or not self._date_length:
                break
            self._join_dates()
        place = self._places[key] = len(self._places)
        if place == len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._errors = np.concatenate([self._errors, np.zeros_like(self._errors)])
        return place

    def _joined(self, date: str) -> str:
        if not self._date_length and date != NO_VALUE:
            return ALL_DATES
        return date[: self._date_length] if _ISO.fullmatch(date) else date

    def _join_dates(self) -> None:
        """Keep less of each date, and move the counts of those that are one now."""
        dates = {date for _, date in self._places} - {NO_VALUE}
        is_iso = all(_ISO.fullmatch(date) for date in dates)
        self._date_length = _COARSER[self._date_length] if is_iso else 0
        before, counts, errors = self._places, self._counts, self._errors
        self._places, self._counts, self._errors = {}, np.zeros_like(counts), np.zeros_like(errors)
        for (group, date), place in before.items():
            key = (group, self._joined(date))
            new = self._places.setdefault(key, len(self._places))
            self._counts[new] += counts[place]
            self._errors[new] += errors[place]
