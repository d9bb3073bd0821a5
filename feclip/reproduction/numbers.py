"""The numbers of the seeds, their mean and its confidence interval, and the paper's number beside them.

All in per cent. The interval is Student's, over the seeds of one recipe: it says where the mean of very many seeds
would lie, for the same images, and knows nothing of other images.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import t as student

from feclip.bundle import EVALUATION_METRICS_FILE
from feclip.data import join_uri, parse_parquet, read_bytes
from feclip.errors import RunError, folded
from feclip.evaluation import PAPER, RESULT_SCHEMA

__all__ = ["CONFIDENCE", "METRICS", "Estimate", "SeedResult", "estimates", "read_result"]

CONFIDENCE = 0.95
METRICS: Mapping[str, str] = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "aupro_community": "PRO (community)",
    "aupro": "PRO (exact)",
}
"""What the table has, by the names of the metrics; the paper has no exact PRO."""


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """What one bundle was found to be worth on one data set."""

    metrics: Mapping[str, float]
    """Means over the categories, per cent."""
    categories: frozenset[str]
    num_images: int
    num_anomalous: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One metric on one data set, over the seeds."""

    dataset: str
    metric: str
    values: Mapping[int, float] = field(repr=False)
    """Per cent, by seed."""
    paper: float | None
    """The paper's mean of five runs, per cent; None where it has no such number."""

    @property
    def mean(self) -> float:
        """Mean over the seeds, per cent."""
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds (divisor n - 1), percentage points; None of one seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % confidence interval of the mean, per cent; None of one seed."""
        if self.deviation is None:
            return None
        num = len(self.values)
        half = float(student.ppf((1 + CONFIDENCE) / 2, num - 1)) * self.deviation / math.sqrt(num)
        return self.mean - half, self.mean + half

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, percentage points."""
        return None if self.paper is None else self.mean - self.paper

    @property
    def holds_paper(self) -> bool | None:
        """Whether the paper's number lies in the interval; None where one of the two is absent."""
        if self.paper is None or self.interval is None:
            return None
        low, high = self.interval
        return low <= self.paper <= high


def read_result(folder: str) -> SeedResult:
    """Return the numbers of a finished evaluation of one bundle.

    Args:
        folder: Its output.

    Raises:
        RunError: If they are damaged, or images that made the bundle judged it.
        StorageError: If they cannot be read.
    """
    where = join_uri(folder, EVALUATION_METRICS_FILE)
    try:
        table = parse_parquet(read_bytes(where)).select(RESULT_SCHEMA.names).cast(RESULT_SCHEMA)
        means = table.filter(pc.field("category").is_null()).to_pylist()
        ((num_images, num_anomalous),) = [
            (int(row["num_images"]), int(row["num_anomalous"])) for row in means if row["metric"] == "image_auroc"
        ]
        metrics = {row["metric"]: _per_cent(row["value"]) for row in means if row["metric"] in METRICS}
    except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
        msg = f"{where} is not the result of one bundle ({folded(str(error))}); delete its folder and submit again."
        raise RunError(msg) from error
    if any(row["num_trained_images"] for row in means):
        msg = f"{where} is judged by images that made the bundle; delete its folder and submit again."
        raise RunError(msg)
    return SeedResult(
        metrics=metrics,
        categories=frozenset(name for name in table["category"].to_pylist() if name is not None),
        num_images=num_images,
        num_anomalous=num_anomalous,
    )


def _per_cent(value: float) -> float:
    if not 0 <= value <= 1:
        msg = f"a metric is {value}, not in [0, 1]"
        raise ValueError(msg)
    return 100 * value


def estimates(results: Mapping[tuple[str, int], SeedResult]) -> Sequence[Estimate]:
    """Return the rows of the table.

    Args:
        results: By data set and seed.

    Returns:
        Each data set's metrics, those that were measured, in the paper's order.
    """
    rows = []
    for dataset, paper in PAPER.items():
        of_seeds = {seed: result for (name, seed), result in sorted(results.items()) if name == dataset}
        for metric in METRICS:
            values = {seed: found.metrics[metric] for seed, found in of_seeds.items() if metric in found.metrics}
            if values:
                rows.append(Estimate(dataset=dataset, metric=metric, values=values, paper=paper.metrics.get(metric)))
    return rows
