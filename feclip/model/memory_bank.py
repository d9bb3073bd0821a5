"""Few normal shots: how far patch tokens are from those of normal images (FE-CLIP, Section 4.6).

A bank keeps the fused tokens (f_hat of Eq. 2) of normal images at every tap, on the unit sphere, as float16. The
distance of a token is 1 - cosine to the nearest of them, within 0..2; its mean over the taps is added to the anomaly
map, and the maximum of that mean over the valid tokens of an image to its score. The search compares every row.

Shapes: B images, T taps, L patch tokens, D token width, G groups, M rows of a group.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Coreset", "MemoryBank", "greedy_coreset"]

BLOCK_ROWS = 1024
"""Rows that a batch is compared with at once; bounds the memory of a search."""


class MemoryBank(nn.Module):
    """Normal patch tokens, searched exactly, in blocks.

    Args:
        rows: For each tap, in their order, and each group its tokens ``(M, D)``, float16, of unit length, M > 0; M may
            differ.
        groups: Names of the groups, in the order of the rows; none where all images share one bank.

    Attributes:
        groups: As given.

    Raises:
        ValueError: If the rows are not such rows.

    Example:
        >>> bank = MemoryBank([[torch.tensor([[1.0, 0.0]]).half()]])
        >>> bank.distances(0, torch.tensor([[[0.0, 2.0], [3.0, 0.0]]])).tolist()
        [[1.0, 0.0]]
    """

    def __init__(self, rows: Sequence[Sequence[torch.Tensor]], *, groups: Sequence[str] | None = None) -> None:
        super().__init__()
        self.groups = None if groups is None else tuple(groups)
        num_groups = 1 if self.groups is None else len(self.groups)
        for tap, by_group in enumerate(rows):
            fits = len(by_group) == num_groups and all(
                part.dtype is torch.float16 and part.ndim == by_group[0].ndim == 2 and len(part)  # noqa: PLR2004
                for part in by_group
            )
            if not fits:
                msg = (
                    f"tap {tap} of a memory bank must have float16 rows (M, D), M > 0, for each of {num_groups} groups."
                )
                raise ValueError(msg)
            self.register_buffer(f"tap_{tap}", _padded(by_group), persistent=False)
        self.num_taps = len(rows)

    def distances(self, tap: int, tokens: torch.Tensor, groups: torch.Tensor | None = None) -> torch.Tensor:
        """Return 1 - cosine of each token to the nearest row.

        Args:
            tap: Zero-based tap.
            tokens: Fused tokens ``(B, L, D)`` of any length.
            groups: Zero-based group of each image, int64 ``(B,)``; None where all share one bank.

        Returns:
            Distances ``(B, L)``, float32, 0 to 2.
        """
        rows = cast("torch.Tensor", getattr(self, f"tap_{tap}"))  # (G, M, D)
        shares_one = len(rows) == 1
        assert shares_one or groups is not None
        with torch.autocast(tokens.device.type, enabled=False):
            queries = functional.normalize(tokens.float(), dim=-1)
            nearest = queries.new_full(queries.shape[:-1], -torch.inf)
            for start in range(0, rows.shape[1], BLOCK_ROWS):
                block = rows[:, start : start + BLOCK_ROWS]
                similar = queries @ block[0].float().mT if shares_one else torch.bmm(queries, block[groups].float().mT)
                nearest = torch.maximum(nearest, similar.amax(dim=-1))
            return (1 - nearest).clamp(0, 2)


def _padded(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack rows of groups, the shorter ones with copies of their first row, which change no maximum."""
    longest = max(map(len, parts))
    return torch.stack([torch.cat([part, part[:1].expand(longest - len(part), -1)]) for part in parts])


class Coreset(NamedTuple):
    """Rows that stand for all, and what that costs."""

    indices: torch.Tensor
    """Zero-based rows that are kept, int64 ``(K,)``, in the order of their choice."""
    mean_distance: float
    """Mean over all rows of 1 - cosine to the nearest row kept."""
    max_distance: float
    """The largest of these: no row is farther from the coreset."""


def greedy_coreset(rows: torch.Tensor, *, size: int) -> Coreset:
    """Choose rows one by one, each time the one that is farthest from those chosen (k-center greedy).

    The first is the row farthest from the mean. The largest distance is at most twice that of the best choice of as
    many rows, as angles go (Gonzalez, 1985; used for memory banks by PatchCore, Roth et al., CVPR 2022).

    Args:
        rows: Rows of unit length ``(M, D)``.
        size: Rows to keep, K; at least 1 and at most M.

    Raises:
        ValueError: If the size is out of range.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.9998, 0.02], [0.0, 1.0]])
        >>> greedy_coreset(rows, size=2).indices.tolist()
        [2, 0]
    """
    if not 1 <= size <= len(rows):
        msg = f"a coreset of {len(rows)} rows must have 1 to {len(rows)} rows, got {size}."
        raise ValueError(msg)
    rows = functional.normalize(rows.float(), dim=-1)
    mean = functional.normalize(rows.mean(dim=0), dim=0)
    chosen = [int((rows @ mean).argmin())]
    nearest = rows @ rows[chosen[0]]
    while len(chosen) < size:
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, rows @ rows[chosen[-1]])
    distances = (1 - nearest).clamp(min=0)
    return Coreset(torch.tensor(chosen), float(distances.mean()), float(distances.max()))
