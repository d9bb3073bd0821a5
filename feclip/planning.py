"""From what each stage of scoring takes to images per second, cores, hours and cost: arithmetic alone.

The stages lie as the scoring job lays them: an actor holds the model, reserves one core, and builds and encodes the
rows on it; every other core beside it runs a task that reads images, by several threads, decodes them and brings them
to the model's input. A model on a GPU leaves the actor's core to the rows; one on the CPU shares it with them.

Not in this model: the way between machines, a limit of the storage (what it must deliver is told), start-up, decisions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "MILLION",
    "SCALES",
    "ModelRate",
    "ScaleRow",
    "Stage",
    "StageTimes",
    "cores_needed",
    "hours_of",
    "model_rates",
    "plan_scales",
    "plan_text",
    "rates_of",
    "slowest",
]

SCALES = (1, 8, 64)
"""Actors of the table."""
MILLION = 1_000_000
SECONDS_PER_HOUR = 3600
NOT_MEASURED = "not measured"


class Stage(StrEnum):
    """What can hold the others up."""

    fetch = "fetch"
    """Waiting for storage, with all readers of a task."""
    decode = "decode"
    """The processor time of reading, decoding and letterbox."""
    model = "model"
    """The model; on a CPU, where they share its core, with the rows."""
    write = "write"
    """Building and encoding the rows, where the model is on a GPU."""


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Seconds for one image in each stage, all above 0."""

    fetch: float
    """Of one task with its readers: wall time, so short where many read at once."""
    fetch_cpu: float
    """Processor time of the same, on one core."""
    decode: float
    """One core, with the way to the decoding process and back, and the search for a valid region where wanted."""
    letterbox: float
    """One core."""
    write: float
    """One core: the rows, the table, Parquet in memory; not the request that stores it."""
    num_bytes: float
    """Size of an image's file, bytes."""

    @property
    def feed(self) -> float:
        """Seconds between two images that one core has ready for the model, reading apart."""
        return self.fetch_cpu + self.decode + self.letterbox


@dataclass(frozen=True, kw_only=True)
class ModelRate:
    """How fast one actor's model is, and whence that is known."""

    images_per_second: float | None
    """None where it was not measured and nobody gave it."""
    on_gpu: bool
    name: str
    """Device and origin, for the table."""


def model_rates(measured: float, *, gpu_name: str | None, given: float | None) -> list[ModelRate]:
    """Return the model that was measured first, and a GPU's line where that was a CPU's.

    Args:
        measured: Images per second.
        gpu_name: Where it was measured; None for one core of a CPU.
        given: A GPU's rate that the user knows, which a measured one overrules.

    Example:
        >>> [model.name for model in model_rates(2.0, gpu_name=None, given=None)]
        ['one CPU core (measured)', 'GPU (not measured)']
    """
    if gpu_name is not None:
        return [ModelRate(images_per_second=measured, on_gpu=True, name=f"GPU ({gpu_name}, measured)")]
    gpu = ModelRate(images_per_second=given, on_gpu=True, name="GPU (not measured)" if given is None else "GPU (given)")
    return [ModelRate(images_per_second=measured, on_gpu=False, name="one CPU core (measured)"), gpu]


@dataclass(frozen=True, kw_only=True)
class ScaleRow:
    """A number of actors and what they do."""

    model: ModelRate
    num_actors: int
    cores: int
    """Of all actors together."""
    images_per_second: float | None
    """None where the model's rate is not known; so with the rest."""
    bottleneck: Stage | None
    hours: float | None
    """For all images."""
    storage_bytes_per_second: float | None
    """What the storage must deliver."""


def rates_of(times: StageTimes, model: ModelRate, *, cores: int) -> dict[Stage, float]:
    """Return images per second of one actor's stages; the lowest is what comes of it.

    Args:
        times: Measured times.
        model: Of known rate.
        cores: Cores of the actor and of the tasks that feed it, at least 2.

    Example:
        >>> times = StageTimes(fetch=0.001, fetch_cpu=0.001, decode=0.015, letterbox=0.004, write=0.001, num_bytes=1e6)
        >>> gpu = ModelRate(images_per_second=500, on_gpu=True, name="GPU")
        >>> {stage.value: round(rate) for stage, rate in rates_of(times, gpu, cores=9).items()}
        {'fetch': 8000, 'decode': 400, 'model': 500, 'write': 1000}
    """
    feeding = cores - 1
    rates = {Stage.fetch: feeding / times.fetch, Stage.decode: feeding / times.feed}
    if model.on_gpu:
        return rates | {Stage.model: _actor_rate(times, model), Stage.write: 1 / times.write}
    return rates | {Stage.model: _actor_rate(times, model)}


def _actor_rate(times: StageTimes, model: ModelRate) -> float:
    """Return images per second of the model, on a CPU with the rows that share its core."""
    assert model.images_per_second is not None
    return model.images_per_second if model.on_gpu else 1 / (1 / model.images_per_second + times.write)


def slowest(rates: Mapping[Stage, float]) -> Stage:
    """Return the stage that bounds the others; the model where another one is as slow, for then it does not wait."""
    least = min(rates, key=lambda stage: rates[stage])
    return Stage.model if math.isclose(rates[Stage.model], rates[least], rel_tol=1e-9) else least


def cores_needed(times: StageTimes, model: ModelRate) -> int:
    """Return the fewest cores of one actor, its own among them, with which its model never waits for images.

    Example:
        >>> times = StageTimes(fetch=0.001, fetch_cpu=0.001, decode=0.015, letterbox=0.004, write=0.001, num_bytes=1e6)
        >>> cores_needed(times, ModelRate(images_per_second=500, on_gpu=True, name="GPU"))
        11
    """
    needed = _actor_rate(times, model) * max(times.fetch, times.feed)
    return 1 + max(1, math.ceil(round(needed, 9)))  # 500 * 0.02 is 10, not the next number


def hours_of(num_images: int, *, images_per_second: float) -> float:
    """Return how long so many images take, hours."""
    return num_images / images_per_second / SECONDS_PER_HOUR


def plan_scales(
    times: StageTimes,
    models: Sequence[ModelRate],
    *,
    num_images: int,
    cores_per_actor: int | None = None,
    scales: Sequence[int] = SCALES,
) -> list[ScaleRow]:
    """Return the table of scales: each model at each number of actors.

    Args:
        times: Measured times.
        models: Models of known rate or not.
        num_images: Images to score.
        cores_per_actor: Cores of each actor with those that feed it, at least 2; None for as many as it needs.
        scales: Numbers of actors.
    """
    rows = []
    for model in models:
        for num_actors in scales:
            if model.images_per_second is None:
                cores, rate, bottleneck = cores_per_actor or 0, None, None
            else:
                cores = cores_per_actor or cores_needed(times, model)
                rates = rates_of(times, model, cores=cores)
                bottleneck = slowest(rates)
                rate = rates[bottleneck] * num_actors
            rows.append(
                ScaleRow(
                    model=model,
                    num_actors=num_actors,
                    cores=cores * num_actors,
                    images_per_second=rate,
                    bottleneck=bottleneck,
                    hours=None if rate is None else hours_of(num_images, images_per_second=rate),
                    storage_bytes_per_second=None if rate is None else rate * times.num_bytes,
                )
            )
    return rows


def plan_text(
    times: StageTimes,
    models: Sequence[ModelRate],
    *,
    num_readers: int,
    num_images: int,
    cores_per_actor: int | None,
    price_per_hour: float | None,
) -> str:
    """Return the plan for people: rates of the stages, what an actor needs and costs, and the table of scales.

    Args:
        times: Measured times.
        models: The first one is the job's own.
        num_readers: Threads that read in one task.
        num_images: Images of the table of scales.
        cores_per_actor: As for `plan_scales`.
        price_per_hour: Of one actor with its cores, in any currency; None where no cost is wanted.
    """
    lines = ["| stage | images/s | of |", "|---|---|---|"]
    stages = (
        ("fetch", times.fetch, f"one task, {num_readers} readers ({times.fetch_cpu * 1000:.3g} ms of a core each)"),
        ("decode", times.decode, "one core"),
        ("letterbox", times.letterbox, "one core"),
    )
    lines += [f"| {name} | {_number(1 / seconds)} | {of} |" for name, seconds, of in stages]
    lines += [f"| model | {_number(model.images_per_second)} | {model.name} |" for model in models]
    lines += [f"| write | {_number(1 / times.write)} | one core, nothing is stored |", ""]
    for model in models:
        if model.images_per_second is not None:
            lines += _actor_lines(times, model, cores_per_actor=cores_per_actor, price_per_hour=price_per_hour)
    lines += ["", f"{num_images:,} images:", ""]
    lines += [
        "| model on | actors | cores | images/s | bottleneck | hours | storage MB/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in plan_scales(times, models, num_images=num_images, cores_per_actor=cores_per_actor):
        read = None if row.storage_bytes_per_second is None else row.storage_bytes_per_second / MILLION
        cells = (row.cores or None, row.images_per_second, row.bottleneck, row.hours, read)
        shown = [cell.value if isinstance(cell, Stage) else _number(cell) for cell in cells]
        lines.append(f"| {' | '.join([row.model.name, str(row.num_actors), *shown])} |")
    return "\n".join(lines) + "\n"


def _actor_lines(
    times: StageTimes, model: ModelRate, *, cores_per_actor: int | None, price_per_hour: float | None
) -> list[str]:
    needed = cores_needed(times, model)
    row = plan_scales(times, [model], num_images=MILLION, cores_per_actor=cores_per_actor, scales=(1,))[0]
    assert row.images_per_second is not None
    assert row.hours is not None
    assert row.bottleneck is not None
    cost = "give planning.price_per_hour for the cost"
    if price_per_hour is not None:
        cost = f"they cost {_number(row.hours * price_per_hour)} at {price_per_hour:g} an hour"
    needs = f"an actor needs {needed} cores, {needed - 1} of them to read and decode, so that its model never waits"
    does = (
        f"with {row.cores} cores it scores {_number(row.images_per_second)} images/s, bounded by {row.bottleneck.value}"
    )
    return [
        f"{model.name}: {needs}; {does}.",
        f"{model.name}: a million images take {_number(row.hours)} hours of an actor; {cost}.",
    ]


def _number(value: float | None) -> str:
    """Return three significant digits, whole numbers in full.

    Example:
        >>> _number(0.12345), _number(12345.6), _number(None)
        ('0.123', '12,346', 'not measured')
    """
    if value is None:
        return NOT_MEASURED
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits
