"""From tables of normal scores to a calibration: exact for any division, refused where the normals do not suffice."""

import functools
import itertools
import logging
import math
import operator
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feclip.calibration import (
    CalibrationOptions,
    Detail,
    Fitted,
    Normalization,
    Rule,
    Statistic,
    StatisticOptions,
    Survey,
    Variant,
    calibrate,
    count_detail,
    count_observed,
    fit,
    plan_query,
    survey_scores,
    with_observed,
)
from feclip.errors import ConfigError, DataError

MODEL = "model-1"
STATISTICS = StatisticOptions(topk_fraction=0.01, smoothing_sigma=0)
Floats = npt.NDArray[np.float32]


def normal_scores(num: int, *, seed: int = 0, lines: Sequence[str] = ()) -> pa.Table:
    """Scores of normal images whose three statistics go together somewhat; each line has a level of its own."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=num)
    line = generator.integers(0, len(lines), num) if lines else np.zeros(num, np.int64)
    columns: dict[str, object] = {
        name: pa.array((common + generator.normal(size=num) + 5 * line - shift).astype(np.float32))
        for shift, name in enumerate(Statistic)
    }
    columns["model_id"] = [MODEL] * num
    if lines:
        columns["line"] = [lines[index] for index in line]
    return pa.table(columns)


def column(table: pa.Table, statistic: str, *, line: str | None = None) -> Floats:
    values: Floats = table[statistic].to_numpy()
    return values if line is None else values[np.array(table["line"].to_pylist()) == line]


def calibrated(table: pa.Table, **options: object) -> Fitted:
    calibration = calibrate(
        [table], model_id=MODEL, options=CalibrationOptions(**options), statistic_options=STATISTICS
    )
    assert calibration.overall is not None
    return calibration.overall.statistics[Statistic.map_max]


@pytest.mark.parametrize("num", [1, 199, 1000, 20_000])
@pytest.mark.parametrize("percentile", ["75", "99.5", "99.9"])
def test_thresholds_are_the_order_statistics_of_their_exact_ranks(num: int, percentile: str) -> None:
    table = normal_scores(num)
    calibration = calibrate(
        [table],
        model_id=MODEL,
        options=CalibrationOptions(percentiles=(percentile,), force=True),
        statistic_options=STATISTICS,
    )
    assert calibration.overall is not None
    share = Fraction(percentile) / 100
    for statistic in Statistic:
        ascending = np.sort(column(table, statistic))
        fitted = calibration.overall.statistics[statistic]
        for variant, population in ((Variant.percentile, num), (Variant.conformal, num + 1)):
            threshold = fitted.find(percentile, variant)
            assert threshold is not None
            rank = math.ceil(population * share)
            assert threshold.value == ascending[min(rank, num) - 1]
            assert threshold.short == (rank > num if variant is Variant.conformal else rank == num)
    assert (
        calibration.threshold(Statistic.image_logit)
        == np.sort(column(table, "image_logit"))[math.ceil(num * share) - 1]
    )


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 400), max_size=6),
    normalization=st.sampled_from(Normalization),
    trim_fraction=st.sampled_from([0.0, 0.03]),
    seed=st.integers(0, 3),
)
def test_any_division_gives_the_same_calibration(
    cuts: list[int], normalization: Normalization, trim_fraction: float, seed: int
) -> None:
    table = normal_scores(400, seed=seed, lines=("A", "B"))
    options = CalibrationOptions(
        percentiles=("90", "97.5"),
        rule=Rule.either,
        threshold_by="line",
        fallback=True,
        normalization=normalization,
        trim_fraction=trim_fraction,
    )
    bounds = [0, *sorted(cuts), 400]
    parts = [table.slice(start, end - start) for start, end in itertools.pairwise(bounds)]
    divided = calibrate(parts[::-1], model_id=MODEL, options=options, statistic_options=STATISTICS)
    whole = calibrate([table], model_id=MODEL, options=options, statistic_options=STATISTICS)
    assert divided == whole
    assert divided.calibration_id == whole.calibration_id


def test_the_passes_merge_by_hand_as_a_cluster_does() -> None:
    table = normal_scores(700, lines=("A", "B"))
    options = CalibrationOptions(percentiles=("95",), threshold_by="line", normalization=Normalization.zscore)
    parts = [table.slice(start, 100) for start in range(0, 700, 100)]
    survey = functools.reduce(
        Survey.merge, [survey_scores(part, model_id=MODEL, threshold_by="line") for part in parts]
    )
    query = plan_query(survey, options)
    detail = functools.reduce(Detail.merge, [count_detail(part, query) for part in parts])
    calibration = fit(survey, detail, options=options, statistic_options=STATISTICS)
    counted = functools.reduce(operator.add, [count_observed(part, calibration) for part in parts])
    assert with_observed(calibration, counted) == calibrate(
        [table], model_id=MODEL, options=options, statistic_options=STATISTICS
    )
    with pytest.raises(DataError, match=r"normals of group 'A' were counted, but \d+ were calibrated"):
        with_observed(calibration, count_observed(parts[0], calibration))


def test_normalisations_are_those_of_the_normals() -> None:
    table = normal_scores(1001)
    scores = column(table, "map_max").astype(np.float64)
    quarter, half, three_quarters = np.quantile(scores, [0.25, 0.5, 0.75], method="inverted_cdf")
    expected = {
        Normalization.none: (0, 1),
        Normalization.zscore: (scores.mean(), scores.std()),
        Normalization.minmax: (scores.min(), scores.max() - scores.min()),
        Normalization.robust: (half, three_quarters - quarter),
    }
    for normalization, (center, scale) in expected.items():
        fitted = calibrated(table, normalization=normalization)
        assert (fitted.center, fitted.scale) == pytest.approx((center, scale), rel=1e-12)
        assert fitted.normalize(scores) == pytest.approx((scores - center) / scale)
        assert fitted.thresholds == calibrated(table).thresholds


@pytest.mark.parametrize("normalization", [Normalization.zscore, Normalization.minmax, Normalization.robust])
def test_scores_without_spread_have_no_scale(normalization: Normalization) -> None:
    table = normal_scores(300)
    index = table.column_names.index("map_max")
    table = table.set_column(index, "map_max", pa.array(np.full(300, 2.5, np.float32)))
    with pytest.raises(DataError, match=r"normalization \w+ has no scale, because map_max does not vary .* \(2\.5\)"):
        calibrated(table, normalization=normalization)
    assert calibrated(table).thresholds[0].value == 2.5


def test_what_is_trimmed_is_counted_in_exact_decimals() -> None:
    options = CalibrationOptions(trim_fraction=0.29)
    assert int(100 * 0.29) == 28
    assert options.num_kept(100) == 71
    assert [options.num_kept(num) for num in (1, 3, 4)] == [1, 3, 3]
    assert CalibrationOptions().num_kept(7) == 7


@pytest.mark.parametrize("normalization", Normalization)
def test_trimming_leaves_out_the_top_for_everything(normalization: Normalization) -> None:
    table = normal_scores(1000)
    kept = np.sort(column(table, "map_max"))[: 1000 - 290]
    trimmed = calibrated(table, trim_fraction=0.29, normalization=normalization)
    part = pa.table({"model_id": [MODEL] * 710} | {str(statistic): kept for statistic in Statistic})
    expected = calibrated(part, normalization=normalization)
    assert (trimmed.center, trimmed.scale, trimmed.thresholds) == (
        expected.center,
        expected.scale,
        expected.thresholds,
    )


def test_contamination_is_warned_of_and_recorded(caplog: pytest.LogCaptureFixture) -> None:
    table = normal_scores(500)
    with caplog.at_level(logging.WARNING):
        assert calibrated(table).num_suspects == 0
    assert not caplog.records
    scores = column(table, "map_max").copy()
    scores[:15] += 14
    table = table.set_column(table.column_names.index("map_max"), "map_max", pa.array(scores))
    with caplog.at_level(logging.WARNING):
        assert calibrated(table).num_suspects == 15
    assert "the 15 highest of 500 normals (3 %) stand apart in map_max" in caplog.text
    assert calibrated(table, trim_fraction=0.03).num_suspects == 0


@pytest.mark.parametrize(
    ("num", "options", "message"),
    [
        (360, {"percentiles": ("99.9",)}, "has 360 normal images, and percentile 99.9 (percentile) needs 1000"),
        (360, {"percentiles": ("99.9",), "variant": "conformal"}, "percentile 99.9 (conformal) needs 999"),
        (198, {"variant": "conformal"}, "has 198 normal images, and percentile 99.5 (conformal) needs 199"),
        (199, {}, "has 199 normal images, and percentile 99.5 (percentile) needs 200"),
        (300, {"rule": "either"}, "percentile 99.75 (percentile, half of 99.5 for rule either) needs 400"),
        (300, {"percentiles": ("90", "99.9")}, "percentile 99.9 (percentile) needs 1000"),
        (210, {"trim_fraction": 0.1}, "has 189 normal images"),
    ],
)
def test_too_few_normals_are_refused_with_the_number_needed(num: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        calibrated(normal_scores(num), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    forced = calibrated(normal_scores(num), **options, force=True)
    assert any(threshold.short for threshold in forced.thresholds)


@pytest.mark.parametrize(("num", "variant"), [(200, "percentile"), (199, "conformal")])
def test_just_enough_normals_are_accepted(num: int, variant: str) -> None:
    fitted = calibrated(normal_scores(num), variant=variant)
    decisive = fitted.find("99.5", Variant(variant))
    assert decisive is not None
    assert decisive.rank == 199
    assert not decisive.short
    assert fitted.find("99.75", Variant(variant)) is None, "the half for rule either needs more, and was not asked for"


def test_a_forced_threshold_is_the_maximum_and_says_so() -> None:
    table = normal_scores(50)
    threshold = calibrated(table, variant=Variant.conformal, force=True).find("99.5", Variant.conformal)
    assert threshold is not None
    assert threshold.value == column(table, "map_max").max()
    assert threshold.short
    assert (threshold.rank, threshold.num_needed) == (50, 199)


def test_the_smallest_group_is_named() -> None:
    table = pa.concat_tables([normal_scores(500, lines=("A", "B")), normal_scores(5, lines=("C",))])
    with pytest.raises(DataError, match=r"^line 'C' has 5 normal images, and percentile 90 \(percentile\) needs 10"):
        calibrate(
            [table],
            model_id=MODEL,
            options=CalibrationOptions(percentiles=("90",), threshold_by="line"),
            statistic_options=STATISTICS,
        )


def test_groups_are_fitted_apart_and_the_fallback_on_all() -> None:
    table = normal_scores(800, lines=("A", "B"))
    calibration = calibrate(
        [table],
        model_id=MODEL,
        options=CalibrationOptions(percentiles=("95",), threshold_by="line", fallback=True),
        statistic_options=STATISTICS,
    )
    for line in ("A", "B", None):
        scores = column(table, "image_logit", line=line)
        rank = math.ceil(len(scores) * Fraction(95, 100))
        assert calibration.threshold(Statistic.image_logit, line) == np.sort(scores)[rank - 1]
        assert calibration.group(line).num_normals == len(scores)
    assert calibration.threshold(Statistic.image_logit, "Z") == calibration.threshold(Statistic.image_logit)


@pytest.mark.parametrize("variant", Variant)
def test_observed_alarms_are_those_of_the_rules(variant: Variant) -> None:
    table = normal_scores(1000)
    calibration = calibrate(
        [table],
        model_id=MODEL,
        options=CalibrationOptions(percentiles=("99",), rule=Rule.either, variant=variant, trim_fraction=0.01),
        statistic_options=STATISTICS,
    )
    assert calibration.overall is not None
    image, pixel = column(table, "image_logit"), column(table, "map_max")

    def threshold(statistic: str, percentile: Fraction) -> np.float32:
        population = 990 if variant is Variant.percentile else 991
        value: np.float32 = np.sort(column(table, statistic))[math.ceil(population * percentile) - 1]
        return value

    one, half = Fraction(99, 100), Fraction(995, 1000)
    expected = {
        Rule.image: image > threshold("image_logit", one),
        Rule.pixel: pixel > threshold("map_max", one),
        Rule.either: (image > threshold("image_logit", half)) | (pixel > threshold("map_max", half)),
        Rule.both: (image > threshold("image_logit", one)) & (pixel > threshold("map_max", one)),
    }
    observed = {item.rule: item.num_alarms for item in calibration.overall.observed if item.variant is variant}
    assert observed == {rule: int(flags.sum()) for rule, flags in expected.items()}
    assert observed[Rule.both] < observed[Rule.image]


@pytest.mark.parametrize("rule", Rule)
def test_each_rule_keeps_the_conformal_rate_in_the_mean(rule: Rule) -> None:
    """Over many calibration sets, further normals are called anomalous at most at the rate asked for."""
    generator = np.random.default_rng(8)
    rates = []
    for seed in range(120):
        calibration = calibrate(
            [normal_scores(79, seed=seed)],
            model_id=MODEL,
            options=CalibrationOptions(percentiles=("95",), rule=rule, variant=Variant.conformal),
            statistic_options=STATISTICS,
        )
        counted = count_observed(normal_scores(400, seed=int(generator.integers(1000, 10**9))), calibration)
        rates.append(counted[None, rule, "95", Variant.conformal] / 400)
    error = np.std(rates) / math.sqrt(len(rates))
    assert np.mean(rates) <= 0.05 + 3 * error
    if rule in {Rule.image, Rule.pixel}:
        assert np.mean(rates) == pytest.approx(4 / 80, abs=3 * error)


def test_images_without_scores_are_counted_and_left_out() -> None:
    table = normal_scores(300)
    gap = {name: pa.array([None] * 4, pa.float32()) for name in Statistic}
    unread = pa.table({str(name): values for name, values in gap.items()} | {"model_id": [MODEL] * 4})
    options = CalibrationOptions()
    with_gap = calibrate(
        [unread.slice(1), table, unread.slice(3)], model_id=MODEL, options=options, statistic_options=STATISTICS
    )
    without = calibrate([table], model_id=MODEL, options=options, statistic_options=STATISTICS)
    assert with_gap.num_unscored == 4
    assert with_gap.overall == without.overall
    with pytest.raises(DataError, match=r"^there is no normal image with a score \(4 without\)"):
        calibrate([unread], model_id=MODEL, options=options, statistic_options=STATISTICS)


def replaced(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.drop_columns(["map_max"]), "the score table has no column map_max"),
        (lambda table: replaced(table, "model_id", pa.array([MODEL] * 299 + ["other"])), "scored by model_id other"),
        (
            lambda table: replaced(table, "map_max", table["map_max"].cast(pa.float64())),
            "column map_max of the score table must be float32, as the model computes it; got double",
        ),
        (
            lambda table: replaced(table, "map_max", pa.array([math.nan, *[1.0] * 298, math.inf], pa.float32())),
            "2 values are not, the first is nan",
        ),
        (
            lambda table: replaced(table, "map_max", pa.array([1.0, None, *[1.0] * 298], pa.float32())),
            "row 1 (zero-based) of the score table lacks map_max but has other scores",
        ),
        (
            lambda table: replaced(table, "line", pa.array([None] * 2 + ["A"] * 298)),
            "2 scored rows have no line, by which thresholds are divided",
        ),
        (
            lambda table: replaced(table, "line", pa.array([["A"]] * 300)),
            "column line (list<item: string>) cannot name groups",
        ),
    ],
)
def test_a_table_that_is_none_is_refused(damage: object, message: str) -> None:
    assert callable(damage)
    table = damage(normal_scores(300, lines=("A",)))
    with pytest.raises(DataError) as caught:
        survey_scores(table, model_id=MODEL, threshold_by="line")
    assert message in str(caught.value)


def test_whole_numbers_name_groups_too() -> None:
    table = normal_scores(300, lines=("A",))
    table = replaced(table, "line", pa.array([7] * 300))
    assert {group for group, _ in survey_scores(table, model_id=MODEL, threshold_by="line").bins} == {"7"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percentiles": ()}, "percentiles must be one or more different numbers"),
        ({"percentiles": (99.5, "99.50")}, "percentiles must be one or more different numbers"),
        ({"percentiles": (100,)}, "percentiles must be a decimal above 0 and below 100"),
        ({"variant": "median"}, "variant must be one of percentile, conformal, got 'median'"),
        ({"rule": "any"}, "rule must be one of image, pixel, either, both, got 'any'"),
        ({"normalization": "softmax"}, "normalization must be one of none, zscore, minmax, robust"),
        ({"pixel_statistic": "image_logit"}, "pixel_statistic must be map_max or map_topk_mean"),
        ({"trim_fraction": 0.5}, "trim_fraction must be at least 0 and below 0.5, got 0.5"),
        ({"trim_fraction": math.nan}, "trim_fraction must be"),
        ({"fallback": True}, "fallback needs threshold_by"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CalibrationOptions(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize("options", [(0, 0), (1.5, 0), (math.nan, 0), (0.1, -1), (0.1, math.inf)])
def test_statistic_options_out_of_range_are_refused(options: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        StatisticOptions(topk_fraction=options[0], smoothing_sigma=options[1])
