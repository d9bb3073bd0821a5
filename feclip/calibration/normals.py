"""The two passes over normal scores, each a state that merges: run anywhere, in any division, the result is the same.

survey = merge of survey_scores(part) over all parts      first pass
query = plan_query(survey, options)                       once
detail = merge of count_detail(part, query) over all      second pass
calibration = fit(survey, detail, ...)                    once, see fitting.py
observed = merge of count_observed(part, calibration)     third pass, see deciding.py
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

import numpy as np
import pyarrow as pa

from feclip.calibration.counts import Counts, ExactSums, bins_of, keys_of, merge_all
from feclip.calibration.levels import Variant, num_needed, rank_of
from feclip.calibration.options import CalibrationOptions, Normalization, Statistic
from feclip.calibration.table import read_scores
from feclip.errors import DataError

__all__ = ["Detail", "Query", "Survey", "count_detail", "normalization_ranks", "plan_query", "survey_scores"]

Group = str | None
"""A value of ``threshold_by``; None for all normals together."""
Cell = tuple[Group, Statistic]
"""What gets thresholds of its own."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Survey:
    """State of the first pass."""

    model_id: str
    """The model that scored the normals."""
    threshold_by: str | None
    """Column of the groups."""
    bins: Mapping[Cell, Counts] = field(default_factory=dict)
    """Counts of the bins by group and statistic."""
    num_unscored: int = 0
    """Rows without scores: images that could not be read."""

    def merge(self, other: Self) -> Self:
        """Return the survey of both parts."""
        assert (self.model_id, self.threshold_by) == (other.model_id, other.threshold_by)
        return type(self)(
            self.model_id,
            self.threshold_by,
            _merged(self.bins, other.bins, Counts.merge),
            self.num_unscored + other.num_unscored,
        )

    def cells(self, options: CalibrationOptions) -> dict[Cell, Counts]:
        """Return the counts of everything that gets thresholds, all normals together (None) where it is asked for.

        Raises:
            DataError: If no normal image has a score.
        """
        if not self.bins:
            msg = f"there is no normal image with a score ({self.num_unscored} without); thresholds need normal images."
            raise DataError(msg)
        cells = dict(sorted(self.bins.items(), key=lambda item: (item[0][0] or "", item[0][1])))
        if options.fallback:
            for statistic in Statistic:
                cells[None, statistic] = merge_all(part for (_, of), part in self.bins.items() if of is statistic)
        return cells


@dataclass(frozen=True)
class Query:
    """What the second pass must count."""

    model_id: str
    threshold_by: str | None
    bins: Mapping[Cell, tuple[int, ...]]
    """Ascending bins by group and statistic that hold a wanted rank; the last one holds the largest score kept."""
    sums: bool
    """Whether to add up the scores below the last bin, for their mean and deviation."""


@dataclass(frozen=True)
class Detail:
    """State of the second pass."""

    keys: Mapping[Cell, Counts] = field(default_factory=dict)
    """Counts of whole keys inside the bins of the query."""
    sums: Mapping[Cell, ExactSums] = field(default_factory=dict)
    """Sums of the scores below the last bin, where the query asks for them."""

    def merge(self, other: Self) -> Self:
        """Return the detail of both parts."""
        return type(self)(_merged(self.keys, other.keys, Counts.merge), _merged(self.sums, other.sums, ExactSums.merge))


def survey_scores(table: pa.Table, *, model_id: str, threshold_by: str | None = None) -> Survey:
    """Count one part of the normal scores for the first pass.

    Args:
        table: Rows of a score table, see :func:`feclip.calibration.table.read_scores`; without scores where an image
            could not be read.
        model_id: The model that must have scored them.
        threshold_by: Column of the groups.

    Raises:
        DataError: If the table is not such a table.
    """
    scores = read_scores(table, model_id=model_id, threshold_by=threshold_by)
    bins = {
        (group, statistic): Counts.of(bins_of(keys_of(values)))
        for group, part in scores.by_group()
        for statistic, values in part.columns.items()
        if len(values)
    }
    return Survey(model_id, threshold_by, bins, int((~scores.scored).sum()))


def plan_query(survey: Survey, options: CalibrationOptions) -> Query:
    """Return what the second pass must count, for every part alike.

    Raises:
        DataError: If there are no normals.
    """
    wanted = {}
    for cell, bins in survey.cells(options).items():
        num = options.num_kept(bins.total)
        ranks = {num, *normalization_ranks(num, options.normalization)}
        ranks |= {rank_of(num, percentile, variant) for percentile, variant, _ in fitted_levels(num, options)}
        wanted[cell] = tuple(sorted({bins.find(rank)[0] for rank in ranks}))
    return Query(survey.model_id, survey.threshold_by, wanted, options.normalization is Normalization.zscore)


def count_detail(table: pa.Table, query: Query) -> Detail:
    """Count one part of the normal scores for the second pass; raises as :func:`survey_scores` does."""
    scores = read_scores(table, model_id=query.model_id, threshold_by=query.threshold_by)
    keys, sums = {}, {}
    for cell, wanted in query.bins.items():
        group, statistic = cell
        if group is not None and group not in scores.groups:
            continue
        part = keys_of(scores.of_group(group).columns[statistic])
        bins = bins_of(part)
        keys[cell] = Counts.of(part[np.isin(bins, wanted)])
        if query.sums:
            sums[cell] = ExactSums.of(Counts.of(part[bins < wanted[-1]]))
    return Detail(keys, sums)


def fitted_levels(num: int, options: CalibrationOptions) -> list[tuple[str, Variant, bool]]:
    """Return the (percentile, variant, required) of :meth:`CalibrationOptions.levels` that N normals get thresholds of.

    All where forced; else those that N suffices for and, so that the refusal can name them, the required ones.
    """
    return [
        (percentile, variant, required)
        for percentile, variant, required in options.levels()
        if options.force or required or num >= num_needed(percentile, variant)
    ]


def normalization_ranks(num: int, normalization: Normalization) -> tuple[int, ...]:
    """Return the one-based ranks that a normalisation reads: smallest to largest, none for the mean's.

    Example:
        >>> normalization_ranks(10, Normalization.robust)
        (3, 5, 8)
    """
    if normalization is Normalization.minmax:
        return (1, num)
    if normalization is Normalization.robust:
        return tuple(-(-num * quarters // 4) for quarters in (1, 2, 3))
    return ()


def _merged(
    first: Mapping[Cell, _Value], second: Mapping[Cell, _Value], merge: Callable[[_Value, _Value], _Value]
) -> dict[Cell, _Value]:
    merged = dict(first)
    for cell, value in second.items():
        merged[cell] = merge(merged[cell], value) if cell in merged else value
    return merged
