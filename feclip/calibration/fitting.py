"""From the counts of normal scores to a calibration."""

import logging

from feclip.calibration.counts import Counts, ExactSums, score_at
from feclip.calibration.levels import num_needed, rank_of, rate_interval
from feclip.calibration.normals import Cell, Detail, Survey, fitted_levels, normalization_ranks
from feclip.calibration.options import CalibrationOptions, Normalization, Statistic, StatisticOptions
from feclip.calibration.record import Calibration, Decision, Fitted, GroupCalibration, Threshold
from feclip.calibration.tail import count_suspects
from feclip.errors import DataError

__all__ = ["fit"]

logger = logging.getLogger(__name__)


def fit(
    survey: Survey, detail: Detail, *, options: CalibrationOptions, statistic_options: StatisticOptions
) -> Calibration:
    """Fit thresholds and normalisation to normal scores.

    Everything is exact and the same for any division of the scores: thresholds, minima, medians and quartiles are
    scores of the sample, means and deviations come from exact sums; only the ends of the intervals are computed.
    A warning is logged for each group and statistic whose upper tail holds something else.

    Args:
        survey: First pass over all normals.
        detail: Second pass over the same rows, with the query planned from the survey and the same options.
        options: What to fit.
        statistic_options: What the map's statistics were computed with.

    Returns:
        The calibration, ``observed`` still empty: see :func:`feclip.calibration.with_observed`.

    Raises:
        DataError: If there are no normals, a group has too few for a percentile and it is not forced, or a
            normalisation has no scale because the scores are all equal.
    """
    assert survey.threshold_by == options.threshold_by, "survey and options divide the normals differently"
    cells = survey.cells(options)
    nums = {group: bins.total for (group, _), bins in cells.items()}
    if not options.force:
        _require_enough({group: options.num_kept(num) for group, num in nums.items()}, options)
    groups = {
        group: GroupCalibration(
            num_normals=num,
            num_kept=options.num_kept(num),
            statistics={
                statistic: _fit_cell((group, statistic), bins=cells[group, statistic], detail=detail, options=options)
                for statistic in Statistic
            },
        )
        for group, num in nums.items()
    }
    overall = groups.pop(None, None)
    return Calibration(
        model_id=survey.model_id,
        statistic_options=statistic_options,
        percentiles=options.percentiles,
        decision=Decision(
            rule=options.rule,
            percentile=options.percentiles[0],
            variant=options.variant,
            pixel_statistic=options.pixel_statistic,
        ),
        normalization=options.normalization,
        trim_fraction=float(options.trim_fraction),
        forced=options.force,
        num_unscored=survey.num_unscored,
        threshold_by=options.threshold_by,
        groups={name: group for name, group in groups.items() if name is not None},
        overall=overall,
    )


def _require_enough(nums: dict[str | None, int], options: CalibrationOptions) -> None:
    """Refuse too few normals, naming the smallest group and the hardest percentile."""
    group, num = min(nums.items(), key=lambda item: item[1])
    required = [(percentile, variant) for percentile, variant, is_required in options.levels() if is_required]
    percentile, variant = max(required, key=lambda level: num_needed(*level))
    needed = num_needed(percentile, variant)
    if num >= needed:
        return
    where = _name(group, options)
    few = sum(other < needed for other in nums.values())
    others = f" (and {few - 1} other groups have too few)" if few > 1 else ""
    half = f", half of {options.percentiles[0]} for rule either" if percentile not in options.percentiles else ""
    msg = (
        f"{where} has {num} normal images, and percentile {percentile} ({variant}{half}) needs {needed}{others}; "
        "give more normal images, ask for a lower percentile, or force their maximum as the threshold."
    )
    raise DataError(msg)


def _fit_cell(cell: Cell, *, bins: Counts, detail: Detail, options: CalibrationOptions) -> Fitted:
    """Fit one statistic of one group."""
    num = options.num_kept(bins.total)
    keys = detail.keys[cell]
    center, scale = _center_and_scale(cell, bins=bins, detail=detail, options=options)
    if scale <= 0:
        msg = (
            f"{_name(cell[0], options)}: normalization {options.normalization} has no scale, because {cell[1]} does "
            f"not vary among the {num} normals ({center}); use normalization none."
        )
        raise DataError(msg)
    suspects = count_suspects(bins.first(num))
    if suspects:
        logger.warning(
            "%s: the %d highest of %d normals (%.2g %%) stand apart in %s: anomalies among them, or a population that "
            "threshold_by should divide; look at them, or set trim_fraction",
            _name(cell[0], options),
            suspects,
            num,
            100 * suspects / num,
            cell[1],
        )
    return Fitted(
        center=center,
        scale=scale,
        num_suspects=suspects,
        thresholds=tuple(
            Threshold(
                percentile=percentile,
                variant=variant,
                rank=rank,
                value=float(score_at(rank, bins=bins, keys=keys)),
                rate_interval=rate_interval(num, rank),
                short=num < num_needed(percentile, variant),
            )
            for percentile, variant, _ in fitted_levels(num, options)
            for rank in [rank_of(num, percentile, variant)]
        ),
    )


def _center_and_scale(cell: Cell, *, bins: Counts, detail: Detail, options: CalibrationOptions) -> tuple[float, float]:
    num, keys = options.num_kept(bins.total), detail.keys[cell]
    if options.normalization is Normalization.none:
        return 0.0, 1.0
    if options.normalization is Normalization.zscore:
        last, below = bins.find(num)
        sums = detail.sums[cell].merge(ExactSums.of(keys.in_bin(last).first(num - below)))
        assert sums.num == num, f"{sums.num} scores summed of {num}: the second pass saw other rows"
        return sums.mean, sums.deviation
    ranks = normalization_ranks(num, options.normalization)
    low, *middle, high = (float(score_at(rank, bins=bins, keys=keys)) for rank in ranks)
    return (middle[0] if middle else low), high - low


def _name(group: str | None, options: CalibrationOptions) -> str:
    return "the set of all normals" if group is None else f"{options.threshold_by} {group!r}"
