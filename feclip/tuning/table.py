"""The table of a sweep's trials, and the trial that won."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from feclip.config import SweepConfig
from feclip.tuning.objective import IMAGE_METRIC, OBJECTIVE, PIXEL_METRIC, objective
from feclip.tuning.record import TrialRecord, TrialStatus
from feclip.tuning.space import Dimension, Kind, SearchSpace

__all__ = ["best_trial", "final_objective", "trials_table"]


def final_objective(record: TrialRecord, *, options: SweepConfig) -> float | None:
    """Return the objective of a trial's last finished epoch; None without one."""
    return objective(record.epochs[-1], weights=options) if record.epochs else None


def best_trial(records: Iterable[TrialRecord], *, options: SweepConfig) -> TrialRecord | None:
    """Return the trial with the largest objective after its last epoch, the earlier one of two equal ones.

    Only trials that were trained to the end compete: what a stopped one would have become is not known.
    """
    done = [
        (value, record)
        for record in records
        if record.status is TrialStatus.done and (value := final_objective(record, options=options)) is not None
    ]
    return max(done, key=lambda pair: (pair[0], -pair[1].number))[1] if done else None


def trials_table(space: SearchSpace, records: Sequence[TrialRecord], *, options: SweepConfig) -> pa.Table:
    """Return one row per trial.

    Returns:
        ``trial`` (from one), a column per searched field in its own type, ``objective``, ``image_auroc`` and ``aupro``
        after the last finished epoch (0..1, null where not measured), ``epochs`` (finished), ``seconds``, ``attempts``
        (times a worker began or went on with it), ``status`` (running, done, stopped, failed) and ``error``.
    """
    last = [record.epochs[-1] if record.epochs else {} for record in records]
    columns: dict[str, pa.Array] = {"trial": pa.array([record.number for record in records], pa.int64())}
    for dimension in space.dimensions:
        values = [record.values.get(dimension.field) for record in records]
        columns[dimension.field] = _typed(values, dimension=dimension)
    columns |= {
        OBJECTIVE: pa.array([final_objective(record, options=options) for record in records], pa.float64()),
        IMAGE_METRIC: pa.array([metrics.get(IMAGE_METRIC) for metrics in last], pa.float64()),
        PIXEL_METRIC: pa.array([metrics.get(PIXEL_METRIC) for metrics in last], pa.float64()),
        "epochs": pa.array([len(record.epochs) for record in records], pa.int64()),
        "seconds": pa.array([record.seconds for record in records], pa.float64()),
        "attempts": pa.array([len(record.starts) for record in records], pa.int64()),
        "status": pa.array([str(record.status) for record in records], pa.string()),
        "error": pa.array([record.error for record in records], pa.string()),
    }
    return pa.table(columns)


def _typed(values: list[Any], *, dimension: Dimension) -> pa.Array:
    """Return a column in the narrowest type that holds every value of the field; mixed ones become text."""
    kinds = {type(value) for value in dimension.values}
    if dimension.kind in {Kind.uniform, Kind.loguniform} or (kinds <= {int, float} and float in kinds):
        return pa.array(values, pa.float64())
    for kind, column in ((bool, pa.bool_()), (int, pa.int64())):
        if kinds == {kind}:
            return pa.array(values, column)
    return pa.array([None if value is None else str(value) for value in values], pa.string())
