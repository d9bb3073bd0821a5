"""Decisions on scores, and what share of the normals themselves a rule calls anomalous."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feclip.calibration.levels import Variant
from feclip.calibration.options import Rule, Statistic, StatisticOptions
from feclip.calibration.record import Calibration, Decision, GroupCalibration, Observed
from feclip.calibration.table import Scores, read_scores
from feclip.errors import DataError

__all__ = ["AlarmKey", "count_observed", "decide", "decision_margins", "with_observed"]

AlarmKey = tuple[str | None, Rule | None, str, Variant | None]
"""Group (None for all), rule, percentile, variant; without rule and variant the images of the group."""

ROW_KEYS = ("row_id", "uri")

Flags = npt.NDArray[np.bool_]


def decide(table: pa.Table, calibration: Calibration, *, statistic_options: StatisticOptions) -> pa.Table:
    """Decide on every row of a score table.

    Args:
        table: M rows with ``model_id``, the statistics that the rule reads, and the column of the groups if the
            calibration has any; null scores where an image could not be read.
        calibration: Thresholds and normalisation.
        statistic_options: What the map's statistics of the table were computed with.

    Returns:
        M rows in the same order: ``row_id`` and ``uri`` where the table has them, ``<statistic>_normalized`` (float64)
        for each statistic that the table has, and ``pred_label`` (bool, true is anomalous); null where there is no
        score.

    Raises:
        DataError: If the scores are of another model or of other statistics, a column is missing, or calibration
            never saw a group and has no fallback.
    """
    calibration.require_statistics(statistic_options)
    decision = calibration.decision
    present = [name for name in Statistic if name in table.column_names or name in decision.statistics]
    scores = read_scores(
        table, model_id=calibration.model_id, threshold_by=calibration.threshold_by, statistics=present
    )
    _require_known(scores, calibration)
    names: list[str | None] = [None] if calibration.threshold_by is None else list(scores.groups)
    groups = [calibration.group(name) for name in names]
    columns = {name: table[name] for name in ROW_KEYS if name in table.column_names}
    for statistic in present:
        center = np.array([group.statistics[statistic].center for group in groups])[scores.group_index]
        scale = np.array([group.statistics[statistic].scale for group in groups])[scores.group_index]
        normalized = (scores.columns[statistic].astype(np.float64) - center) / scale
        columns[f"{statistic}_normalized"] = _spread(normalized, scores.scored)
    columns["pred_label"] = _spread(_margins(scores, calibration, names) > 0, scores.scored)
    return pa.table(columns)


def decision_margins(
    table: pa.Table, calibration: Calibration, *, statistic_options: StatisticOptions
) -> npt.NDArray[np.float64]:
    """Return how far beyond its threshold each image lies: above 0 exactly where :func:`decide` says anomalous.

    A rule that reads two statistics has the larger of their two distances under ``either``, the smaller under ``both``.

    Args:
        table: M rows as for :func:`decide`.
        calibration: Thresholds.
        statistic_options: As for :func:`decide`.

    Returns:
        ``(M,)``, logits; NaN where there is no score.

    Raises:
        DataError: As :func:`decide`.
    """
    calibration.require_statistics(statistic_options)
    scores = read_scores(
        table,
        model_id=calibration.model_id,
        threshold_by=calibration.threshold_by,
        statistics=calibration.decision.statistics,
    )
    _require_known(scores, calibration)
    names: list[str | None] = [None] if calibration.threshold_by is None else list(scores.groups)
    margins = np.full(len(scores.scored), np.nan)
    margins[scores.scored] = _margins(scores, calibration, names)
    return margins


def count_observed(table: pa.Table, calibration: Calibration) -> Counter[AlarmKey]:
    """Count for one part of the normals how many each rule calls anomalous: the third pass; the counters add up.

    Every normal with a score counts, those that were trimmed too.

    Args:
        table: Part of the rows that the calibration was fitted on.
        calibration: From :func:`feclip.calibration.fit`.

    Raises:
        DataError: As :func:`decide`.
    """
    scores = read_scores(table, model_id=calibration.model_id, threshold_by=calibration.threshold_by)
    _require_known(scores, calibration)
    counted: Counter[AlarmKey] = Counter()
    names: set[str | None] = set(scores.groups)
    for name in names if calibration.overall is None else names | {None}:
        part, group = scores.of_group(name), calibration.group(name)
        counted[name, None, "", None] += part.num
        for decision in _decisions(calibration, group):
            level = (decision.threshold_percentile, decision.variant)
            exceeded = {}
            for statistic in decision.statistics:
                threshold = group.statistics[statistic].find(*level)
                assert threshold is not None
                exceeded[statistic] = part.columns[statistic] > np.float32(threshold.value)
            alarms = int(_apply(decision, exceeded).sum())
            counted[name, decision.rule, decision.percentile, decision.variant] += alarms
    return counted


def with_observed(calibration: Calibration, counted: Mapping[AlarmKey, int]) -> Calibration:
    """Return the calibration with what its rules call anomalous among its own normals.

    Args:
        calibration: From :func:`feclip.calibration.fit`.
        counted: Sum of :func:`count_observed` over all parts.

    Raises:
        DataError: If the parts are not the normals it was fitted on.
    """

    def filled(name: str | None, group: GroupCalibration) -> GroupCalibration:
        num = counted.get((name, None, "", None), 0)
        if num != group.num_normals:
            msg = f"{num} normals of group {name!r} were counted, but {group.num_normals} were calibrated; count those."
            raise DataError(msg)
        observed = tuple(
            Observed(
                rule=decision.rule,
                percentile=decision.percentile,
                variant=decision.variant,
                num_alarms=counted[name, decision.rule, decision.percentile, decision.variant],
            )
            for decision in _decisions(calibration, group)
        )
        return dataclasses.replace(group, observed=observed)

    return dataclasses.replace(
        calibration,
        groups={name: filled(name, group) for name, group in calibration.groups.items()},
        overall=None if calibration.overall is None else filled(None, calibration.overall),
    )


def _decisions(calibration: Calibration, group: GroupCalibration) -> list[Decision]:
    """Return every decision that a group has thresholds for, with the calibration's pixel statistic."""
    decisions = (
        Decision(
            rule=rule,
            percentile=percentile,
            variant=variant,
            pixel_statistic=calibration.decision.pixel_statistic,
        )
        for percentile, variant, rule in product(calibration.percentiles, Variant, Rule)
    )
    fitted = group.statistics[Statistic.image_logit]
    return [item for item in decisions if fitted.find(item.threshold_percentile, item.variant) is not None]


def _margins(scores: Scores, calibration: Calibration, names: Sequence[str | None]) -> npt.NDArray[np.float64]:
    """Return ``(N,)`` score minus threshold; the sign of a float64 difference of two float32 numbers is exact."""
    decision = calibration.decision
    distances = [
        scores.columns[statistic].astype(np.float64)
        - np.array([calibration.threshold(statistic, name) for name in names], np.float32)[scores.group_index]
        for statistic in decision.statistics
    ]
    combine = np.maximum if decision.rule is Rule.either else np.minimum
    combined: npt.NDArray[np.float64] = combine.reduce(distances)
    return combined


def _apply(decision: Decision, exceeded: Mapping[Statistic, Flags]) -> Flags:
    """Return ``(N,)`` whether the rule calls an image anomalous, from which statistics exceed their thresholds."""
    flags = [exceeded[statistic] for statistic in decision.statistics]
    combine = np.logical_or if decision.rule is Rule.either else np.logical_and
    combined: Flags = combine.reduce(flags)
    return combined


def _require_known(scores: Scores, calibration: Calibration) -> None:
    """Refuse groups that nothing was fitted for, naming them all."""
    if calibration.overall is not None:
        return
    unknown = sorted(set(scores.groups) - set(calibration.groups))
    if unknown:
        msg = (
            f"calibration never saw {calibration.threshold_by} {', '.join(map(repr, unknown))}, only "
            f"{', '.join(map(repr, sorted(calibration.groups)))}; calibrate with their normals, or with a fallback."
        )
        raise DataError(msg)


def _spread(values: npt.NDArray[np.float64] | Flags, scored: Flags) -> pa.Array:
    """Return M values of which the rows without a score are null."""
    spread = np.zeros(len(scored), values.dtype)
    spread[scored] = values
    return pa.array(spread, mask=~scored)
