"""Bootstrap confidence intervals: how far a metric would move on other images of the same kind.

Images are drawn with replacement among the normal and among the anomalous ones, so each resample holds as many of both
as the data (a plain draw can lose a class of a small category). An image is drawn with all its pixels.

Letters: N images, R resamples.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from feclip.metrics.binned_pixels import BinnedPixels
from feclip.metrics.pixel_counts import PixelCounts
from feclip.metrics.ranking import FPRS, Column, image_metrics

__all__ = ["bootstrap_intervals", "bootstrap_means", "bootstrap_pairs", "bootstrap_values"]

Floats = npt.NDArray[np.float64]


def bootstrap_values(
    logits: Column,
    labels: Column,
    *,
    pixels: Sequence[PixelCounts] = (),
    seed: int,
    category: str = "",
    num_resamples: int = 1000,
    fprs: tuple[float, ...] = FPRS,
) -> dict[str, Floats]:
    """Return the metrics of each resample of one category.

    The image metrics are exact, the pixel metrics those of :class:`feclip.metrics.binned_pixels.BinnedPixels`.

    Args:
        logits: Scores of the category's images, of shape ``(N,)``.
        labels: Their ground truth, of shape ``(N,)``, true (or 1) is anomalous.
        pixels: The counts of each image on its own, in the same order; empty for the image metrics alone.
        seed: Same seed, same resamples, in whatever order the images stand (where logits tie, in one order).
        category: Its name; each category draws on its own, so that the means of several are not tied together.
        num_resamples: R.
        fprs: As for :func:`feclip.metrics.image_metrics`.

    Returns:
        By metric, values of shape ``(R,)``; NaN in a resample where it has none; what no resample has is absent.

    Raises:
        ValueError: If the number of ``pixels`` is another than that of images, and as ``image_metrics`` does.
    """
    scores, classes = np.asarray(logits), np.asarray(labels).astype(np.bool_)
    _check_pixels(pixels, num_images=len(scores))
    order = np.lexsort((scores, classes))
    rng = np.random.default_rng([seed, zlib.crc32(category.encode())])
    weights = _draw(classes[order], rng=rng, num_resamples=num_resamples)
    return _values(scores, classes, pixels, order=order, weights=weights, fprs=fprs)


def bootstrap_pairs(
    before: Column,
    after: Column,
    labels: Column,
    *,
    pixels: tuple[Sequence[PixelCounts], Sequence[PixelCounts]] = ((), ()),
    seed: int,
    category: str = "",
    num_resamples: int = 1000,
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return the metrics of two models on the same resamples of one category, so that their differences can be taken.

    Args:
        before: Scores of one model, of shape ``(N,)``.
        after: Scores of the other on the same images, in the same order.
        labels: As for `bootstrap_values`.
        pixels: The counts of each image on its own by each of the two, in the same order; empty for the image metrics
            alone.
        seed: Same seed and order of the images, same resamples.
        category: As for `bootstrap_values`.
        num_resamples: R.

    Returns:
        For each model, what `bootstrap_values` returns.

    Raises:
        ValueError: If there are two numbers of images, and as `bootstrap_values` does.

    Example:
        >>> before, labels = np.float32([0, 2, 1, 3]), np.array([0, 0, 1, 1])
        >>> one, other = bootstrap_pairs(before, before + 5, labels, seed=0)
        >>> bool((one["image_auroc"] == other["image_auroc"]).all())  # other scores, the same ranking
        True
    """
    models = [np.asarray(before), np.asarray(after)]
    classes = np.asarray(labels).astype(np.bool_)
    if any(len(scores) != len(classes) for scores in models):
        msg = f"before and after must hold a score of each of the {len(classes)} images."
        raise ValueError(msg)
    order = np.argsort(classes, kind="stable")
    rng = np.random.default_rng([seed, zlib.crc32(category.encode())])
    weights = _draw(classes[order], rng=rng, num_resamples=num_resamples)
    for own in pixels:
        _check_pixels(own, num_images=len(classes))
    one, other = (
        _values(scores, classes, own, order=order, weights=weights, fprs=FPRS)
        for scores, own in zip(models, pixels, strict=True)
    )
    return one, other


def _check_pixels(pixels: Sequence[PixelCounts], *, num_images: int) -> None:
    if pixels and len(pixels) != num_images:
        msg = f"pixels must hold the counts of each of the {num_images} images on its own, got {len(pixels)}."
        raise ValueError(msg)


def _values(
    scores: npt.NDArray[Any],
    classes: npt.NDArray[np.bool_],
    pixels: Sequence[PixelCounts],
    *,
    order: npt.NDArray[np.int64],
    weights: npt.NDArray[np.int64],
    fprs: tuple[float, ...],
) -> dict[str, Floats]:
    """Return the metrics of each resample; ``weights`` says how often each image is in it, in that order of images."""
    resamples = (order[np.repeat(np.arange(len(order)), row)] for row in weights)
    found = [image_metrics(scores[chosen], classes[chosen], fprs=fprs) for chosen in resamples]
    if pixels:
        binned = BinnedPixels.of([pixels[index] for index in order])
        found = [image | pixel for image, pixel in zip(found, binned.metrics(weights), strict=True)]
    names = dict.fromkeys(name for metrics in found for name in metrics)
    return {name: np.array([metrics.get(name, np.nan) for metrics in found]) for name in names}


def bootstrap_means(by_category: Mapping[str, Mapping[str, Floats]]) -> dict[str, Floats]:
    """Return the mean over the categories of each resample: the spread of ``mean_over_categories``.

    Args:
        by_category: What :func:`bootstrap_values` returned for each, with one number of resamples. The categories are
            taken as given: it is images that are drawn.
    """
    names = dict.fromkeys(name for values in by_category.values() for name in values)
    means = {}
    for name in names:
        values = np.stack([by_category[key][name] for key in sorted(by_category) if name in by_category[key]])
        has_value = ~np.isnan(values)
        totals = np.where(has_value, values, 0.0).sum(axis=0)
        means[name] = np.divide(totals, has_value.sum(axis=0), out=np.full(len(totals), np.nan), where=has_value.any(0))
    return means


def bootstrap_intervals(values: Mapping[str, Floats], *, confidence: float = 0.95) -> dict[str, tuple[float, float]]:
    """Return the percentile interval of each metric as ``(low, high)``.

    Args:
        values: Of :func:`bootstrap_values` or :func:`bootstrap_means`; resamples without a value are left out.
        confidence: Share of the resamples inside, above 0 and below 1.

    Raises:
        ValueError: If ``confidence`` is out of range.

    Example:
        >>> bootstrap_intervals({"image_auroc": np.linspace(0, 1, 9)}, confidence=0.5)
        {'image_auroc': (0.25, 0.75)}
    """
    if not 0 < confidence < 1:
        msg = f"confidence must lie in (0, 1), got {confidence}."
        raise ValueError(msg)
    low, high = (1 - confidence) / 2, (1 + confidence) / 2
    return {
        name: (float(np.nanquantile(found, low)), float(np.nanquantile(found, high))) for name, found in values.items()
    }


def _draw(classes: npt.NDArray[np.bool_], *, rng: np.random.Generator, num_resamples: int) -> npt.NDArray[np.int64]:
    """Return how often each image is drawn, ``(R, N)``, for classes that are sorted."""
    drawn = []
    for number in (int((~classes).sum()), int(classes.sum())):
        picks = rng.integers(max(1, number), size=(num_resamples, number))
        drawn.append(np.stack([np.bincount(row, minlength=number) for row in picks]))
    return np.concatenate(drawn, axis=1)
