"""The score table that a report is made of, with the bundle that scored it and what decides: read in batches.

Letters: M rows of a batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feclip.archive import NORMALS_FOLDER, Run, find_run, finished_run, read_scores
from feclip.bundle import Bundle, read_bundle
from feclip.calibration import Calibration, Statistic, decision_margins
from feclip.config import ReportConfig
from feclip.data import absolute_uri, join_uri, prefetched
from feclip.errors import BundleError, ConfigError, DataError
from feclip.score_table import SCORE_SCHEMA

__all__ = ["ScoredTable", "partition_values", "statistic_values"]

ROWS_OF_BATCH = 8192


@dataclass(frozen=True, kw_only=True)
class ScoredTable:
    """A finished score table."""

    run: Run
    bundle: Bundle
    calibration: Calibration | None
    """What decides; None where the bundle has no thresholds, and then image_logit stands for the distance."""
    partitions: tuple[str, ...]
    """Columns that the archive's paths or its manifest brought."""
    num_readers: int
    """Threads that read slices ahead."""

    @classmethod
    def opened(cls, config: ReportConfig) -> Self:
        """Open a table and check that it and its bundle belong together.

        Raises:
            FeclipError: If the table is not finished, or the bundle did not score it or has not what is asked for.
        """
        assert config.scores is not None
        bundle = read_bundle(absolute_uri(config.bundle))
        calibration = bundle.calibration
        chosen = {"rule": config.rule, "percentile": config.percentile, "variant": config.variant}
        if calibration is not None:
            calibration = calibration.with_decision(**chosen)
        elif any(value is not None for value in chosen.values()):
            msg = f"{config.bundle} has no thresholds to choose among; calibrate it with jobs/calibrate.py first."
            raise BundleError(msg)
        run = finished_run(absolute_uri(config.scores), model_id=bundle.model_id)
        if calibration is not None:
            calibration.require_statistics(run.statistic_options)
        names = read_scores(run, 0).column_names
        partitions = tuple(name for name in names if name not in SCORE_SCHEMA.names)
        return cls(
            run=run, bundle=bundle, calibration=calibration, partitions=partitions, num_readers=config.num_readers
        )

    def normals(self, config: ReportConfig) -> Self | None:
        """Open the scores of the normals that the thresholds were fitted on; None where they are not at hand.

        Raises:
            FeclipError: If they were named, or stand with the bundle, and are not those.
        """
        if self.calibration is None:
            if config.normals is not None:
                msg = f"normals are compared with thresholds, and {config.bundle} has none; calibrate it first."
                raise ConfigError(msg)
            return None
        beside = join_uri(self.bundle.uri, NORMALS_FOLDER)
        uri = beside if config.normals is None else absolute_uri(config.normals)
        if config.normals is None and find_run(beside) is None:
            return None
        run = finished_run(uri, model_id=self.bundle.model_id)
        self.calibration.require_statistics(run.statistic_options)
        return type(self)(
            run=run,
            bundle=self.bundle,
            calibration=self.calibration,
            partitions=tuple(name for name in read_scores(run, 0).column_names if name not in SCORE_SCHEMA.names),
            num_readers=self.num_readers,
        )

    def group_column(self, asked: str | None, *, date_column: str) -> str | None:
        """Return the column of the groups: the one asked for, that of the thresholds, or the first of the paths.

        Raises:
            ConfigError: If the one asked for is no partition.
        """
        if asked is not None:
            if asked not in self.partitions:
                known = ", ".join(self.partitions) or "none"
                msg = f"group_by must be a column of the archive's folders or its manifest ({known}), got {asked!r}."
                raise ConfigError(msg)
            return asked
        if self.calibration is not None and self.calibration.threshold_by is not None:
            return self.calibration.threshold_by
        return next((name for name in self.partitions if name != date_column), None)

    def batches(self, slices: Sequence[int] | None = None, *, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read the table in batches of about 8,192 rows, with ``row_id``, ``model_id`` and the partitions.

        Args:
            slices: Zero-based; None for all.
            columns: Further columns; what the table lacks is left out.

        Raises:
            RunError: If a slice is damaged.
            StorageError: If one cannot be read.
        """
        wanted = list(dict.fromkeys([*columns, "model_id", *self.partitions]))
        chosen = range(self.run.num_slices) if slices is None else slices
        size = max(1, ROWS_OF_BATCH // self.run.slice_size)
        parts = (chosen[start : start + size] for start in range(0, len(chosen), size))

        def read(index: int) -> pa.Table:
            return read_scores(self.run, index, columns=wanted)

        with closing(prefetched(read, parts, num_threads=self.num_readers)) as found:
            for tables in found:
                yield pa.concat_tables(tables, promote_options="permissive")

    def rows(self, row_ids: Iterable[int]) -> pa.Table:
        """Read some rows with every column, in the order of the table; each once.

        Raises:
            RunError: If a slice is damaged.
            StorageError: If one cannot be read.
        """
        by_slice: dict[int, list[int]] = {}
        for row_id in sorted({*row_ids}):
            by_slice.setdefault(row_id // self.run.slice_size, []).append(row_id)

        def read(index: int) -> pa.Table:
            first = self.run.rows_of(index).start
            return read_scores(self.run, index).take(pa.array([row_id - first for row_id in by_slice[index]]))

        chosen = list(by_slice)
        parts = (chosen[start : start + self.num_readers] for start in range(0, len(chosen), self.num_readers))
        with closing(prefetched(read, parts, num_threads=self.num_readers)) as found:
            tables = [table for part in found for table in part]
        return pa.concat_tables(tables or [read_scores(self.run, 0).slice(0, 0)], promote_options="permissive")

    def margins(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Return how far beyond its threshold each row lies, ``(M,)`` logits, NaN where it has no score.

        Raises:
            DataError: If the thresholds do not fit the rows.
        """
        if self.calibration is not None:
            return decision_margins(table, self.calibration, statistic_options=self.run.statistic_options)
        return statistic_values(table, Statistic.image_logit)


def statistic_values(table: pa.Table, statistic: Statistic) -> npt.NDArray[np.float64]:
    """Return one statistic of a batch, ``(M,)`` logits, NaN where there is no score.

    Raises:
        DataError: If the table lacks it.
    """
    if statistic not in table.column_names:
        msg = f"the score table has no column {statistic}."
        raise DataError(msg)
    values: npt.NDArray[np.float64] = pc.fill_null(pc.cast(table[statistic], pa.float64()), np.nan).to_numpy()
    return values


def partition_values(table: pa.Table, column: str | None, *, missing: str) -> npt.NDArray[np.object_]:
    """Return the texts of one partition of a batch, ``(M,)``; ``missing`` where a row has none."""
    if column is None or column not in table.column_names:
        return np.full(len(table), missing, object)
    texts = pc.fill_null(pc.cast(table[column], pa.string()), missing)
    values: npt.NDArray[np.object_] = texts.to_numpy(zero_copy_only=False)
    return values
