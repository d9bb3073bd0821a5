"""A memory bank made of normal images, on one device: their fused tokens, by tap and group, thinned where asked.

Shapes: N images, T taps, H_t x W_t token grid, D token width, M rows.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from feclip.bundle import Bundle, StoredBank
from feclip.data import by_rectangle, valid_tokens
from feclip.errors import DataError
from feclip.model import FeClipModel, autocast, greedy_coreset

__all__ = ["MAX_BANK_BYTES", "BankImages", "build_bank"]

MAX_BANK_BYTES = 2_000_000_000
"""Largest bank, as it is read at once by every actor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BankImages:
    """Prepared normal images of a group, some at a time."""

    pixels: npt.NDArray[np.uint8]
    """RGB ``(N, S, S, 3)``."""
    valid_pixels: npt.NDArray[np.bool_]
    """``(N, S, S)``, false on padding."""


def build_bank(
    bundle: Bundle,
    groups: Mapping[str, Iterable[BankImages]],
    *,
    group_column: str | None,
    request: Mapping[str, Any],
    coreset_fraction: float = 1.0,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    pretrained: str | None = None,
) -> StoredBank:
    """Make a memory bank; a group at a time is in memory before it is thinned.

    Args:
        bundle: The bundle, without a memory bank.
        groups: Normal images by group; the group without a name where there is no column.
        group_column: Column by which images are told apart when they are scored.
        request: What was asked for, which the bank records.
        coreset_fraction: Share of the rows of each tap and group that are kept, above 0 and at most 1.
        device: Where the model runs.
        precision: As for the `Scorer`.
        pretrained: As for the `Scorer`.

    Raises:
        BundleError: If the backbone does not fit.
        ConfigError: If its weights cannot be had.
        DataError: If there is no image, or the bank would be too large.
    """
    assert bundle.memory_bank is None
    device = torch.device(device)
    model = bundle.build(pretrained=pretrained).to(device).eval()
    rows: list[list[torch.Tensor]] = [[] for _ in model.tap_blocks]
    counts: dict[str, int] = {}
    losses = [(0.0, 0.0)]
    num_bytes = 0
    for group, batches in sorted(groups.items()):
        parts: list[list[torch.Tensor]] = [[] for _ in model.tap_blocks]
        for images in batches:
            counts[group] = counts.get(group, 0) + len(images.pixels)
            for same in _rectangles(images, patch_size=model.patch_size) if bundle.is_rectangular else [images]:
                for tap, found in enumerate(_tokens(model, same, device=device, precision=precision)):
                    parts[tap].append(found)
        if not counts.get(group):
            msg = (
                f"there is no normal image for the memory bank{f' of {group_column}={group}' if group_column else ''}."
            )
            raise DataError(msg)
        for tap, tokens in enumerate(parts):
            kept, *loss = _thinned(torch.cat(tokens), fraction=coreset_fraction, device=device)
            rows[tap].append(kept)
            losses.append((loss[0], loss[1]))
            num_bytes += kept.numel() * kept.element_size()
            if num_bytes > MAX_BANK_BYTES:
                msg = (
                    f"the memory bank passes {MAX_BANK_BYTES / 1e9:g} GB; take fewer images, or a smaller "
                    "bank.coreset_fraction."
                )
                raise DataError(msg)
    return StoredBank.of(
        rows,
        parent_model_id=bundle.model_id,
        request=dict(request),
        group_column=group_column,
        groups=counts,
        mean_distance=max(mean for mean, _ in losses),
        max_distance=max(largest for _, largest in losses),
    )


def _rectangles(images: BankImages, *, patch_size: int) -> Iterator[BankImages]:
    """Yield images of one rectangle at a time, without the rest of their squares."""
    for box, chosen in by_rectangle(images.valid_pixels, patch_size=patch_size).items():
        rows, columns = box.pixels(patch_size=patch_size)
        yield BankImages(
            pixels=images.pixels[chosen, rows, columns], valid_pixels=images.valid_pixels[chosen, rows, columns]
        )


@torch.inference_mode()
def _tokens(model: FeClipModel, images: BankImages, *, device: torch.device, precision: str) -> list[torch.Tensor]:
    """Return the valid fused tokens of some images at each tap, of unit length, ``(M, D)``, float16, on the CPU."""
    pixels = torch.from_numpy(images.pixels).to(device).permute(0, 3, 1, 2).contiguous()
    valid = torch.from_numpy(images.valid_pixels).to(device)
    seen = valid_tokens(valid, patch_size=model.patch_size)
    with autocast(precision, device=device):
        fused = model.fused_tokens(model.normalize(pixels, valid), seen)
    units = functional.normalize(fused.float(), dim=-1)
    return [units[:, tap][seen].half().cpu() for tap in range(units.shape[1])]


def _thinned(rows: torch.Tensor, *, fraction: float, device: torch.device) -> tuple[torch.Tensor, float, float]:
    """Return the rows of a coreset, and the mean and the largest distance of all rows to it."""
    size = max(1, math.ceil(Decimal(str(fraction)) * len(rows)))
    if size == len(rows):
        return rows, 0.0, 0.0
    coreset = greedy_coreset(rows.to(device), size=size)
    return rows[coreset.indices], coreset.mean_distance, coreset.max_distance
