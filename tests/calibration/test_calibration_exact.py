"""Counts that merge give exactly the order statistics and moments of the pooled scores."""

import math
import statistics
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from feclip.calibration.counts import Counts, ExactSums, bins_of, keys_of, merge_all, score_at, scores_of

Floats = npt.NDArray[np.float32]

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TIED = st.sampled_from([-3.5, -0.0, 0.0, 1e-45, 1.0, 1.0000001, 28.25])
SAMPLES = arrays(np.float32, st.integers(1, 60), elements=st.one_of(FLOATS, TIED))


def divided(scores: Floats, cuts: list[int]) -> list[Floats]:
    return np.split(scores, sorted(cut % (len(scores) + 1) for cut in cuts))


def order_statistics(parts: list[Floats], ranks: list[int]) -> list[np.float32]:
    """Two passes over parts, as workers run them."""
    bins = merge_all(Counts.of(bins_of(keys_of(part))) for part in parts)
    wanted = sorted({bins.find(rank)[0] for rank in ranks})
    keys = merge_all(Counts.of(key[np.isin(bins_of(key), wanted)]) for key in map(keys_of, parts))
    return [score_at(rank, bins=bins, keys=keys) for rank in ranks]


@settings(deadline=None)
@given(scores=SAMPLES)
def test_keys_keep_the_order_and_come_back(scores: Floats) -> None:
    keys = keys_of(scores)
    assert np.array_equal(scores_of(keys), scores)
    assert np.array_equal(keys[:, None] < keys[None, :], scores[:, None] < scores[None, :])
    assert np.array_equal(keys[:, None] == keys[None, :], scores[:, None] == scores[None, :])


@settings(deadline=None)
@given(scores=SAMPLES, cuts=st.lists(st.integers(0, 60), max_size=6), data=st.data())
def test_any_division_gives_the_sorted_scores(scores: Floats, cuts: list[int], data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, len(scores)), min_size=1, max_size=5))
    parts = divided(scores, cuts)
    data.draw(st.randoms(use_true_random=False)).shuffle(parts)
    assert order_statistics(parts, ranks) == [np.sort(scores)[rank - 1] for rank in ranks]


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("num", [1, 2, 199, 1000, 30_011])
@pytest.mark.parametrize("tied", [False, True])
def test_every_worker_count_equals_numpy(workers: int, num: int, tied: bool) -> None:
    scores = np.random.default_rng(num).normal(-3, 4, num).astype(np.float32)
    scores = scores.round(1) if tied else scores
    # Shares whose product with any N is exact in floats, so that numpy's own rank is the right one.
    shares = [0.25, 0.5, 0.75, 0.9375, 1023 / 1024]
    ranks = [math.ceil(Fraction(share) * num) for share in shares]
    expected = np.quantile(scores, shares, method="inverted_cdf")
    assert order_statistics(np.array_split(scores, workers), ranks) == expected.tolist()


def test_a_million_scores_equal_numpy_in_bounded_memory() -> None:
    scores = np.random.default_rng(6).gumbel(-5, 2, 1_000_000).astype(np.float32)
    parts = np.array_split(scores, 7)
    ranks = [1, 250_000, 500_000, 995_000, 999_000, 1_000_000]
    shares = np.array([0.0, 0.25, 0.5, 0.995, 0.999, 1.0])
    assert (
        order_statistics(parts, ranks) == np.quantile(scores.astype(np.float64), shares, method="inverted_cdf").tolist()
    )
    bins = Counts.of(bins_of(keys_of(scores)))
    assert len(bins.values) < 5_000  # of 981,000 distinct scores
    for rank in ranks:
        wanted, _ = bins.find(rank)
        keys = keys_of(scores)
        assert len(Counts.of(keys[bins_of(keys) == wanted]).values) <= 65_536


def test_no_more_than_all_bins_are_ever_held() -> None:
    everything = np.arange(2**16, dtype=np.uint32) << np.uint32(16)
    counts = merge_all([Counts.of(bins_of(everything))] * 3)
    assert len(counts.values) == 2**16
    assert counts.total == 3 * 2**16


@settings(deadline=None)
@given(scores=SAMPLES, cuts=st.lists(st.integers(0, 60), max_size=4))
def test_sums_are_exact_for_any_division(scores: Floats, cuts: list[int]) -> None:
    sums = ExactSums()
    for part in divided(scores, cuts):
        sums = sums.merge(ExactSums.of(Counts.of(keys_of(part))))
    exact = [Fraction(float(score)) for score in scores]
    assert Fraction(sums.scaled_sum) * Fraction(2) ** -149 == sum(exact)
    assert Fraction(sums.scaled_squares) * Fraction(2) ** -298 == sum(value * value for value in exact)
    assert sums.mean == float(sum(exact) / len(exact))
    assert sums.deviation == pytest.approx(statistics.pstdev(map(float, exact)), rel=1e-12, abs=1e-300)


@settings(max_examples=20, deadline=None)
@given(data=st.data(), num=st.integers(1, 40))
def test_the_smallest_scores_alone_are_counted(data: st.DataObject, num: int) -> None:
    values = data.draw(arrays(np.uint32, 40, elements=st.integers(0, 9)))
    first = Counts.of(values).first(num)
    assert np.array_equal(np.repeat(first.values, first.numbers), np.sort(values)[:num])
