"""Score columns of a table as arrays, checked: who scored them, their type, and that every row has all or none."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feclip.calibration.options import Statistic
from feclip.errors import DataError

__all__ = ["Scores", "read_scores", "score_columns"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scores:
    """The N scored rows of a table that has M rows; M - N could not be scored."""

    columns: Mapping[Statistic, Floats]
    """float32 logits of shape ``(N,)``, finite."""
    scored: npt.NDArray[np.bool_]
    """Which of the M rows they are, ``(M,)``."""
    groups: Sequence[str]
    """Distinct groups of these rows; empty without ``threshold_by``."""
    group_index: npt.NDArray[np.int64]
    """Zero-based index into ``groups`` of each scored row, ``(N,)``; zeros without ``threshold_by``."""

    @property
    def num(self) -> int:
        """Scored rows, N."""
        return len(self.group_index)

    def of_group(self, group: str | None) -> Self:
        """Return the rows of one group, or all for None; ``scored`` stays that of the whole table."""
        if group is None:
            return self
        chosen = self.group_index == self.groups.index(group)
        columns = {statistic: values[chosen] for statistic, values in self.columns.items()}
        return type(self)(columns, self.scored, self.groups, self.group_index[chosen])

    def by_group(self) -> Iterator[tuple[str | None, Self]]:
        """Yield each group with its rows; the only one is None where the table was not divided."""
        groups: Sequence[str | None] = self.groups or [None]
        for group in groups:
            yield group, self.of_group(group)


def score_columns(threshold_by: str | None, statistics: Sequence[Statistic] = tuple(Statistic)) -> list[str]:
    """Return the columns that `read_scores` needs.

    Example:
        >>> score_columns("line")[-1]
        'line'
    """
    return ["model_id", *map(str, statistics), *([] if threshold_by is None else [threshold_by])]


def read_scores(
    table: pa.Table, *, model_id: str, threshold_by: str | None, statistics: Sequence[Statistic] = tuple(Statistic)
) -> Scores:
    """Read the score columns of a table.

    Args:
        table: Rows with ``model_id`` and the statistics (float32); null in an image that could not be scored.
        model_id: The model that must have scored them.
        threshold_by: Column of the groups; None for none.
        statistics: Columns to read.

    Raises:
        DataError: If a column is missing or of another type, another model scored it, a score is not finite, a row
            has some of its scores only, or a scored row has no group.
    """
    missing = [name for name in score_columns(threshold_by, statistics) if name not in table.column_names]
    if missing:
        msg = f"the score table has no column {', '.join(missing)}; it has {', '.join(table.column_names)}."
        raise DataError(msg)
    others = sorted({str(value) for value in table["model_id"].unique().to_pylist()} - {model_id})
    if others:
        msg = f"the score table was scored by model_id {others[0]}, this is for {model_id}; score the images again."
        raise DataError(msg)
    present = np.stack([_flags(table[name]) for name in statistics])
    scored: npt.NDArray[np.bool_] = np.logical_and.reduce(present)
    if not np.array_equal(scored, present.any(axis=0)):
        row = int(np.argmax(scored != present.any(axis=0)))
        absent = [str(name) for name, flags in zip(statistics, present, strict=True) if not flags[row]]
        msg = f"row {row} (zero-based) of the score table lacks {', '.join(absent)} but has other scores."
        raise DataError(msg)
    columns = {name: _floats(table[name], name=name) for name in statistics}
    if threshold_by is None:
        return Scores(columns, scored, (), np.zeros(int(scored.sum()), np.int64))
    groups, group_index = _groups(table[threshold_by], scored, name=threshold_by)
    return Scores(columns, scored, groups, group_index)


def _flags(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = column.is_valid().to_numpy()
    return flags.astype(np.bool_)


def _floats(column: pa.ChunkedArray, *, name: str) -> Floats:
    if column.type != pa.float32():
        msg = f"column {name} of the score table must be float32, as the model computes it; got {column.type}."
        raise DataError(msg)
    values: Floats = column.drop_null().to_numpy()
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)]
        msg = (
            f"column {name} of the score table must be finite, or null where there is no score; "
            f"{len(bad)} values are not, the first is {bad[0]}."
        )
        raise DataError(msg)
    return values


def _groups(
    column: pa.ChunkedArray, scored: npt.NDArray[np.bool_], *, name: str
) -> tuple[list[str], npt.NDArray[np.int64]]:
    chosen = column.filter(pa.array(scored))
    if chosen.null_count:
        msg = f"{chosen.null_count} scored rows have no {name}, by which thresholds are divided; give them one."
        raise DataError(msg)
    try:
        encoded: Any = pc.cast(chosen, pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowException as error:
        msg = f"column {name} ({chosen.type}) cannot name groups: {' '.join(str(error).split())}."
        raise DataError(msg) from error
    if isinstance(encoded, pa.ChunkedArray):  # an empty table
        return [], np.zeros(0, np.int64)
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
