"""Which epoch of a tuned parent becomes the bundle, and when there is no point in a further one.

The choice reads held-out images with labels of both kinds, as every choice does. Epoch 0 is the parent itself, so that
on these images tuning cannot make a bundle worse; of equals the earlier one is taken, which has moved less.
"""

from collections.abc import Mapping, Sequence

from feclip.errors import RunError

__all__ = ["METRIC", "best_epoch", "is_over"]

METRIC = "image_auroc"


def best_epoch(before: Mapping[str, float], epochs: Sequence[Mapping[str, float]]) -> int:
    """Return the number of the epoch with the highest held-out image AUROC; 0 for the parent.

    Args:
        before: Held-out metrics of the parent.
        epochs: Those of each finished epoch, in order.

    Raises:
        RunError: If the held-out images have no AUROC.

    Example:
        >>> best_epoch({"image_auroc": 0.8}, [{"image_auroc": 0.9}, {"image_auroc": 0.9}])
        1
    """
    records = [before, *epochs]
    if any(METRIC not in record for record in records):
        msg = (
            "The held-out images have no AUROC to choose an epoch by: hold out normal and anomalous ones of a category."
        )
        raise RunError(msg)
    values = [record[METRIC] for record in records]
    return values.index(max(values))


def is_over(before: Mapping[str, float], epochs: Sequence[Mapping[str, float]], *, patience: int | None) -> bool:
    """Tell whether so many epochs brought no higher held-out image AUROC that training ends.

    Args:
        before: As for `best_epoch`.
        epochs: As for `best_epoch`.
        patience: Epochs without a higher one; None never ends it.

    Example:
        >>> is_over({"image_auroc": 0.8}, [{"image_auroc": 0.7}], patience=1)
        True
    """
    return patience is not None and len(epochs) - best_epoch(before, epochs) >= patience
