"""Percentiles are decimals, ranks are exact, and what a rank promises is what comes true."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from feclip.calibration import Variant, num_needed, parse_percentile, rank_of, rate_interval
from feclip.calibration.levels import share_of, split_percentile
from feclip.errors import ConfigError


@pytest.mark.parametrize(
    ("num", "percentile", "rank"),
    [
        (1000, 99.9, 999),  # ceil(1000 * (99.9 / 100)) is 1000 in floats
        (1000, "99.90", 999),
        (1000, 99.5, 995),
        (200, 99.5, 199),
        (199, 99.5, 199),
        (1, 50, 1),
        (10, 0.1, 1),
        (1_000_000, 99.9999, 999_999),
        (100, 29, 29),
        (100, 57, 57),
    ],
)
def test_percentile_ranks_are_those_of_exact_decimals(num: int, percentile: float | str, rank: int) -> None:
    assert rank_of(num, parse_percentile(percentile), Variant.percentile) == rank


def test_floats_would_choose_another_rank() -> None:
    wrong = [
        tenths
        for tenths in range(1, 1000)
        if math.ceil(1000 * (tenths / 10 / 100)) != rank_of(1000, parse_percentile(tenths / 10), Variant.percentile)
    ]
    assert wrong, "the exact decimals of this room would be without a reason"
    assert all(rank_of(1000, parse_percentile(tenths / 10), Variant.percentile) == tenths for tenths in range(1, 1000))


@settings(deadline=None)
@given(num=st.integers(1, 10**7), hundredths=st.integers(1, 9999))
def test_ranks_are_the_smallest_that_reach_the_share(num: int, hundredths: int) -> None:
    percentile = parse_percentile(Decimal(hundredths) / 100)
    rank = rank_of(num, percentile, Variant.percentile)
    assert 1 <= rank <= num
    assert rank * 10_000 >= num * hundredths > (rank - 1) * 10_000
    needed = num_needed(percentile, Variant.conformal)
    conformal = rank_of(num, percentile, Variant.conformal)
    if num >= needed:
        assert conformal * 10_000 >= (num + 1) * hundredths > (conformal - 1) * 10_000
        assert num + 1 - conformal <= (1 - share_of(percentile)) * (num + 1)  # the guarantee
    else:
        assert conformal == num


@pytest.mark.parametrize(("percentile", "conformal", "plain"), [("99.5", 199, 200), ("99.9", 999, 1000), ("50", 1, 2)])
def test_fewest_images_for_a_percentile(percentile: str, conformal: int, plain: int) -> None:
    assert num_needed(percentile, Variant.conformal) == conformal
    assert num_needed(percentile, Variant.percentile) == plain
    # With one image fewer the percentile is the maximum, and the conformal rank lies beyond it.
    assert rank_of(plain, percentile, Variant.percentile) == plain - 1
    assert rank_of(plain - 1, percentile, Variant.percentile) == plain - 1
    assert conformal * share_of(percentile) > conformal - 1
    assert conformal * share_of(percentile) + share_of(percentile) <= conformal
    assert (conformal - 1) * share_of(percentile) + share_of(percentile) > conformal - 1


def test_either_gives_each_statistic_half() -> None:
    assert [split_percentile(text) for text in ("99.5", "99.9", "50")] == ["99.75", "99.95", "75"]


@pytest.mark.parametrize("value", [0, 100, -1, 100.5, "nan", "inf", "a", "", None, "99.9999999999"])
def test_what_is_no_percentile_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^percentiles must be a decimal above 0 and below 100"):
        parse_percentile(value, name="percentiles")  # type: ignore[arg-type]


@pytest.mark.parametrize(("num", "rank"), [(1, 1), (200, 199), (200, 200), (1000, 1), (1000, 995), (10**6, 999_000)])
def test_interval_is_the_beta_distribution_s(num: int, rank: int) -> None:
    expected = beta.ppf([0.025, 0.975], num + 1 - rank, rank)
    assert rate_interval(num, rank) == pytest.approx(tuple(expected), rel=1e-5)
    # The same interval by counting: k of N scores lie below a point of rate r with the binomial's probability.
    for rate, probability in zip(expected, (0.025, 0.975), strict=True):
        assert binom.sf(num - rank, num, rate) == pytest.approx(probability, rel=1e-6)


@pytest.mark.parametrize(("num", "percentile"), [(19, "95"), (50, "95"), (199, "99.5"), (360, "99.5")])
def test_conformal_thresholds_keep_their_rate_and_intervals_cover_it(num: int, percentile: str) -> None:
    generator = np.random.default_rng(num)
    repeats = 20_000
    rank = rank_of(num, percentile, Variant.conformal)
    # The rate of a threshold on uniform scores is its distance to 1, and ranks do not see which continuous law it is.
    rates = np.array([1 - np.partition(generator.random(num), rank - 1)[rank - 1] for _ in range(repeats)])
    allowed = float(1 - share_of(percentile))
    error = rates.std() / math.sqrt(repeats)
    assert rates.mean() <= allowed + 4 * error
    assert rates.mean() == pytest.approx((num + 1 - rank) / (num + 1), abs=4 * error)
    lower, upper = rate_interval(num, rank)
    assert ((lower <= rates) & (rates <= upper)).mean() == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / repeats))


def test_the_plain_percentile_does_not_keep_the_rate() -> None:
    generator = np.random.default_rng(0)
    rank = rank_of(40, "95", Variant.percentile)
    rates = [1 - np.partition(generator.random(40), rank - 1)[rank - 1] for _ in range(5000)]
    assert np.mean(rates) > 0.06
