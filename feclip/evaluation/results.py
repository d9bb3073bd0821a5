"""What an evaluation leaves: the numbers of one or several bundles with all that they depend on, as a long table."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from feclip.evaluation.judging import CategoryResult

__all__ = ["RESULT_SCHEMA", "Evaluation", "Judgement", "Spread", "spread"]

RESULT_SCHEMA = pa.schema(
    [
        pa.field("bundle", pa.string()),  # URI; null: all bundles together, value is their mean
        pa.field("model_id", pa.string()),  # as judged: the preset's input is a part of it
        pa.field("calibration_id", pa.string()),  # whose thresholds decided; null where none did
        pa.field("category", pa.string()),  # null: the mean over the categories
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),  # 0..1; decided_tp, _fp, _tn and _fn are numbers of images
        pa.field("low", pa.float64()),  # 95 % interval over images
        pa.field("high", pa.float64()),
        pa.field("deviation", pa.float64()),  # standard deviation over the bundles (divisor n - 1)
        pa.field("num_images", pa.int64(), nullable=False),  # of the metric: pixel metrics have those with a mask
        pa.field("num_anomalous", pa.int64(), nullable=False),
        pa.field("preset", pa.string(), nullable=False),
        pa.field("split", pa.string()),  # null: all test images
        pa.field("data_digest", pa.string()),
        pa.field("trained_images", pa.bool_(), nullable=False),  # whether images that made the bundle judge it
        pa.field("num_trained_images", pa.int64(), nullable=False),
    ]
)
"""Columns of ``metrics.parquet``, one row for each bundle, category and metric."""

PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro", "aupro_community")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One bundle, judged."""

    bundle: str
    model_id: str
    calibration_id: str | None
    preset_text: str
    """What the preset means for this bundle, in one line."""
    data_digest: str
    num_trained_images: int
    """Images that trained, selected or calibrated it; above 0 only where they were allowed."""
    categories: Mapping[str, CategoryResult]
    mean: CategoryResult
    recipe: Mapping[str, Any]
    """``backbone`` and ``image_size``, as judged, and ``trained_on``, None where nothing was."""

    def results(self) -> Iterator[tuple[str | None, CategoryResult]]:
        """Yield each category with its numbers, then None with their mean."""
        yield from self.categories.items()
        yield None, self.mean


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A metric over bundles."""

    value: float
    """Mean; the number itself of one bundle."""
    deviation: float | None
    """Standard deviation (divisor n - 1); None of one bundle."""
    interval: tuple[float, float] | None
    """95 % interval over images; None of several bundles, or where there is none."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All bundles, and what is common to them."""

    judgements: Sequence[Judgement]
    source: str
    """Where the images come from."""
    preset: str
    split: str | None

    @property
    def is_marked(self) -> bool:
        """Whether any bundle was judged by images that it was made with."""
        return any(judgement.num_trained_images for judgement in self.judgements)

    @property
    def categories(self) -> list[str]:
        """Names of the judged categories."""
        return sorted({name for judgement in self.judgements for name in judgement.categories})

    def result(self, category: str | None) -> list[CategoryResult]:
        """Return the numbers of a category, or None for the mean, of each bundle that has it."""
        if category is None:
            return [judgement.mean for judgement in self.judgements]
        return [judgement.categories[category] for judgement in self.judgements if category in judgement.categories]

    def table(self) -> pa.Table:
        """Return all numbers in the long form of `RESULT_SCHEMA`; of several bundles also their means."""
        rows = [row for judgement in self.judgements for row in self._rows(judgement)]
        if len(self.judgements) > 1:
            rows += [row for category in (*self.categories, None) for row in self._joint_rows(category)]
        return pa.Table.from_pylist(rows, schema=RESULT_SCHEMA)

    def _rows(self, judgement: Judgement) -> Iterator[dict[str, Any]]:
        for category, result in judgement.results():
            for metric, value in result.metrics.items():
                low, high = result.intervals.get(metric, (None, None))
                yield self._common(metric, [result], num_trained=judgement.num_trained_images) | {
                    "bundle": judgement.bundle,
                    "model_id": judgement.model_id,
                    "calibration_id": judgement.calibration_id,
                    "data_digest": judgement.data_digest,
                    "category": category,
                    "value": value,
                    "low": low,
                    "high": high,
                }

    def _joint_rows(self, category: str | None) -> Iterator[dict[str, Any]]:
        results = self.result(category)
        num_trained = max(judgement.num_trained_images for judgement in self.judgements)
        for metric in dict.fromkeys(name for result in results for name in result.metrics):
            found = spread(results, metric)
            assert found is not None
            yield self._common(metric, results, num_trained=num_trained) | {
                "category": category,
                "value": found.value,
                "deviation": found.deviation,
            }

    def _common(self, metric: str, results: Sequence[CategoryResult], *, num_trained: int) -> dict[str, Any]:
        first, is_pixel = results[0], metric in PIXEL_METRICS
        return {
            "metric": metric,
            "num_images": first.num_masked if is_pixel else first.num_images,
            "num_anomalous": first.num_masked_anomalous if is_pixel else first.num_anomalous,
            "preset": self.preset,
            "split": self.split,
            "trained_images": num_trained > 0,
            "num_trained_images": num_trained,
        }


def spread(results: Sequence[CategoryResult], metric: str) -> Spread | None:
    """Return a metric over the bundles that have it; None where none has."""
    values = [result.metrics[metric] for result in results if metric in result.metrics]
    if not values:
        return None
    if len(results) == 1:
        return Spread(value=values[0], deviation=None, interval=results[0].intervals.get(metric))
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(value=statistics.fmean(values), deviation=deviation, interval=None)
