"""What a report counts while a table streams by is what a computation over the whole table says."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from feclip.report.counting import (
    ALL_DATES,
    MAX_CELLS,
    MAX_GROUPS,
    NO_VALUE,
    NUM_BINS,
    OTHER_GROUPS,
    ZERO_BIN,
    Cube,
    Grid,
)
from feclip.report.drift import FEWEST, Verdict, compare_normals, weighted_reference
from feclip.report.intervals import wilson_interval
from feclip.report.selection import TopRows, random_priorities


def filled(groups: list[str], dates: list[str], margins: np.ndarray, *, grid: Grid, size: int) -> Cube:
    cube = Cube(grid)
    for start in range(0, len(margins), size):
        part = slice(start, start + size)
        cube.add(np.array(groups[part], object), np.array(dates[part], object), margins[part])
    return cube


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=200),
    st.integers(0, NUM_BINS - 2),
    st.floats(-100, 100, width=32),
)
def test_what_lies_above_any_stop_is_counted_exactly(values: list[float], index: int, origin: float) -> None:
    margins = np.array(values, np.float64) - origin
    grid = Grid.fitted(margins, origin=0.0)
    assert np.log2(grid.step).is_integer()
    counts = np.bincount(grid.bins(margins), minlength=NUM_BINS)
    assert int(counts[index + 1 :].sum()) == int((margins > grid.stop(index)).sum())
    assert int(counts[ZERO_BIN + 1 :].sum()) == int((margins > 0).sum())


def test_a_grid_resolves_the_bulk_and_reaches_the_threshold() -> None:
    margins = np.random.default_rng(0).normal(-6, 0.01, 10_000)
    grid = Grid.fitted(margins, origin=0.0)
    assert len(np.unique(grid.bins(margins))) > 10
    assert grid.bins(margins).min() > 0
    assert grid.stop(ZERO_BIN) == 0
    wide = Grid.fitted(np.concatenate([margins, [1e9]]), origin=0.0)
    assert wide == grid, "one image far away must not coarsen all others"


def test_cells_are_those_of_a_plain_count_however_the_table_is_divided() -> None:
    rng = np.random.default_rng(1)
    groups = [f"line {number}" for number in rng.integers(0, 4, 3000)]
    dates = [f"2024-0{number}" for number in rng.integers(1, 6, 3000)]
    margins = np.where(rng.random(3000) < 0.02, np.nan, rng.normal(-2, 1, 3000))
    grid = Grid.fitted(margins[np.isfinite(margins)], origin=0.0)
    whole, parts = (filled(groups, dates, margins, grid=grid, size=size) for size in (3000, 77))
    keys = list(zip(groups, dates, strict=True))
    wanted = Counter(key for key, margin in zip(keys, margins, strict=True) if margin > 0)
    failed = Counter(key for key, margin in zip(keys, margins, strict=True) if np.isnan(margin))
    for cube in (whole, parts):
        cells = cube.cells()
        assert {(cell.group, cell.date) for cell in cells} == {*keys}
        assert all(cell.counts[ZERO_BIN + 1 :].sum() == wanted[cell.group, cell.date] for cell in cells)
        assert all(cell.num_errors == failed[cell.group, cell.date] for cell in cells)
    assert all(np.array_equal(one.counts, two.counts) for one, two in zip(whole.cells(), parts.cells(), strict=True))


def test_cells_stay_bounded_and_lose_no_image() -> None:
    """Groups beyond a bound are joined, days become months, months years; every image stays counted."""
    rng = np.random.default_rng(2)
    num = 60_000
    groups = [f"part {number:04}" for number in rng.integers(0, 300, num)]
    dates = [
        f"{year}-{month:02}-{day:02}"
        for year, month, day in zip(
            *(rng.integers(low, high, num) for low, high in ((2020, 2026), (1, 13), (1, 29))), strict=True
        )
    ]
    margins = np.where(rng.random(num) < 0.1, np.nan, rng.normal(size=num))
    cube = filled(groups, dates, margins, grid=Grid(origin=0, step=2**-4), size=5000)
    cells = cube.cells()
    assert len(cells) <= MAX_CELLS
    assert len(cube.groups) == MAX_GROUPS + 1
    assert OTHER_GROUPS in cube.groups
    assert all(re.fullmatch(r"202\d", cell.date) for cell in cells)
    assert sum(int(cell.counts.sum()) + cell.num_errors for cell in cells) == num
    placed = {cube.placed(group, date) for group, date in zip(groups, dates, strict=True)}
    assert placed == {(cell.group, cell.date) for cell in cells}


def test_dates_that_are_none_are_joined_at_once_but_for_absent_ones() -> None:
    num = 5000
    dates = [f"shift-{number % (MAX_CELLS + 50)}" for number in range(num - 10)] + [NO_VALUE] * 10
    cube = filled(["one"] * num, dates, np.zeros(num), grid=Grid(origin=0, step=1.0), size=500)
    assert {cell.date: int(cell.counts.sum()) for cell in cube.cells()} == {ALL_DATES: num - 10, NO_VALUE: 10}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-5, 5), st.just(float("nan"))), max_size=120), st.integers(0, 20), st.integers(1, 40)
)
def test_the_kept_rows_are_those_of_a_whole_sort(keys: list[float], size: int, part: int) -> None:
    rows, values = TopRows(size), np.array(keys, np.float64)
    for start in range(0, len(values), part):
        rows.offer(np.arange(start, min(start + part, len(values))), values[start : start + part])
    known = [index for index, key in enumerate(keys) if key == key]  # noqa: PLR0124 - not NaN
    assert rows.row_ids() == sorted(known, key=lambda index: -keys[index])[:size]


def test_a_random_sample_is_the_same_for_the_same_seed_and_meets_every_row_alike() -> None:
    one, two, other = (random_priorities(1000, seed=seed, first_row_id=5) for seed in (3, 3, 4))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    chosen: Counter[int] = Counter()
    for seed in range(2000):
        rows = TopRows(5)
        rows.offer(np.arange(50), random_priorities(50, seed=seed, first_row_id=0))
        chosen.update(rows.row_ids())
    assert min(chosen[row] for row in range(50)) > 140  # 200 expected, deviation 13
    assert max(chosen.values()) < 260


@pytest.mark.parametrize(("num", "total"), [(0, 50), (5, 1000), (999, 1000), (1000, 1000), (1, 3)])
def test_wilson_intervals_solve_their_equation(num: int, total: int) -> None:
    """Each end is a rate whose own spread just reaches what was counted."""
    rate = num / total
    for end in (float(found) for found in wilson_interval(num, total)):
        if 0 < end < 1:
            spread = 1.959963984540054 * np.sqrt(end * (1 - end) / total)
            assert abs(rate - end) == pytest.approx(spread, rel=1e-9)


def test_drift_measures_are_those_of_the_scores_themselves() -> None:
    rng = np.random.default_rng(5)
    normals, archive = rng.normal(-4, 1, 4000), rng.normal(-3.7, 1.1, 2500)
    grid = Grid.fitted(normals, origin=0.0)
    normals, archive = (grid.origin + np.ceil(values / grid.step) * grid.step for values in (normals, archive))
    counts = [np.bincount(grid.bins(values), minlength=NUM_BINS) for values in (archive, normals)]
    found = compare_normals(counts[0], reference=counts[1] / 4000, num_reference=4000)
    assert found.ks == pytest.approx(ks_2samp(archive, normals).statistic, abs=1e-12)
    edges = np.quantile(normals, np.arange(1, 10) / 10, method="inverted_cdf")
    shares = [np.bincount(np.searchsorted(edges, values), minlength=10) + 0.5 for values in (archive, normals)]
    now, then = (part / part.sum() for part in shares)
    assert found.psi == pytest.approx(float(((now - then) * np.log(now / then)).sum()), rel=1e-9)
    assert found.shift * grid.step == pytest.approx(np.median(archive) - np.median(normals), abs=2 * grid.step)


@pytest.mark.parametrize(
    ("moved_by", "num", "verdict"),
    [
        (0.0, 400, Verdict.steady),
        (1.5, 400, Verdict.moved),
        (0.35, 4000, Verdict.watch),
        (3.0, FEWEST - 1, Verdict.too_few),
    ],
)
def test_a_moved_distribution_is_marked_and_an_equal_one_is_not(moved_by: float, num: int, verdict: Verdict) -> None:
    rng = np.random.default_rng(6)
    normals, archive = rng.normal(-6, 1, 3000), rng.normal(-6 + moved_by, 1, num)
    grid = Grid.fitted(normals, origin=0.0)
    counts = [np.bincount(grid.bins(values), minlength=NUM_BINS) for values in (archive, normals)]
    assert compare_normals(counts[0], reference=counts[1] / 3000, num_reference=3000).verdict is verdict


def test_equal_distributions_are_hardly_ever_marked() -> None:
    """A page shows hundreds of comparisons; small parts must not cry wolf."""
    rng = np.random.default_rng(7)
    normals = rng.normal(-6, 1, 1000)
    grid = Grid.fitted(normals, origin=0.0)
    reference = np.bincount(grid.bins(normals), minlength=NUM_BINS) / 1000
    verdicts = Counter(
        compare_normals(
            np.bincount(grid.bins(rng.normal(-6, 1, 60)), minlength=NUM_BINS), reference=reference, num_reference=1000
        ).verdict
        for _ in range(500)
    )
    assert verdicts[Verdict.steady] >= 495


def test_another_mixture_of_groups_is_no_drift() -> None:
    references = {"a": np.array([900, 100, 0]), "b": np.array([0, 100, 900])}
    shares, num = weighted_reference(references, weights={"a": 30, "b": 10})
    np.testing.assert_allclose(shares, [0.675, 0.1, 0.225])
    assert num == pytest.approx(1 / (0.75**2 / 1000 + 0.25**2 / 1000))
    shares, num = weighted_reference(references, weights={"a": 30, "c": 10})
    assert (shares.sum(), num) == (0, 0)
