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

__all__ = ["FPRS", "auroc", "average_precision", "f1_max", "fpr_at_tpr", "image_metrics", "tpr_at_fpr"]

FPRS = (0.01, 0.001)  # false alarms on one of a hundred and of a thousand normal parts
TPR = 0.95

Column = torch.Tensor | npt.NDArray[np.generic]


def image_metrics(logits: Column, labels: Column, *, fprs: tuple[float, ...] = FPRS) -> dict[str, float]:
    """Return every metric of a set of images, the same in whatever order they stand.

    Args:
        logits: Scores of shape ``(N,)``, higher is more anomalous; any strictly monotone scale gives the same result.
        labels: Ground truth of shape ``(N,)``, true (or 1) is anomalous.
        fprs: False-positive rates for :func:`tpr_at_fpr`.

    Returns:
        ``image_auroc``, ``image_ap``, ``image_f1_max``, ``image_tpr_at_fpr_<rate>`` for each of ``fprs`` and
        ``image_fpr_at_tpr_0.95``, in 0..1; empty where one of the two classes is absent.

    Raises:
        ValueError: If the shapes differ or a logit is NaN.

    Example:
        >>> found = image_metrics(np.array([20.0, 25.0, 27.0]), np.array([0, 0, 1]), fprs=(0.01,))
        >>> found["image_auroc"], found["image_tpr_at_fpr_0.01"], found["image_fpr_at_tpr_0.95"]
        (1.0, 1.0, 0.0)
    """
    scores, classes = torch.from_numpy(np.asarray(logits).copy()), torch.from_numpy(np.asarray(labels).copy()).bool()
    if scores.shape != classes.shape or scores.ndim != 1:
        msg = f"logits and labels must share one shape (N,), got {tuple(scores.shape)} and {tuple(classes.shape)}."
        raise ValueError(msg)
    if bool(scores.isnan().any()):
        msg = f"{int(scores.isnan().sum())} of {len(scores)} image logits are NaN; leave out images without a score."
        raise ValueError(msg)
    ranks = _dense_ranks(scores)  # once: the ranks of ranks are the same
    values = {
        "image_auroc": auroc(ranks, classes),
        "image_ap": average_precision(ranks, classes),
        "image_f1_max": f1_max(ranks, classes),
        **{f"image_tpr_at_fpr_{fpr:g}": tpr_at_fpr(ranks, classes, fpr=fpr) for fpr in fprs},
        f"image_fpr_at_tpr_{TPR:g}": fpr_at_tpr(ranks, classes, tpr=TPR),
    }
    return {name: value for name, value in values.items() if value is not None}


def auroc(logits: torch.Tensor, labels: torch.Tensor) -> float | None:
    """Return the area under the ROC curve.

    Args:
        logits: Scores of shape ``(N,)``, higher is more anomalous; any monotone scale gives the same result.
        labels: Ground truth of shape ``(N,)``, true is anomalous.

    Returns:
        The area, ties counted half; None where one of the two classes is absent, since it has no value then.

    Example:
        >>> auroc(torch.tensor([20.0, 25.0, 27.0]), torch.tensor([False, False, True]))
        1.0
    """
    if not _has_both(labels):
        return None
    return float(binary_auroc(_dense_ranks(logits), labels.int()))


def average_precision(logits: torch.Tensor, labels: torch.Tensor) -> float | None:
    """Return the average precision, the step-wise area under the precision-recall curve.

    Args and absent classes are as for :func:`auroc`.

    Example:
        >>> average_precision(torch.tensor([20.0, 25.0, 27.0]), torch.tensor([False, True, False]))
        0.5
    """
    if not _has_both(labels):
        return None
    return float(binary_average_precision(_dense_ranks(logits), labels.int()))


def f1_max(logits: torch.Tensor, labels: torch.Tensor) -> float | None:
    """Return the highest F1 of all thresholds.

    Args and absent classes are as for :func:`auroc`.

    Example:
        >>> f1_max(torch.tensor([20.0, 25.0, 27.0]), torch.tensor([False, True, True]))
        1.0
    """
    if not _has_both(labels):
        return None
    precision, recall, _ = binary_precision_recall_curve(_dense_ranks(logits), labels.int())
    hit = recall > 0  # without a hit, F1 is 0 / 0
    precision, recall = precision[hit].double(), recall[hit].double()
    return float((2 * precision * recall / (precision + recall)).max())


def tpr_at_fpr(logits: torch.Tensor, labels: torch.Tensor, *, fpr: float) -> float | None:
    """Return the highest true-positive rate whose false-positive rate does not pass ``fpr``; nothing is interpolated.

    Args and absent classes are as for :func:`auroc`.

    Example:
        >>> tpr_at_fpr(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([False, True, False, True]), fpr=0.1)
        0.5
    """
    if not _has_both(labels):
        return None
    rates, found, _ = binary_roc(_dense_ranks(logits), labels.int())
    return float(found[rates <= fpr].max())


def fpr_at_tpr(logits: torch.Tensor, labels: torch.Tensor, *, tpr: float) -> float | None:
    """Return the lowest false-positive rate whose true-positive rate reaches ``tpr``; nothing is interpolated.

    Args and absent classes are as for :func:`auroc`.

    Example:
        >>> fpr_at_tpr(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([False, True, False, True]), tpr=0.95)
        0.5
    """
    if not _has_both(labels):
        return None
    rates, found, _ = binary_roc(_dense_ranks(logits), labels.int())
    return float(rates[found >= tpr].min())


def _has_both(labels: torch.Tensor) -> bool:
    return bool(labels.any()) and not bool(labels.all())


def _dense_ranks(logits: torch.Tensor) -> torch.Tensor:
    """Return the rank of each value among the distinct ones, scaled to [0, 1] in float64, where it stays exact."""
    distinct, inverse = torch.unique(logits, return_inverse=True)
    ranks: torch.Tensor = inverse.double() / max(1, distinct.numel() - 1)
    return ranks
