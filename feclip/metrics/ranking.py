"""Metrics that depend on the order of the scores alone.

torchmetrics computes them, over *dense ranks* instead of logits: given values outside [0, 1] it applies a float32
sigmoid, which is 1.0 from a logit of 17 on and ties what it should rank (the temperature 0.07 allows logits of 28).
"""

import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

__all__ = ["auroc", "average_precision"]


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
    return float(binary_auroc(_dense_ranks(logits), labels.flatten().int()))


def average_precision(logits: torch.Tensor, labels: torch.Tensor) -> float | None:
    """Return the average precision, the step-wise area under the precision-recall curve.

    Args and absent classes are as for :func:`auroc`.

    Example:
        >>> average_precision(torch.tensor([20.0, 25.0, 27.0]), torch.tensor([False, True, False]))
        0.5
    """
    if not _has_both(labels):
        return None
    return float(binary_average_precision(_dense_ranks(logits), labels.flatten().int()))


def _has_both(labels: torch.Tensor) -> bool:
    return bool(labels.any()) and not bool(labels.all())


def _dense_ranks(logits: torch.Tensor) -> torch.Tensor:
    """Return the rank of each value among the distinct ones, scaled to [0, 1] in float64, where it stays exact."""
    distinct, inverse = torch.unique(logits.flatten(), return_inverse=True)
    ranks: torch.Tensor = inverse.double() / max(1, distinct.numel() - 1)
    return ranks
