"""What trials are compared by: image AUROC and exact AUPRO of the held-out split, weighed as the config says."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from feclip.config import SweepConfig
from feclip.data import Split
from feclip.errors import DataError

__all__ = ["IMAGE_METRIC", "OBJECTIVE", "PIXEL_METRIC", "objective", "require_judgeable"]

OBJECTIVE = "objective"
IMAGE_METRIC = "image_auroc"
PIXEL_METRIC = "aupro"


def objective(record: Mapping[str, float], *, weights: SweepConfig) -> float | None:
    """Return the weighted mean of the metrics of one epoch, larger is better.

    Args:
        record: Metrics of the epoch. A metric that is absent, AUPRO where no image has a gt mask, is left out.
        weights: The weights.

    Returns:
        A value in 0..1, or None where nothing that has a weight was measured.

    Example:
        >>> objective({"image_auroc": 0.9, "aupro": 0.5}, weights=SweepConfig(aupro_weight=1.5))
        0.6
        >>> objective({"image_auroc": 0.9}, weights=SweepConfig())
        0.9
    """
    weighed = {IMAGE_METRIC: weights.image_auroc_weight, PIXEL_METRIC: weights.aupro_weight}
    found = {name: weight for name, weight in weighed.items() if weight > 0 and name in record}
    if not found:
        return None
    return sum(weight * record[name] for name, weight in found.items()) / sum(found.values())


def require_judgeable(images: pa.Table, *, weights: SweepConfig) -> tuple[str, ...]:
    """Check that the held-out split can judge trials, and return the metrics that it does judge by.

    Args:
        images: Manifest with splits.
        weights: The weights of the objective.

    Raises:
        DataError: If no image is held out, or no metric that has a weight can be measured on those that are.
    """
    held_out = images.filter(pc.field("split") == Split.HELD_OUT.value)
    if held_out.num_rows == 0:
        msg = "No image is held out, so nothing could judge a trial; raise the second share of data.fractions."
        raise DataError(msg)
    rows = held_out.select(["category", "label", "has_mask"]).to_pylist()
    labels: dict[object, set[int]] = {}
    for row in rows:
        labels.setdefault(row["category"], set()).add(row["label"])
    told = {
        IMAGE_METRIC: weights.image_auroc_weight > 0 and any({0, 1} <= found for found in labels.values()),
        PIXEL_METRIC: weights.aupro_weight > 0 and any(row["label"] == 1 and row["has_mask"] for row in rows),
    }
    metrics = tuple(name for name, holds in told.items() if holds)
    if not metrics:
        msg = (
            f"The {held_out.num_rows} held-out images cannot judge a trial: image AUROC needs a category with normal "
            "and anomalous images, AUPRO an anomalous image with a gt mask, and its weight must not be 0."
        )
        raise DataError(msg)
    return metrics
