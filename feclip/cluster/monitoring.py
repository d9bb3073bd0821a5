"""What a running job tells Ray's Prometheus endpoint: a few numbers of the run, and none of an image.

Ray exports a metric as ``ray_<name>`` on the node of the process that recorded it. Counts of scoring are recorded by
the driver alone, from the row that each slice leaves, so that they are those of the score table whatever was killed or
tried again; why there is no histogram stands in docs/adr/0028-watching-a-run.md.
"""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ray.util.metrics import Counter, Gauge

from feclip.logs import settings

__all__ = [
    "METRICS",
    "Metric",
    "RunTags",
    "SliceGauge",
    "count_slice",
    "count_step",
    "show_epoch",
    "show_slices_left",
    "show_trials",
]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric."""

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    tags: tuple[str, ...] = ()
    """Its tags beside those of every metric, ``run`` and ``job_kind``."""


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="feclip_images_scored_total", kind="counter", text="Images that got a score."),
        Metric(
            name="feclip_image_errors_total",
            kind="counter",
            text="Images whose row has an error in place of a score.",
            tags=("error_kind",),
        ),
        Metric(
            name="feclip_stage_seconds_total",
            kind="counter",
            text="Seconds that workers spent in a stage of scoring; fetch adds up all readers of a task.",
            tags=("stage",),
        ),
        Metric(name="feclip_slices_left", kind="gauge", text="Slices of the archive that are not written yet."),
        Metric(
            name="feclip_slices_in_progress",
            kind="gauge",
            text="Slices that a worker is busy with.",
            tags=("stage",),
        ),
        Metric(name="feclip_training_steps_total", kind="counter", text="Optimiser steps."),
        Metric(name="feclip_training_step_seconds_total", kind="counter", text="Seconds of optimiser steps."),
        Metric(name="feclip_training_images_total", kind="counter", text="Images that trained, by all ranks."),
        Metric(name="feclip_training_epochs", kind="gauge", text="Finished epochs."),
        Metric(name="feclip_training_loss", kind="gauge", text="Mean loss of the last step."),
        Metric(name="feclip_trials", kind="gauge", text="Trials of a sweep, by status.", tags=("status",)),
    )
}


@dataclass(frozen=True, kw_only=True)
class RunTags:
    """What every metric is tagged with; a worker gets them from the driver."""

    run: str
    job_kind: str

    @classmethod
    def of(cls, job_kind: str) -> "RunTags":
        """Return the tags of the running job, which is of this kind where no command line says another."""
        known = settings()
        return cls(run=known.run, job_kind=known.job or job_kind)

    def count(self, name: str, value: float, **tags: str) -> None:
        """Add to a counter."""
        if value > 0:
            _counter(name).inc(value, tags=self._all(tags))

    def show(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge."""
        _gauge(name).set(value, tags=self._all(tags))

    def _all(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {"run": self.run, "job_kind": self.job_kind, **tags}


@functools.cache
def _counter(name: str) -> Counter:
    metric = METRICS[name]
    return Counter(name, description=metric.text, tag_keys=("run", "job_kind", *metric.tags))


@functools.cache
def _gauge(name: str) -> Gauge:
    metric = METRICS[name]
    return Gauge(name, description=metric.text, tag_keys=("run", "job_kind", *metric.tags))


def count_slice(tags: RunTags, *, num_images: int, errors: Mapping[str, int], seconds: Mapping[str, float]) -> None:
    """Count a slice that was done, or that storage left open.

    Args:
        tags: Of the run.
        num_images: Its rows, those with errors among them.
        errors: Rows with an error, by kind.
        seconds: What it took, by stage.
    """
    tags.count("feclip_images_scored_total", num_images - sum(errors.values()))
    for kind, number in errors.items():
        tags.count("feclip_image_errors_total", number, error_kind=kind)
    for stage, spent in seconds.items():
        tags.count("feclip_stage_seconds_total", spent, stage=stage)


def show_slices_left(tags: RunTags, number: int) -> None:
    """Show how many slices are not written yet, those among them that a worker is busy with."""
    tags.show("feclip_slices_left", number)


class SliceGauge:
    """Shows how many slices this process is busy with in one stage.

    Args:
        tags: Of the run.
        stage: What is done with them: fetch, score.
    """

    def __init__(self, tags: RunTags, *, stage: str) -> None:
        self._tags, self._stage = tags, stage
        self._busy: set[int] = set()

    @contextmanager
    def busy(self, index: int) -> Iterator[None]:
        """Count a slice for the time of a ``with`` block; several threads may."""
        self._busy.add(index)
        self._show()
        try:
            yield
        finally:
            self._busy.discard(index)
            self._show()

    def _show(self) -> None:
        self._tags.show("feclip_slices_in_progress", len(self._busy), stage=self._stage)


def count_step(tags: RunTags, *, seconds: float, num_images: int, loss: float) -> None:
    """Count one optimiser step of all ranks; rank 0 does so.

    Args:
        tags: Of the run.
        seconds: What it took, with the wait for its images.
        num_images: Images of all ranks.
        loss: Their mean loss.
    """
    tags.count("feclip_training_steps_total", 1)
    tags.count("feclip_training_step_seconds_total", seconds)
    tags.count("feclip_training_images_total", num_images)
    tags.show("feclip_training_loss", loss)


def show_epoch(tags: RunTags, *, num_finished: int) -> None:
    """Show how many epochs are finished."""
    tags.show("feclip_training_epochs", num_finished)


def show_trials(tags: RunTags, numbers: Mapping[str, int]) -> None:
    """Show how many trials of a sweep are of each status."""
    for status, number in numbers.items():
        tags.show("feclip_trials", number, status=status)
