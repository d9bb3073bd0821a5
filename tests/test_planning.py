"""The arithmetic of a plan: what bounds an actor, what it needs, and what is not known stays unknown."""

import dataclasses

import pytest

from feclip.planning import (
    MILLION,
    ModelRate,
    Stage,
    StageTimes,
    cores_needed,
    hours_of,
    plan_scales,
    plan_text,
    rates_of,
    slowest,
)

TIMES = StageTimes(fetch=0.001, fetch_cpu=0.001, decode=0.015, letterbox=0.004, write=0.001, num_bytes=2e6)
GPU = ModelRate(images_per_second=400, on_gpu=True, name="GPU (given)")
CPU = ModelRate(images_per_second=10, on_gpu=False, name="one CPU core (measured)")
UNKNOWN = ModelRate(images_per_second=None, on_gpu=True, name="GPU (not measured)")


@pytest.mark.parametrize("model", [GPU, CPU])
def test_with_the_cores_that_it_needs_the_model_bounds_and_with_one_less_it_waits(model: ModelRate) -> None:
    needed = cores_needed(TIMES, model)
    rates = rates_of(TIMES, model, cores=needed)
    assert slowest(rates) is Stage.model
    if needed > 2:
        fewer = rates_of(TIMES, model, cores=needed - 1)
        assert fewer[Stage.decode] < fewer[Stage.model]


def test_a_gpu_of_400_images_a_second_needs_8_decoding_cores_of_50_and_its_own() -> None:
    assert cores_needed(TIMES, GPU) == 1 + 8


def test_a_model_on_the_cpu_shares_its_core_with_the_rows() -> None:
    assert rates_of(TIMES, CPU, cores=2)[Stage.model] == pytest.approx(1 / (0.1 + 0.001))
    assert Stage.write not in rates_of(TIMES, CPU, cores=2)


@pytest.mark.parametrize(
    ("changed", "cores", "bottleneck", "rate"),
    [
        ({}, 3, Stage.decode, 100),
        ({}, 64, Stage.model, 400),
        ({"write": 0.01}, 64, Stage.write, 100),
        ({"fetch": 0.1}, 21, Stage.fetch, 200),
    ],
)
def test_the_slowest_stage_is_named(changed: dict[str, float], cores: int, bottleneck: Stage, rate: float) -> None:
    times = dataclasses.replace(TIMES, **changed)
    rows = plan_scales(times, [GPU], num_images=100 * MILLION, cores_per_actor=cores)
    assert [row.num_actors for row in rows] == [1, 8, 64]
    for row in rows:
        assert row.bottleneck is bottleneck
        assert row.images_per_second == pytest.approx(rate * row.num_actors)
        assert row.cores == cores * row.num_actors
        assert row.hours == pytest.approx(100 * MILLION / rate / row.num_actors / 3600)
        assert row.storage_bytes_per_second == pytest.approx(2e6 * rate * row.num_actors)


def test_what_was_not_measured_is_said_and_not_estimated() -> None:
    rows = plan_scales(TIMES, [CPU, UNKNOWN], num_images=MILLION)
    for row in rows[3:]:
        assert (row.images_per_second, row.bottleneck, row.hours, row.storage_bytes_per_second) == (None,) * 4
    text = plan_text(
        TIMES, [CPU, UNKNOWN], num_readers=8, num_images=MILLION, cores_per_actor=None, price_per_hour=None
    )
    lines = [line for line in text.splitlines() if line.startswith("| GPU (not measured)")]
    assert len(lines) == 3
    assert all("not measured | not measured" in line for line in lines)
    assert "GPU (not measured):" not in text


def test_the_cost_of_a_million_images_is_their_hours_at_the_price() -> None:
    text = plan_text(TIMES, [GPU], num_readers=8, num_images=MILLION, cores_per_actor=9, price_per_hour=3.6)
    assert hours_of(MILLION, images_per_second=400) == pytest.approx(0.694, abs=0.001)
    assert "a million images take 0.694 hours of an actor; they cost 2.5 at 3.6 an hour." in text
