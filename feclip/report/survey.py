"""One pass over a score table: counts by group and date, errors, and the rows to show; its size does not grow."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feclip.calibration import AlarmKey, Calibration, Statistic, count_observed, score_columns
from feclip.config import ReportConfig
from feclip.errors import DataError
from feclip.progress import Progress
from feclip.report.counting import NO_VALUE, NUM_BINS, Cube, Grid
from feclip.report.opened import ScoredTable, partition_values, statistic_values
from feclip.report.selection import TopRows, random_priorities
from feclip.score_table import ANOMALOUS_LABELS

__all__ = ["EXAMPLES_PER_KIND", "Survey", "count_normals", "num_normals", "survey_table"]

EXAMPLES_PER_KIND = 3
SLICES_OF_SAMPLE = 32
LABEL_COLUMN = "label"  # of a manifest
_COLUMNS = ("row_id", *map(str, Statistic), "error_kind")


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What a report says of a table."""

    cube: Cube
    """Distances to the threshold, by group and date."""
    statistics: Mapping[Statistic, tuple[Grid, npt.NDArray[np.int64]]]
    """Each statistic's grid and counts."""
    errors: Mapping[str, int]
    """Images without a score, by kind."""
    examples: Mapping[str, list[int]]
    """The first rows of each kind."""
    galleries: Mapping[str, list[int]]
    """Rows to show: the highest, those nearest to the threshold, a random sample; with labels also the lowest of the
    anomalous and the highest of the normal ones."""
    alarms: Counter[AlarmKey]
    """What every rule calls anomalous; counted where no scores of normals are at hand."""


def survey_table(
    table: ScoredTable, *, config: ReportConfig, group_column: str | None, count_alarms: bool = False
) -> Survey:
    """Read a table once.

    Args:
        table: The table.
        config: How many rows to show, the seed, and the column of dates.
        group_column: Column of the groups.
        count_alarms: Whether to count for every rule and percentile what it calls anomalous.

    Raises:
        FeclipError: If a slice cannot be read, or the thresholds do not fit it.
    """
    margin_grid, grids = _grids(table)
    cube, statistics = Cube(margin_grid), _empty(grids)
    errors, examples = Counter[str](), dict[str, list[int]]()
    alarms = Counter[AlarmKey]()
    is_labelled = LABEL_COLUMN in table.partitions
    names = ["highest", "nearest", "random", *(["missed", "false_alarms"] if is_labelled else [])]
    galleries = {name: TopRows(config.num_shown) for name in names}
    with Progress("Reading", table.run.num_rows, unit="rows") as progress:
        for batch in table.batches(columns=_COLUMNS):
            row_ids, margins = batch["row_id"].to_numpy(), table.margins(batch)
            groups = partition_values(batch, group_column, missing=NO_VALUE)
            cube.add(groups, partition_values(batch, config.date_column, missing=NO_VALUE), margins)
            _count_statistics(batch, statistics)
            failed = batch.select(["row_id", "error_kind"]).filter(pc.is_valid(batch["error_kind"]))
            for row_id, kind in zip(*failed.to_pydict().values(), strict=True):
                errors[kind] += 1
                examples[kind] = [*examples.get(kind, []), row_id][:EXAMPLES_PER_KIND]
            priorities = random_priorities(len(batch), seed=config.seed, first_row_id=int(row_ids[0]))
            galleries["highest"].offer(row_ids, margins)
            galleries["nearest"].offer(row_ids, -np.abs(margins))
            galleries["random"].offer(row_ids, np.where(np.isnan(margins), np.nan, priorities))
            if is_labelled:
                labels = np.char.lower(partition_values(batch, LABEL_COLUMN, missing="").astype(str))
                is_anomalous = np.isin(labels, ANOMALOUS_LABELS)
                galleries["missed"].offer(row_ids, np.where(is_anomalous, -margins, np.nan))
                galleries["false_alarms"].offer(row_ids, np.where(is_anomalous | (labels == ""), np.nan, margins))
            if count_alarms and table.calibration is not None:
                alarms += _alarms(batch, table.calibration)
            progress.advance(len(batch))
    return Survey(
        cube=cube,
        statistics=statistics,
        errors=errors,
        examples=examples,
        galleries={name: rows.row_ids() for name, rows in galleries.items()},
        alarms=alarms,
    )


def count_normals(normals: ScoredTable, survey: Survey) -> tuple[Cube, dict[Statistic, npt.NDArray[np.int64]]]:
    """Count the normals of a calibration on the grids of a survey: distances by group, and each statistic.

    Raises:
        FeclipError: If a slice cannot be read, the thresholds do not fit it, or they were fitted on others.
    """
    assert normals.calibration is not None
    cube = Cube(survey.cube.grid)
    statistics = _empty({statistic: grid for statistic, (grid, _) in survey.statistics.items()})
    for batch in normals.batches(columns=score_columns(None)):
        groups = partition_values(batch, normals.calibration.threshold_by, missing=NO_VALUE)
        cube.add(groups, np.full(len(batch), NO_VALUE, object), normals.margins(batch))
        _count_statistics(batch, statistics)
    found, wanted = int(cube.total().sum()), num_normals(normals.calibration)
    if found != wanted:
        msg = (
            f"{normals.run.output} holds {found} scored images, and the thresholds were fitted on {wanted} normals; "
            "give normals, the score table of those."
        )
        raise DataError(msg)
    return cube, {statistic: counts for statistic, (_, counts) in statistics.items()}


def num_normals(calibration: Calibration) -> int:
    """Return how many normal images a calibration was fitted on."""
    groups = [*calibration.groups.values()] if calibration.overall is None else [calibration.overall]
    return sum(group.num_normals for group in groups)


def _empty(grids: Mapping[Statistic, Grid]) -> dict[Statistic, tuple[Grid, npt.NDArray[np.int64]]]:
    return {statistic: (grid, np.zeros(NUM_BINS, np.int64)) for statistic, grid in grids.items()}


def _count_statistics(batch: pa.Table, statistics: Mapping[Statistic, tuple[Grid, npt.NDArray[np.int64]]]) -> None:
    for statistic, (grid, counts) in statistics.items():
        values = statistic_values(batch, statistic)
        np.add(counts, np.bincount(grid.bins(values[np.isfinite(values)]), minlength=NUM_BINS), out=counts)


def _grids(table: ScoredTable) -> tuple[Grid, dict[Statistic, Grid]]:
    """Return the grid of the distances and those of the statistics, from some slices of the whole table."""
    num = table.run.num_slices
    chosen = sorted({index * num // SLICES_OF_SAMPLE for index in range(SLICES_OF_SAMPLE)})
    sample = pa.concat_tables(list(table.batches(chosen, columns=score_columns(None))), promote_options="permissive")
    margins = table.margins(sample)
    margin_grid = Grid.fitted(margins[np.isfinite(margins)], origin=0.0)
    grids = {}
    for statistic in Statistic:
        values = statistic_values(sample, statistic)
        values = values[np.isfinite(values)]
        grids[statistic] = Grid.fitted(values, origin=_origin(table.calibration, statistic, values))
    return margin_grid, grids


def _origin(calibration: Calibration | None, statistic: Statistic, values: npt.NDArray[np.float64]) -> float:
    """Return the threshold of a statistic if it has a single one, else the middle of its values."""
    if calibration is not None and calibration.threshold_by is None and statistic in calibration.decision.statistics:
        return calibration.threshold(statistic)
    return float(np.median(values)) if values.size else 0.0


def _alarms(batch: pa.Table, calibration: Calibration) -> Counter[AlarmKey]:
    """Count what every rule calls anomalous, for the groups of the calibration."""
    known = {None} if calibration.threshold_by is None else {*calibration.groups}
    return Counter({key: num for key, num in count_observed(batch, calibration).items() if key[0] in known})
