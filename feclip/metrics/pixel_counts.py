"""What the pixel metrics of any number of images are computed from, exact and mergeable over workers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from feclip.score_keys import KEY_BITS, Keys, keys_of

__all__ = ["Maps", "PixelCounts"]

Maps = npt.NDArray[np.generic] | torch.Tensor
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)  # pixels that touch at a corner are one region
NO_KEYS: Keys = np.zeros(0, np.uint32)


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelCounts:
    """Counted pixels of whole images: their scores as ordered integers, and the regions of the anomalous ones.

    The arrays are sorted, so they are the same, bit for bit, in whatever order and division the images came; and so is
    what is computed from them. Plain arrays, to be sent between processes. Memory: 4 bytes for each normal pixel, 8 for
    each anomalous one (0.45 MB for an image of 336 px); twice that while parts are merged.
    """

    normal_keys: Keys
    """Key (:mod:`feclip.score_keys`) of each normal pixel's logit, ascending; of normal images too."""
    anomalous_keys: Keys
    """Key of each anomalous pixel's logit, ascending."""
    region_sizes: Keys
    """Counted pixels in the region of each anomalous pixel; ascending where keys are equal."""

    @classmethod
    def empty(cls) -> Self:
        """Return the counts of no image."""
        return cls(normal_keys=NO_KEYS, anomalous_keys=NO_KEYS, region_sizes=NO_KEYS)

    @classmethod
    def of(cls, pixel_logits: Maps, gt_masks: Maps) -> Self:
        """Count the pixels of N whole images.

        Args:
            pixel_logits: Scores ``(N, H, W)`` float32, higher is more anomalous; NaN where a pixel does not count: on
                padding, or in an image without a gt mask.
            gt_masks: Ground truth ``(N, H, W)``, true is anomalous. A region is what hangs together by edges or
                corners in one image, across pixels that do not count too; these are left out of its size.

        Raises:
            ValueError: If the shapes differ or the logits are not float32, which would tie what should be ranked.

        Example:
            >>> counts = PixelCounts.of(torch.tensor([[[5.0, 1.0, 0.0]]]), torch.tensor([[[True, False, False]]]))
            >>> len(counts.normal_keys), counts.region_sizes.tolist()
            (2, [1])
        """
        logits, masks = np.asarray(pixel_logits), np.asarray(gt_masks).astype(np.bool_, copy=False)
        if logits.shape != masks.shape or logits.ndim != 3:  # noqa: PLR2004 - (N, H, W)
            msg = f"pixel_logits and gt_masks must share one shape (N, H, W), got {logits.shape} and {masks.shape}."
            raise ValueError(msg)
        if logits.dtype != np.float32:
            msg = f"pixel_logits must be float32, got {logits.dtype}."
            raise ValueError(msg)
        return cls.merge_all(_count_image(*image) for image in zip(logits, masks, strict=True))

    @classmethod
    def merge_all(cls, parts: Iterable["PixelCounts"]) -> Self:
        """Return the counts of all parts together, in one sort: pairwise merging would sort again each time."""
        found: list[PixelCounts] = [cls.empty(), *parts]
        pairs = np.concatenate([_pack(part.anomalous_keys, part.region_sizes) for part in found])
        # Timsort, which takes up the parts where they are sorted already.
        pairs.sort(kind="stable")
        normal_keys = np.concatenate([part.normal_keys for part in found])
        normal_keys.sort(kind="stable")
        return cls(
            normal_keys=normal_keys,
            anomalous_keys=(pairs >> np.uint64(KEY_BITS)).astype(np.uint32),
            region_sizes=pairs.astype(np.uint32),
        )

    def merge(self, other: "PixelCounts") -> "PixelCounts":
        """Return the counts of both together."""
        return self.merge_all([self, other])

    @property
    def num_regions(self) -> int:
        """Regions of which a pixel counts."""
        sizes, numbers = np.unique(self.region_sizes, return_counts=True)
        assert not (numbers % sizes).any(), "a region was divided"
        return int((numbers // sizes).sum())


def _count_image(logits: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> PixelCounts:
    """Return the counts of one image, sorted."""
    counted = ~np.isnan(logits)
    normal_keys = keys_of(logits[counted & ~mask])
    normal_keys.sort()
    anomalous = counted & mask
    if not anomalous.any():
        return PixelCounts(normal_keys=normal_keys, anomalous_keys=NO_KEYS, region_sizes=NO_KEYS)
    regions = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)[0][anomalous]
    keys, sizes = keys_of(logits[anomalous]), np.bincount(regions)[regions].astype(np.uint32)
    order = np.lexsort((sizes, keys))
    return PixelCounts(normal_keys=normal_keys, anomalous_keys=keys[order], region_sizes=sizes[order])


def _pack(keys: Keys, sizes: Keys) -> npt.NDArray[np.uint64]:
    """Return one integer for each pair, ordered by key, then by size."""
    return (keys.astype(np.uint64) << np.uint64(KEY_BITS)) | sizes
