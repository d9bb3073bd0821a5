"""Thresholds and score normalisation from normal scores, and decisions by them: mathematics, no ray and no files.

    survey = survey_scores(part, ...).merge(...)     first pass over the normals, in any division
    query = plan_query(survey, options)
    detail = count_detail(part, query).merge(...)    second pass
    calibration = fit(survey, detail, options=options, statistic_options=...)
    calibration = with_observed(calibration, count_observed(part, calibration) + ...)    third pass
    decisions = decide(scores, calibration, statistic_options=...)

:func:`calibrate` does the first five for parts that one process can read three times.
"""

from feclip.calibration.deciding import AlarmKey, count_observed, decide, decision_margins, with_observed
from feclip.calibration.fitting import fit
from feclip.calibration.in_process import calibrate
from feclip.calibration.levels import Variant, num_needed, parse_percentile, rank_of, rate_interval
from feclip.calibration.normals import Detail, Query, Survey, count_detail, plan_query, survey_scores
from feclip.calibration.options import CalibrationOptions, Normalization, Percentiles, Rule, Statistic, StatisticOptions
from feclip.calibration.reading import read_calibration
from feclip.calibration.record import Calibration, Decision, Fitted, GroupCalibration, Observed, Threshold
from feclip.calibration.table import score_columns

__all__ = [
    "AlarmKey",
    "Calibration",
    "CalibrationOptions",
    "Decision",
    "Detail",
    "Fitted",
    "GroupCalibration",
    "Normalization",
    "Observed",
    "Percentiles",
    "Query",
    "Rule",
    "Statistic",
    "StatisticOptions",
    "Survey",
    "Threshold",
    "Variant",
    "calibrate",
    "count_detail",
    "count_observed",
    "decide",
    "decision_margins",
    "fit",
    "num_needed",
    "parse_percentile",
    "plan_query",
    "rank_of",
    "rate_interval",
    "read_calibration",
    "score_columns",
    "survey_scores",
    "with_observed",
]
