"""Metrics of images that depend on the order of their scores alone.

torchmetrics computes them, over *dense ranks* instead of logits: given values outside [0, 1] it applies a float32
sigmoid, which is 1.0 from a logit of 17 on and ties what it should rank (the temperature 0.07 allows logits of 28).
Its curves divide counts in float32, so a value carries a rounding of 1e-7; nothing is binned.
"""

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_precision_recall_curve,
    binary_roc,
)

__all__ = ["FPRS", "Column", "image_metrics"]

FPRS = (0.01, 0.001)  # false alarms on one of a hundred and of a thousand normal parts
TPR = 0.95

Column = torch.Tensor | npt.NDArray[np.generic]


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
    scores, classes = torch.from_numpy(np.asarray(logits).copy()), torch.from_numpy(np.asarray(labels).copy()).bool()
    if scores.shape != classes.shape or scores.ndim != 1:
        msg = f"logits and labels must share one shape (N,), got {tuple(scores.shape)} and {tuple(classes.shape)}."
        raise ValueError(msg)
    if bool(scores.isnan().any()):
        msg = f"{int(scores.isnan().sum())} of {len(scores)} image logits are NaN; leave out images without a score."
        raise ValueError(msg)
    if not bool(classes.any()) or bool(classes.all()):
        return {}
    ranks, target = _dense_ranks(scores), classes.int()
    fpr, tpr, _ = binary_roc(ranks, target)
    precision, recall, _ = binary_precision_recall_curve(ranks, target)
    hit = recall > 0  # without a hit, F1 is 0 / 0
    harmonic = 2 * precision.double() * recall.double() / (precision.double() + recall.double())
    return {
        "image_auroc": float(binary_auroc(ranks, target)),
        "image_ap": float(binary_average_precision(ranks, target)),
        "image_f1_max": float(harmonic[hit].max()),
        **{f"image_tpr_at_fpr_{stated:g}": float(tpr[fpr <= stated].max()) for stated in fprs},
        f"image_fpr_at_tpr_{TPR:g}": float(fpr[tpr >= TPR].min()),
    }


def _dense_ranks(logits: torch.Tensor) -> torch.Tensor:
    """Return the rank of each value among the distinct ones, scaled to [0, 1] in float64, where it stays exact."""
    distinct, inverse = torch.unique(logits, return_inverse=True)
    ranks: torch.Tensor = inverse.double() / max(1, distinct.numel() - 1)
    return ranks
