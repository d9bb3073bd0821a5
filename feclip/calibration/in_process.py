"""A calibration in one process."""

import functools
import operator
from collections.abc import Sequence

import pyarrow as pa

from feclip.calibration.deciding import count_observed, with_observed
from feclip.calibration.fitting import fit
from feclip.calibration.normals import Detail, Survey, count_detail, plan_query, survey_scores
from feclip.calibration.options import CalibrationOptions, StatisticOptions
from feclip.calibration.record import Calibration

__all__ = ["calibrate"]


def calibrate(
    parts: Sequence[pa.Table], *, model_id: str, options: CalibrationOptions, statistic_options: StatisticOptions
) -> Calibration:
    """Calibrate on normal scores that are at hand in parts; how they are divided changes nothing.

    Args:
        parts: One or more tables of normal scores, see :func:`feclip.calibration.survey_scores`.
        model_id: The model that must have scored them.
        options: What to fit.
        statistic_options: What the map's statistics were computed with.

    Raises:
        DataError: As :func:`feclip.calibration.fit`, or if a part is no table of scores of that model.

    Example:
        >>> scores = pa.array(range(1000), pa.float32())
        >>> columns = {"image_logit": scores, "map_max": scores, "map_topk_mean": scores}
        >>> calibration = calibrate(
        ...     [pa.table(columns | {"model_id": ["m"] * 1000})],
        ...     model_id="m",
        ...     options=CalibrationOptions(percentiles=("99.9",)),
        ...     statistic_options=StatisticOptions(topk_fraction=0.01, smoothing_sigma=0),
        ... )
        >>> calibration.threshold("image_logit")  # the second largest
        998.0
    """
    surveys = [survey_scores(part, model_id=model_id, threshold_by=options.threshold_by) for part in parts]
    survey = functools.reduce(Survey.merge, surveys)
    query = plan_query(survey, options)
    detail = functools.reduce(Detail.merge, (count_detail(part, query) for part in parts))
    calibration = fit(survey, detail, options=options, statistic_options=statistic_options)
    counted = functools.reduce(operator.add, (count_observed(part, calibration) for part in parts))
    return with_observed(calibration, counted)
