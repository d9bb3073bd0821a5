"""A tuned bundle against its parent: both judged on the same images, and the difference over the same resamples.

    compare_category(rows, rows, pixels)   a task for each category
    compare_domain(pairs)                  driver: means over the categories, and their change

A change is worse where the whole 95 % interval of the difference is below 0. Intervals of the two models that overlap
say little: scores of one image by two models that are near each other go up and down together.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from feclip.bundle import Change, Domain
from feclip.evaluation.judging import SEED, CategoryResult, judge_category
from feclip.metrics import PixelCounts, bootstrap_intervals, bootstrap_means, bootstrap_pairs, mean_over_categories

__all__ = ["Pair", "compare_category", "compare_domain"]

METRICS = ("image_auroc", "pixel_auroc")
NUM_RESAMPLES = 1000

Pair = tuple[CategoryResult, CategoryResult]
"""A category, judged by the parent and by the tuned bundle."""


def compare_category(
    rows: tuple[pa.Table, pa.Table],
    pixels: tuple[Mapping[str, PixelCounts], Mapping[str, PixelCounts]],
    *,
    category: str,
    num_resamples: int = NUM_RESAMPLES,
) -> Pair:
    """Return the numbers of one category by both models, resampled alike.

    Args:
        rows: Its rows of `image_rows`, by the parent and by the tuned bundle, in any order.
        pixels: What `count_pixels` returned for them.
        category: Its name, by which it draws its resamples.
        num_resamples: Resamples behind the intervals.
    """
    before, after = (table.sort_by("uri") for table in rows)
    assert before["uri"].equals(after["uri"])
    by_image = [
        [counts.get(uri, PixelCounts.empty()) for uri in before["uri"].to_pylist()] if counts else []
        for counts in pixels
    ]
    resampled = bootstrap_pairs(
        np.asarray(before["image_logit"]),
        np.asarray(after["image_logit"]),
        np.asarray(before["label"]),
        pixels=(by_image[0], by_image[1]),
        seed=SEED,
        category=category,
        num_resamples=num_resamples,
    )
    one, other = (
        dataclasses.replace(judge_category(table, counts, category=category, num_resamples=0), resampled=values)
        for table, counts, values in zip((before, after), pixels, resampled, strict=True)
    )
    return one, other


def compare_domain(pairs: Mapping[str, Pair], *, name: str, source: str) -> Domain:
    """Return how the tuned bundle compares with its parent on the images of one domain.

    Args:
        pairs: What `compare_category` returned for each of its categories.
        name: ``field`` or ``old``.
        source: Where its images come from.
    """
    sides = [{category: pair[side] for category, pair in pairs.items()} for side in (0, 1)]
    means = [mean_over_categories({name: result.metrics for name, result in side.items()}) for side in sides]
    resampled = [bootstrap_means({name: result.resampled for name, result in side.items()}) for side in sides]
    changes = []
    for metric in METRICS:
        if all(metric in side for side in means) and all(metric in side for side in resampled):
            low, high = bootstrap_intervals({metric: resampled[1][metric] - resampled[0][metric]})[metric]
            changes.append(Change(metric=metric, before=means[0][metric], after=means[1][metric], low=low, high=high))
    parts = list(sides[0].values())
    return Domain(
        name=name,
        source=source,
        num_images=sum(part.num_images for part in parts),
        num_anomalous=sum(part.num_anomalous for part in parts),
        changes=tuple(changes),
    )
