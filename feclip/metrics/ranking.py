"""Metrics that depend on the order of the scores alone, in whole numbers that are divided once.

torchmetrics has AUROC and AP too, but divides counts in float32 before it sums: one anomalous image above 19 normal
ones has an AUROC of 1.0000001 there. The tests compare the two.

Letters: N scores, K thresholds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["FPRS", "Column", "RankCurve", "image_metrics", "ranking_metrics"]

FPRS = (0.01, 0.001)  # false alarms on one of a hundred and of a thousand normal parts
TPR = 0.95

Column = torch.Tensor | npt.NDArray[np.generic]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RankCurve:
    """Counts at each threshold, highest threshold first; all of shape ``(K,)``, none of them falls.

    The thresholds are the distinct scores of what is anomalous: no metric here has its value from another.
    """

    above: Integers
    """Normal ones above the threshold."""
    reached: Integers
    """Normal ones at the threshold or above it."""
    found: Integers
    """Anomalous ones at the threshold or above it."""
    num_normal: int
    """All normal ones, at least 1."""

    @classmethod
    def of(cls, normal: npt.NDArray[Any], anomalous: npt.NDArray[Any]) -> "RankCurve | None":
        """Return the exact curve of scores, or keys, that ascend; None where either is empty."""
        if len(normal) == 0 or len(anomalous) == 0:
            return None
        ascending, starts = np.unique(anomalous, return_index=True)
        return cls(
            above=len(normal) - np.searchsorted(normal, ascending, side="right")[::-1],
            reached=len(normal) - np.searchsorted(normal, ascending, side="left")[::-1],
            found=len(anomalous) - starts[::-1],
            num_normal=len(normal),
        )

    @property
    def num_anomalous(self) -> int:
        """All anomalous ones."""
        return int(self.found[-1])


def ranking_metrics(curve: RankCurve) -> tuple[float, float, float]:
    """Return AUROC, AP and F1-max, in 0..1.

    AUROC is the share of (anomalous, normal) pairs in the right order, ties counted half; AP the step-wise area under
    the precision-recall curve; F1-max the highest F1 of all thresholds.
    """
    num_anomalous = curve.num_anomalous
    gained = np.diff(curve.found, prepend=0)
    called = curve.found + curve.reached
    half_pairs = 2 * curve.num_normal * num_anomalous
    assert half_pairs < np.iinfo(np.int64).max, f"{half_pairs} does not fit int64"
    # Of each anomalous one: twice the normal ones below it, and those of its very score.
    in_order = int(((2 * curve.num_normal - curve.reached - curve.above) * gained).sum())
    return (
        in_order / half_pairs,
        float((curve.found / called * gained).sum() / num_anomalous),
        float((2 * curve.found / (called + num_anomalous)).max()),
    )


def image_metrics(logits: Column, labels: Column, *, fprs: tuple[float, ...] = FPRS) -> dict[str, float]:
    """Return every metric of a set of images, the same in whatever order they stand.

    Args:
        logits: Scores of shape ``(N,)``, higher is more anomalous; any strictly monotone scale gives the same result.
        labels: Ground truth of shape ``(N,)``, true (or 1) is anomalous.
        fprs: False-positive rates at which the true-positive rate is wanted.

    Returns:
        All in 0..1; empty where one of the two classes is absent, since nothing has a value then.

        - ``image_auroc``: area under the ROC curve, ties counted half.
        - ``image_ap``: average precision, the step-wise area under the precision-recall curve.
        - ``image_f1_max``: highest F1 of all thresholds.
        - ``image_tpr_at_fpr_<rate>``, for each of ``fprs``: highest true-positive rate of a threshold whose
          false-positive rate does not pass the stated one; nothing is interpolated.
        - ``image_fpr_at_tpr_0.95``: lowest false-positive rate of a threshold whose true-positive rate reaches 0.95.

    Raises:
        ValueError: If the shapes differ or a logit is NaN.

    Example:
        >>> found = image_metrics(np.array([20.0, 25.0, 27.0]), np.array([0, 1, 0]), fprs=(0.01,))
        >>> found["image_auroc"], found["image_tpr_at_fpr_0.01"], found["image_fpr_at_tpr_0.95"]
        (0.5, 0.0, 0.5)
    """
    scores, anomalous = np.asarray(logits), np.asarray(labels).astype(np.bool_)
    if scores.shape != anomalous.shape or scores.ndim != 1:
        msg = f"logits and labels must share one shape (N,), got {scores.shape} and {anomalous.shape}."
        raise ValueError(msg)
    if np.isnan(scores).any():
        msg = f"{np.isnan(scores).sum()} of {len(scores)} image logits are NaN; leave out images without a score."
        raise ValueError(msg)
    curve = RankCurve.of(np.sort(scores[~anomalous]), np.sort(scores[anomalous]))
    if curve is None:
        return {}
    fpr, tpr = curve.reached / curve.num_normal, curve.found / curve.num_anomalous
    auroc, average_precision, f1_max = ranking_metrics(curve)
    return {
        "image_auroc": auroc,
        "image_ap": average_precision,
        "image_f1_max": f1_max,
        **{f"image_tpr_at_fpr_{stated:g}": float(tpr[fpr <= stated].max(initial=0.0)) for stated in fprs},
        f"image_fpr_at_tpr_{TPR:g}": float(fpr[tpr >= TPR].min()),
    }
