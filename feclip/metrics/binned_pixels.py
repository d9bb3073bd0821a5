"""The pixel metrics of many resamples of the same images, by counts in bins of scores.

Letters: N images, R resamples, B bins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feclip.metrics.community import area_of_kept, community_keys
from feclip.metrics.pixel_counts import PixelCounts
from feclip.metrics.pixel_curve import PixelCurve, curve_metrics
from feclip.metrics.ranking import RankCurve
from feclip.score_keys import Keys

__all__ = ["BinnedPixels"]

NUM_QUANTILES = 2048
RESAMPLES_AT_ONCE = 64  # 2 MB for each of the three kinds of counts

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class BinnedPixels:
    """Counts of each image in bins of scores, lowest bin first; the scores of a bin count as ties.

    A bin starts at each of 2,048 quantiles of the normal pixels of all images and of the anomalous ones, so that it
    holds at most 1/2,048 of either, and where the community's thresholds lie for all images, which are kept in every
    resample. With no more distinct scores than that, all but the community's value is exact. Memory: 0.1 MB per image.
    """

    normal: Floats
    """Normal pixels, ``(N, B)``; whole numbers, as floats since those are multiplied fast."""
    anomalous: Floats
    """Anomalous pixels, ``(N, B)``."""
    overlap: Floats
    """Share of each region, summed over the regions, ``(N, B)``."""
    num_regions: Floats
    """Regions, ``(N,)``."""
    community: Integers
    """First bin above each of the community's thresholds; empty where the recipe has no value."""

    @classmethod
    def of(cls, pixels: Sequence[PixelCounts]) -> "BinnedPixels":
        """Bin the counts of N images, each on its own."""
        merged = PixelCounts.merge_all(pixels)
        both = len(merged.normal_keys) > 0 and len(merged.anomalous_keys) > 0
        recipe = community_keys(merged) if both else np.zeros(0, np.uint32)
        quantiles = [_quantiles(merged.normal_keys), _quantiles(merged.anomalous_keys)]
        starts = np.unique(np.concatenate([np.zeros(1, np.uint32), *quantiles, recipe]))
        columns: tuple[list[Floats], list[Floats], list[Floats]] = ([], [], [])
        for image in pixels:
            normal_ends = np.append(np.searchsorted(image.normal_keys, starts), len(image.normal_keys))
            ends = np.append(np.searchsorted(image.anomalous_keys, starts), len(image.anomalous_keys))
            shares = np.append(0.0, np.cumsum(1.0 / image.region_sizes))
            for column, values in zip(columns, (normal_ends, ends, shares[ends]), strict=True):
                column.append(np.diff(values).astype(np.float64))
        return cls(
            normal=np.stack(columns[0]),
            anomalous=np.stack(columns[1]),
            overlap=np.stack(columns[2]),
            num_regions=np.array([image.num_regions for image in pixels], np.float64),
            community=np.searchsorted(starts, recipe),
        )

    def metrics(self, weights: Integers) -> Iterator[dict[str, float]]:
        """Yield what :func:`feclip.metrics.pixel_metrics` would return for each resample, approximately.

        Args:
            weights: How often each image is in each resample, ``(R, N)``.
        """
        for start in range(0, len(weights), RESAMPLES_AT_ONCE):
            chunk = weights[start : start + RESAMPLES_AT_ONCE].astype(np.float64)
            kinds = (chunk @ self.normal, chunk @ self.anomalous, chunk @ self.overlap, chunk @ self.num_regions)
            for normal, anomalous, overlap, num_regions in zip(*kinds, strict=True):
                yield self._of_resample(normal, anomalous, overlap, num_regions=int(num_regions))

    def _of_resample(self, normal: Floats, anomalous: Floats, overlap: Floats, *, num_regions: int) -> dict[str, float]:
        """Return the metrics of counts of shape ``(B,)``."""
        reached = np.cumsum(normal[::-1]).astype(np.int64)
        found = np.cumsum(anomalous[::-1]).astype(np.int64)
        overlaps = np.cumsum(overlap[::-1])
        if reached[-1] == 0 or found[-1] == 0:
            return {}
        finds = anomalous[::-1] > 0
        ranks = RankCurve(
            above=(reached - normal[::-1].astype(np.int64))[finds],
            reached=reached[finds],
            found=found[finds],
            num_normal=int(reached[-1]),
        )
        curve = PixelCurve(ranks=ranks, overlap=overlaps[finds], num_regions=num_regions)
        metrics = curve_metrics(curve)
        # The bins from the highest down to the first above a threshold, counted from one; none of them is no pixel.
        bins = len(normal) - self.community
        community = area_of_kept(
            np.append(0, reached)[bins] / ranks.num_normal, np.append(0.0, overlaps)[bins] / num_regions
        )
        return metrics if community is None else metrics | {"aupro_community": community}


def _quantiles(keys: Keys) -> Keys:
    """Return the keys at equal distances of rank, or each distinct one where there are no more; ``keys`` ascend."""
    is_first = np.append(np.ones(min(len(keys), 1), np.bool_), keys[1:] != keys[:-1])
    few = np.count_nonzero(is_first) <= NUM_QUANTILES
    starts: Keys = keys[is_first] if few else keys[np.arange(NUM_QUANTILES) * len(keys) // NUM_QUANTILES]
    return starts
