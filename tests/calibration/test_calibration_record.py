"""A calibration survives JSON, is named by its content, and decides."""

import copy
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feclip.calibration import (
    Calibration,
    CalibrationOptions,
    Fitted,
    Normalization,
    Rule,
    Statistic,
    StatisticOptions,
    Variant,
    calibrate,
    count_detail,
    decide,
    fit,
    plan_query,
    read_calibration,
    survey_scores,
)
from feclip.errors import BundleError, ConfigError, DataError

MODEL = "model-1"
STATISTICS = StatisticOptions(topk_fraction=0.01, smoothing_sigma=0)
ANOMALOUS = 40.0


def normal_scores(num: int, *, seed: int = 0) -> pa.Table:
    """Scores of two lines, B five logits above A."""
    generator = np.random.default_rng(seed)
    line = generator.integers(0, 2, num)
    columns: dict[str, object] = {
        str(name): pa.array((generator.normal(size=num) + 5 * line).astype(np.float32)) for name in Statistic
    }
    rows = {"row_id": range(num), "uri": [f"/{index}.png" for index in range(num)], "model_id": [MODEL] * num}
    return pa.table(columns | rows | {"line": [("A", "B")[index] for index in line]})


@pytest.fixture(scope="module")
def normals() -> pa.Table:
    return normal_scores(1200)


def calibrated(normals: pa.Table, **options: object) -> Calibration:
    defaults: dict[str, Any] = {"percentiles": ("95", "99"), "threshold_by": "line", "normalization": "zscore"}
    return calibrate(
        [normals],
        model_id=MODEL,
        options=CalibrationOptions(**(defaults | options)),
        statistic_options=STATISTICS,
    )


@pytest.fixture(scope="module")
def calibration(normals: pa.Table) -> Calibration:
    return calibrated(normals)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fallback": True, "trim_fraction": 0.02},
        {"threshold_by": None, "rule": "both"},
        {"force": True, "percentiles": ("99.99",)},
    ],
)
def test_json_gives_the_same_calibration(normals: pa.Table, options: dict[str, Any]) -> None:
    calibration = calibrated(normals, **options)
    text = json.dumps(calibration.to_json(), allow_nan=False)
    back = read_calibration(json.loads(text))
    assert back == calibration
    assert back.calibration_id == calibration.calibration_id
    canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert back.calibration_id == hashlib.sha256(canonical.encode()).hexdigest()


def test_the_id_names_the_content_and_not_the_way_it_was_written(normals: pa.Table, calibration: Calibration) -> None:
    assert calibrated(normals).calibration_id == calibration.calibration_id
    shuffled = dict(reversed(calibration.to_json().items()))
    assert read_calibration(shuffled).calibration_id == calibration.calibration_id
    others = [
        calibrated(normals, rule="pixel"),
        calibrated(normals, normalization="none"),
        calibrated(normals, percentiles=("99", "95")),
        calibrated(normals.slice(1)),
        calibration.with_decision(percentile=99),
        calibration.with_decision(variant="conformal"),
    ]
    assert len({calibration.calibration_id, *(other.calibration_id for other in others)}) == 7


def damaged(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def damage(found: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = found
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place[name]
        if value is KeyError:
            del place[last]
        else:
            place[last] = value

    return damage


THRESHOLD = "groups.A.statistics.map_max.thresholds.0"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 2, "calibration.json has schema 2; this feclip reads schema 1"),
        ("model_id", KeyError, "missing fields ['model_id'], unknown fields []"),
        ("extra", 1, "missing fields [], unknown fields ['extra']"),
        ("model_id", "", "model_id must be a text that is not empty"),
        ("forced", 1, "forced must be true or false, got 1"),
        ("num_unscored", -1, "num_unscored must be a whole number of at least 0, got -1"),
        ("num_unscored", True, "num_unscored must be a whole number of at least 0, got True"),
        ("trim_fraction", 0.5, "trim_fraction must be in [0, 0.5), got 0.5"),
        ("trim_fraction", math.nan, "trim_fraction must be a finite number in [0, 0.5), got nan"),
        ("normalization", "softmax", "normalization must be one of none, zscore, minmax, robust, got 'softmax'"),
        ("percentiles", ["95", 99], "percentiles[1] must be a percentile above 0 and below 100 as a text"),
        ("percentiles", ["95.0", "99"], "percentiles[0] must be a percentile"),
        ("percentiles", ["99"], "decision.percentile must be one of percentiles, got '95'"),
        ("percentiles", "95", "percentiles must be a list, got '95'"),
        ("decision.rule", "any", "decision: rule must be one of image, pixel, either, both, got 'any'"),
        ("decision.rule", ["image"], "decision: rule must be one of"),
        ("decision.pixel_statistic", "image_logit", "decision: pixel_statistic must be map_max or map_topk_mean"),
        ("statistic_options.topk_fraction", 0, "statistic_options: topk_fraction must be in (0, 1], got 0"),
        ("statistic_options.smoothing_sigma", -1, "statistic_options: smoothing_sigma must be at least 0, got -1"),
        ("groups", {}, "groups must be filled exactly where threshold_by names a column"),
        ("groups", [], "groups must be a JSON object, got []"),
        ("threshold_by", None, "groups must be filled exactly where threshold_by names a column"),
        ("groups.A", 3, "groups.A must be a JSON object, got int"),
        ("groups.A.num_kept", 10_000, "groups.A: num_kept must be a whole number of at least 1 and at most"),
        ("groups.A.statistics.map_max", KeyError, "groups.A: statistics must hold image_logit, map_max, map_topk_mean"),
        ("groups.A.statistics.map_max.scale", 0, "statistics.map_max: scale must be above 0, got 0"),
        ("groups.A.statistics.map_max.center", "0", "statistics.map_max: center must be a finite number in logits"),
        ("groups.A.statistics.map_max.thresholds", [], "must be complete: the decision reads 95 (percentile), got []"),
        (f"{THRESHOLD}.rank", 3, "thresholds[0]: rank must be 5"),
        (f"{THRESHOLD}.value", 0.1, "thresholds[0]: value must be a float32, got 0.1"),
        (f"{THRESHOLD}.value", 1e300, "thresholds[0]: value must be a float32, got 1e+300"),
        (f"{THRESHOLD}.short", True, "thresholds[0]: short must be whether N = "),
        (f"{THRESHOLD}.percentile", "94", "thresholds[0]: rank must be"),
        (f"{THRESHOLD}.rate_interval", [0.2, 0.1], "rate_interval must be two numbers in [0, 1], ascending"),
        (f"{THRESHOLD}.surprise", 1, "unknown fields ['surprise']"),
        ("groups.A.observed", [], "A.observed must be complete: image 95 decides, got []"),
        ("groups.A.observed.0.percentile", "94", "A.observed must be one for each rule, percentile and variant"),
        ("groups.A.observed.0.num_alarms", 10_000, "observed[0]: num_alarms must be a whole number of at least 0 and"),
    ],
)
def test_damage_is_named(calibration: Calibration, path: str, value: object, message: str) -> None:
    found = json.loads(json.dumps(calibration.to_json()))
    damaged(path, value)(found)
    with pytest.raises(BundleError) as caught:
        read_calibration(found)
    assert message in str(caught.value)
    assert str(caught.value).startswith("calibration.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("found", [None, [], "text", {}])
def test_what_is_no_calibration_at_all_is_refused(found: object) -> None:
    with pytest.raises(BundleError, match=r"^here (must be a JSON object|has schema None)"):
        read_calibration(found, where="here")


def test_a_calibration_is_not_read_before_its_own_normals_were_counted(normals: pa.Table) -> None:
    survey = survey_scores(normals, model_id=MODEL)
    options = CalibrationOptions()
    detail = count_detail(normals, plan_query(survey, options))
    calibration = fit(survey, detail, options=options, statistic_options=STATISTICS)
    assert calibration.observed() is None
    with pytest.raises(BundleError, match=r"overall\.observed must be complete"):
        read_calibration(calibration.to_json())


def test_double_entries_are_refused(calibration: Calibration) -> None:
    found = copy.deepcopy(calibration.to_json())
    thresholds = found["groups"]["B"]["statistics"]["image_logit"]["thresholds"]
    thresholds.append(thresholds[0])
    with pytest.raises(BundleError, match=r"B\.image_logit\.thresholds must be one for each percentile and variant"):
        read_calibration(found)
    found = copy.deepcopy(calibration.to_json())
    found["groups"]["B"]["observed"].append(found["groups"]["B"]["observed"][0])
    with pytest.raises(BundleError, match=r"B\.observed must be one for each rule, percentile and variant"):
        read_calibration(found)


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("variant", Variant)
def test_decisions_are_scores_above_thresholds(calibration: Calibration, rule: Rule, variant: Variant) -> None:
    chosen = calibration.with_decision(rule=rule, variant=variant)
    table = normal_scores(900, seed=9)
    decided = decide(table, chosen, statistic_options=STATISTICS)
    percentile = "97.5" if rule is Rule.either else "95"
    for row, decision in zip(table.to_pylist(), decided.to_pylist(), strict=True):
        fitted = calibration.groups[row["line"]].statistics
        exceeded = {}
        for statistic in Statistic:
            threshold = fitted[statistic].find(percentile, variant)
            assert threshold is not None
            exceeded[statistic] = row[statistic] > threshold.value
        image, pixel = exceeded[Statistic.image_logit], exceeded[Statistic.map_max]
        expected = {Rule.image: image, Rule.pixel: pixel, Rule.either: image or pixel, Rule.both: image and pixel}
        assert decision["pred_label"] is expected[rule]
        assert decision["map_max_normalized"] == fitted[Statistic.map_max].normalize(row["map_max"])
    assert {True, False} == set(decided["pred_label"].to_pylist())
    assert decided.column_names == [
        "row_id",
        "uri",
        "image_logit_normalized",
        "map_max_normalized",
        "map_topk_mean_normalized",
        "pred_label",
    ]
    assert decided["uri"].equals(table["uri"])


def test_a_score_at_the_threshold_is_normal_and_the_next_float_is_not(calibration: Calibration) -> None:
    threshold = np.float32(calibration.threshold(Statistic.image_logit, "A"))
    scores = np.array([threshold, np.nextafter(threshold, np.float32(np.inf)), -np.inf], np.float32)
    scores[2] = np.nextafter(threshold, np.float32(-np.inf))
    table = pa.table({"model_id": [MODEL] * 3, "line": ["A"] * 3, "image_logit": scores})
    decided = decide(table, calibration, statistic_options=STATISTICS)
    assert decided["pred_label"].to_pylist() == [False, True, False]
    assert decided.column_names == ["image_logit_normalized", "pred_label"], "columns that no rule needs may be absent"


@settings(max_examples=200, deadline=None)
@given(
    score=st.floats(-100, 100, width=32),
    threshold=st.floats(-100, 100, width=32),
    center=st.floats(-100, 100),
    scale=st.floats(1e-3, 100),
)
def test_normalising_never_turns_the_order_round(score: float, threshold: float, center: float, scale: float) -> None:
    fitted = Fitted(center=center, scale=scale, num_suspects=0, thresholds=())
    normalized, normalized_threshold = fitted.normalize([score, threshold])
    if score > threshold:
        assert normalized >= normalized_threshold
    if normalized > normalized_threshold:
        assert score > threshold


@pytest.mark.parametrize("normalization", Normalization)
def test_normalisation_changes_no_decision(normals: pa.Table, normalization: Normalization) -> None:
    table = normal_scores(2000, seed=4)
    plain = decide(table, calibrated(normals, normalization="none"), statistic_options=STATISTICS)
    calibration = calibrated(normals, normalization=normalization)
    decided = decide(table, calibration, statistic_options=STATISTICS)
    assert decided["pred_label"].equals(plain["pred_label"])
    lines = np.array(table["line"].to_pylist())
    for line in ("A", "B"):
        fitted = calibration.groups[line].statistics[Statistic.image_logit]
        above = decided["image_logit_normalized"].to_numpy() > fitted.normalize(
            calibration.threshold(Statistic.image_logit, line)
        )
        assert np.array_equal(above[lines == line], decided["pred_label"].to_numpy()[lines == line])


def test_images_without_scores_stay_without_decision(calibration: Calibration) -> None:
    table = normal_scores(3)
    for name in Statistic:
        values = pa.array([ANOMALOUS, None, -ANOMALOUS], pa.float32())
        table = table.set_column(table.column_names.index(name), name, values)
    lines = pa.array(["A", None, "B"])  # a row without scores needs no group either
    table = table.set_column(table.column_names.index("line"), "line", lines)
    decided = decide(table, calibration, statistic_options=STATISTICS)
    assert decided["pred_label"].to_pylist() == [True, None, False]
    assert decided["map_max_normalized"].null_count == 1
    nothing = decide(table.slice(1, 1), calibration, statistic_options=STATISTICS)
    assert nothing["pred_label"].to_pylist() == [None]
    assert decide(table.slice(0, 0), calibration, statistic_options=STATISTICS).num_rows == 0


def test_groups_that_calibration_never_saw(normals: pa.Table, calibration: Calibration) -> None:
    table = normal_scores(4)
    strange = table.set_column(table.column_names.index("line"), "line", pa.array(["A", "Z", "Y", "B"]))
    with pytest.raises(DataError, match=r"^calibration never saw line 'Y', 'Z', only 'A', 'B'; .* fallback\.$"):
        decide(strange, calibration, statistic_options=STATISTICS)
    with pytest.raises(DataError, match=r"^calibration never saw line 'Z', only 'A', 'B'"):
        calibration.threshold(Statistic.image_logit, "Z")
    fallback = calibrated(normals, fallback=True)
    assert fallback.overall is not None
    decided = decide(strange, fallback, statistic_options=STATISTICS)
    expected = fallback.overall.statistics[Statistic.image_logit].normalize(strange["image_logit"][1].as_py())
    assert decided["image_logit_normalized"][1].as_py() == expected
    seen = decide(strange.slice(0, 1), calibration, statistic_options=STATISTICS)
    assert decided["image_logit_normalized"][0] == seen["image_logit_normalized"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            StatisticOptions(topk_fraction=0.05, smoothing_sigma=0),
            "topk_fraction 0.05, the calibration was fitted with 0.01",
        ),
        (
            StatisticOptions(topk_fraction=0.01, smoothing_sigma=4),
            "smoothing_sigma 4.0, the calibration was fitted with 0",
        ),
    ],
)
def test_scores_of_other_statistics_are_refused(
    calibration: Calibration, options: StatisticOptions, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        decide(normal_scores(3), calibration, statistic_options=options)
    assert message in str(caught.value)


def test_scores_of_another_model_are_refused(calibration: Calibration) -> None:
    table = normal_scores(3)
    table = table.set_column(table.column_names.index("model_id"), "model_id", pa.array([MODEL, "model-2", MODEL]))
    with pytest.raises(DataError, match="was scored by model_id model-2, this is for model-1"):
        decide(table, calibration, statistic_options=STATISTICS)


def test_a_column_that_the_rule_needs_is_named(calibration: Calibration) -> None:
    table = normal_scores(3).drop_columns(["map_max"])
    assert decide(table, calibration, statistic_options=STATISTICS).num_rows == 3
    with pytest.raises(DataError, match="the score table has no column map_max"):
        decide(table, calibration.with_decision(rule="both"), statistic_options=STATISTICS)


def test_another_decision_must_have_its_thresholds(normals: pa.Table, calibration: Calibration) -> None:
    with pytest.raises(ConfigError, match=r"percentile must be one that was calibrated, 95, 99, got 99\.9"):
        calibration.with_decision(percentile=99.9)
    with pytest.raises(ConfigError, match="rule is one of image, pixel, either, both"):
        calibration.with_decision(rule="any")
    few = calibrated(normals.slice(0, 300), percentiles=("99",))
    both = few.with_decision(rule="both")
    assert both.decision.rule is Rule.both
    alarms, of_image = both.observed("A"), few.observed("A")
    assert alarms is not None
    assert of_image is not None
    assert (alarms.rule, of_image.rule) == (Rule.both, Rule.image)
    assert alarms.num_alarms <= of_image.num_alarms
    with pytest.raises(DataError, match=r"rule either at percentile 99 \(percentile\) needs 200; calibrate"):
        few.with_decision(rule="either")
