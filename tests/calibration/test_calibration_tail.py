"""The warning about the upper tail: how often it is false, and what it finds."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from feclip.calibration.counts import Counts, bins_of, keys_of
from feclip.calibration.tail import BOUND, FEWEST, FIRST_TAIL, count_suspects

Sampler = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]

ONE_POPULATION: dict[str, Sampler] = {
    "normal": lambda generator, num: generator.normal(-3, 2, num),
    "gumbel": lambda generator, num: generator.gumbel(2, 1, num),
    "exponential": lambda generator, num: generator.exponential(3, num) - 5,
    "uniform": lambda generator, num: generator.random(num),
    "left-skewed": lambda generator, num: -generator.gumbel(0, 1, num),
}


def suspects(scores: npt.NDArray[np.float64], *, num_kept: int | None = None) -> int:
    bins = Counts.of(bins_of(keys_of(scores.astype(np.float32))))
    return count_suspects(bins.first(num_kept or len(scores)))


def contaminated(generator: np.random.Generator, num: int, *, anomalies: int) -> npt.NDArray[np.float64]:
    return np.concatenate([generator.normal(0, 1, num - anomalies), generator.normal(7, 1, anomalies)])


@pytest.mark.parametrize("law", ONE_POPULATION)
def test_false_alarms_are_rare(law: str) -> None:
    generator = np.random.default_rng(11)
    alarms = {
        num: np.mean([suspects(ONE_POPULATION[law](generator, num)) > 0 for _ in range(repeats)])
        for num, repeats in ((80, 300), (360, 300), (2000, 150), (20_000, 20))
    }
    assert max(alarms.values()) <= 0.02, alarms


def test_the_bound_is_passed_by_one_in_a_hundred_exponential_samples() -> None:
    """For the exponential law the times of each tail are uniform: simulate those, without bins or depth."""
    generator = np.random.default_rng(5)
    passed, repeats, num = 0, 1500, 1024
    for _ in range(repeats):
        descending = np.sort(generator.exponential(size=num))[::-1]
        strongest = 0.0
        size = num // FIRST_TAIL
        while size >= FEWEST:
            tail = descending[: size + 1][::-1]
            times = np.cumsum(np.diff(tail) * np.arange(size, 0, -1))
            strongest = max(strongest, np.sqrt(size) * distance_to_minorant(times / times[-1]))
            size //= 2
        passed += strongest > BOUND
    assert 0.004 <= passed / repeats <= 0.018


def distance_to_minorant(times: npt.NDArray[np.float64]) -> float:
    """Return how far the curve of n ascending times, the last one 1, lies above its greatest convex minorant."""
    num = len(times)
    x = np.concatenate([[0.0], times])
    low, high = np.concatenate([[0.0], np.arange(num) / num]), np.arange(num + 1) / num
    corners = [0]
    points = np.append(x, 1.0), np.append(low, 1.0)
    for index in range(1, num + 2):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (points[1][b] - points[1][a]) * (points[0][index] - points[0][a]) < (points[1][index] - points[1][a]) * (
                points[0][b] - points[0][a]
            ):
                break
            corners.pop()
        corners.append(index)
    return float((high - np.interp(x, points[0][corners], points[1][corners])).max())


@pytest.mark.parametrize(("num", "anomalies"), [(200, 10), (360, 8), (1000, 10), (1000, 100), (20_000, 200)])
def test_anomalies_that_stand_apart_are_found_and_counted(num: int, anomalies: int) -> None:
    generator = np.random.default_rng(2)
    found = np.array([suspects(contaminated(generator, num, anomalies=anomalies)) for _ in range(40)])
    assert (found > 0).mean() >= 0.9
    assert 0.8 * anomalies <= np.median(found) <= 2 * anomalies


def test_a_single_outlier_and_too_few_scores_are_no_second_population() -> None:
    generator = np.random.default_rng(3)
    assert suspects(np.append(generator.normal(size=400), 6.0)) == 0
    assert suspects(contaminated(generator, FIRST_TAIL * FEWEST - 1, anomalies=10)) == 0


def test_what_was_trimmed_is_no_longer_suspect() -> None:
    scores = contaminated(np.random.default_rng(4), 1000, anomalies=30)
    assert suspects(scores) == 30
    assert suspects(scores, num_kept=970) == 0
    assert 5 <= suspects(scores, num_kept=985) <= 20
    assert suspects(scores, num_kept=800) == 0


def test_equal_scores_have_no_tail() -> None:
    assert suspects(np.full(1000, 2.5)) == 0
    assert suspects(np.zeros(1000)) == 0
