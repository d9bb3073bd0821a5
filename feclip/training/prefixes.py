"""Labelled images as the first adapters meet them: tokens after the frozen blocks, computed or kept from before."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from feclip.config import Resize
from feclip.data import (
    Batch,
    LabelledImages,
    Sample,
    by_rectangle,
    collate,
    group_values,
    prefetched,
    prefetched_batches,
    valid_tokens,
)
from feclip.model import FeClipModel, autocast
from feclip.training.prefix_cache import KeptPrefix, PrefixStore

__all__ = ["PrefixBatch", "PrefixSource"]


@dataclass(frozen=True, kw_only=True)
class PrefixBatch:
    """Images of one input size without their pixels, on the device of the model.

    Shapes: H x W the input in pixels, the square or a rectangle; L its tokens, on an H_t x W_t grid.
    """

    tokens: torch.Tensor
    """What `feclip.model.FeClipModel.prefix` returns, ``(B, 1 + L, D)``."""
    valid_tokens: torch.Tensor
    """Shape ``(B, H_t, W_t)``, bool; false on padding."""
    valid_pixels: torch.Tensor
    """Shape ``(B, H, W)``, bool; false on padding."""
    labels: torch.Tensor
    """gt labels of shape ``(B,)``, float32."""
    gt_masks: torch.Tensor
    """Shape ``(B, H, W)``, bool."""
    has_mask: torch.Tensor
    """Shape ``(B,)``, bool."""
    nouns: torch.Tensor
    """Zero-based noun of each image, ``(B,)``, int64; see `feclip.model.FeClipModel.noun_index`."""
    index: torch.Tensor
    """Rows of the table, shape ``(B,)``, int64, zero-based."""


class PrefixSource:
    """The images of a data set, each decoded and brought to the first tap when it is asked for, or once.

    Args:
        model: Whose prefix; nothing that it learns changes it.
        images: The data set.
        precision: Number format of the trunk, see `feclip.model.autocast`.
        device: Where the model computes.
        num_threads: Threads that read and decode.
        store: Where images are kept after they were seen; None keeps none.

    Raises:
        DataError: If groups have nouns of their own, and the images no column that tells their group.
    """

    def __init__(
        self,
        model: FeClipModel,
        images: LabelledImages,
        *,
        precision: str,
        device: torch.device,
        num_threads: int,
        store: PrefixStore | None = None,
    ) -> None:
        self.model = model
        self.images = images
        self.precision = precision
        self.device = device
        self._num_threads = num_threads
        self._store = store
        grouped = group_values(images.table, model.noun_column) if model.noun_groups else [None] * len(images)
        self._nouns = model.noun_index(grouped)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, index_batches: Iterable[Sequence[int]]) -> Iterator[list[PrefixBatch]]:
        """Iterate over batches whose images are read ahead of the consumer.

        Args:
            index_batches: Rows of each batch, zero-based.

        Yields:
            For each sequence of indices its images: together, or where they are rectangles, those of each one.

        Raises:
            FeclipError: If a file cannot be read or decoded, or nothing can be written to the store.
        """
        if self._store is None:
            for batch in prefetched_batches(self.images, index_batches, num_threads=self._num_threads):
                yield [self._computed(part) for part in self._divided(batch)]
            return
        with closing(prefetched(self._find, index_batches, num_threads=self._num_threads)) as batches:
            for found in batches:
                anew = self._keep([image for image in found if isinstance(image, Sample)], store=self._store)
                yield self._joined([anew[image.index] if isinstance(image, Sample) else image for image in found])

    def _find(self, index: int) -> "_Found | Sample":
        assert self._store is not None
        kept = self._store.get(index)
        return self.images[index] if kept is None else _Found(index, kept)

    def _divided(self, batch: Batch) -> list[Batch]:
        """Return a batch as the model reads it: whole, or the rectangles of each shape."""
        if self.images.options.resize != Resize.rectangle:
            return [batch]
        patch_size = self.model.patch_size
        boxes = by_rectangle(batch.valid_pixels.numpy(), patch_size=patch_size)
        return [
            _part(batch, torch.from_numpy(chosen), window=box.pixels(patch_size=patch_size))
            for box, chosen in boxes.items()
        ]

    def _computed(self, batch: Batch) -> PrefixBatch:
        batch = batch.to(self.device)
        seen = valid_tokens(batch.valid_pixels, patch_size=self.model.patch_size)
        with autocast(self.precision, device=self.device):
            tokens = self.model.prefix(self.model.normalize(batch.images, batch.valid_pixels), seen)
        return self._without_pixels(batch, tokens=tokens)

    def _keep(self, samples: list[Sample], *, store: PrefixStore) -> "dict[int, _Found]":
        """Bring what is not kept yet to the first tap, all in one batch, and keep it."""
        if not samples:
            return {}
        found = {}
        by_index = {sample.index: sample for sample in samples}
        for batch in map(self._computed, self._divided(collate(samples))):
            for index, tokens in zip(batch.index.tolist(), batch.tokens.cpu(), strict=True):
                valid, mask = _packed(by_index[index].valid_pixels), _packed(by_index[index].gt_mask)
                found[index] = _Found(index, KeptPrefix(tokens.clone(), valid, mask))
                store.put(*found[index])
        return found

    def _joined(self, found: "list[_Found]") -> list[PrefixBatch]:
        rows, kept = zip(*found, strict=True)
        index, side = torch.tensor(rows), self.model.image_size
        batch = Batch(
            images=torch.zeros(len(found), 0, side, side, dtype=torch.uint8),  # what its pixels became is kept
            valid_pixels=_unpacked([each.valid_pixels for each in kept], side=side),
            labels=self.images.labels[index],
            gt_masks=_unpacked([each.gt_mask for each in kept], side=side),
            has_mask=self.images.has_mask[index],
            index=index,
        )
        tokens = {row: each.tokens for row, each in found}
        return [
            self._without_pixels(
                part.to(self.device), tokens=torch.stack([tokens[row] for row in part.index.tolist()]).to(self.device)
            )
            for part in self._divided(batch)
        ]

    def _without_pixels(self, batch: Batch, *, tokens: torch.Tensor) -> PrefixBatch:
        return PrefixBatch(
            tokens=tokens,
            valid_tokens=valid_tokens(batch.valid_pixels, patch_size=self.model.patch_size),
            valid_pixels=batch.valid_pixels,
            labels=batch.labels,
            gt_masks=batch.gt_masks,
            has_mask=batch.has_mask,
            nouns=self._nouns[batch.index.cpu()].to(self.device),
            index=batch.index,
        )


class _Found(NamedTuple):
    """What the store had, and of which row."""

    row: int
    kept: KeptPrefix


def _part(batch: Batch, chosen: torch.Tensor, *, window: tuple[slice, slice]) -> Batch:
    """Return some images of a batch, and of their squares a window."""
    rows, columns = window
    return Batch(
        images=batch.images[chosen][:, :, rows, columns],
        valid_pixels=batch.valid_pixels[chosen][:, rows, columns],
        labels=batch.labels[chosen],
        gt_masks=batch.gt_masks[chosen][:, rows, columns],
        has_mask=batch.has_mask[chosen],
        index=batch.index[chosen],
    )


def _packed(mask: torch.Tensor) -> torch.Tensor:
    """Return the bits of a bool mask, uint8, eight pixels a byte."""
    return torch.from_numpy(np.packbits(mask.numpy()))


def _unpacked(bits: list[torch.Tensor], *, side: int) -> torch.Tensor:
    """Return the masks of `_packed`, ``(B, side, side)``, bool."""
    pixels = np.unpackbits(torch.stack(bits).numpy(), axis=1, count=side * side)
    return torch.from_numpy(pixels.reshape(-1, side, side).view(np.bool_))
