"""Windows on a token grid: edge padding, valid masks, and depthwise filters in place of unfolding.

Shapes: B images, H_t x W_t token grid, D token width, Q window side in tokens.
"""

import torch
from torch.nn import functional


def check_valid_tokens(valid_tokens: torch.Tensor | None, shape: tuple[int, ...]) -> None:
    """Refuse a valid mask that is not bool or does not fit the token grid.

    Args:
        valid_tokens: The mask, or none, which fits any grid.
        shape: What it must have, ``(B, H_t, W_t)``.

    Raises:
        ValueError: If type or shape differ.

    Example:
        >>> check_valid_tokens(torch.ones(2, 4, 4, dtype=torch.bool), (2, 4, 4))
    """
    if valid_tokens is not None and (valid_tokens.dtype != torch.bool or valid_tokens.shape != shape):
        got = f"{valid_tokens.dtype} of shape {tuple(valid_tokens.shape)}"
        msg = f"valid_tokens must be torch.bool of shape {tuple(shape)}, got {got}."
        raise ValueError(msg)


def pad_edge(grid: torch.Tensor, *, before: int, after: tuple[int, int]) -> torch.Tensor:
    """Repeat the edge of a grid outwards.

    Args:
        grid: Tokens ``(B, H_t, W_t, D)`` or a mask ``(B, H_t, W_t)``.
        before: Rows added above and columns added at the left.
        after: Rows added below, columns added at the right.

    Returns:
        The larger grid, contiguous.

    Example:
        >>> pad_edge(torch.arange(4).reshape(1, 2, 2), before=0, after=(1, 1))[0].tolist()
        [[0, 1, 1], [2, 3, 3], [2, 3, 3]]
    """
    for dim, count in zip((1, 2), after, strict=True):
        first = [grid.narrow(dim, 0, 1)] * before
        last = [grid.narrow(dim, grid.shape[dim] - 1, 1)] * count
        if first or last:
            grid = torch.cat([*first, grid, *last], dim=dim)
    return grid.contiguous()


def fill_windows(windows: torch.Tensor, valid: torch.Tensor, *, dims: tuple[int, ...]) -> torch.Tensor:
    """Replace the invalid entries of each window by the mean of its valid ones, or by 0 where it has none.

    Args:
        windows: Values; any shape.
        valid: Bool, broadcasts to ``windows``.
        dims: Dimensions that run inside a window.

    Returns:
        Values of the same shape. Invalid entries, NaN included, reach neither it nor a gradient.

    Example:
        >>> fill_windows(torch.tensor([1.0, 3.0, torch.nan]), torch.tensor([True, True, False]), dims=(0,)).tolist()
        [1.0, 3.0, 2.0]
    """
    total = torch.where(valid, windows, 0).sum(dim=dims, keepdim=True)
    count = valid.sum(dim=dims, keepdim=True).clamp(min=1)
    return torch.where(valid, windows, (total / count).to(windows.dtype))


class SlidingWindows:
    """The windows around every token of a grid, answered by depthwise filters rather than unfolded.

    A filter's response is linear in the window. With the window's invalid tokens replaced by the mean of its
    valid ones it is therefore ``filter(valid tokens) + filter(invalid mask) * mean``, and a mask without false
    entries adds an exact zero.

    Args:
        tokens: Patch tokens ``(B, H_t, W_t, D)``.
        valid_tokens: Bool ``(B, H_t, W_t)``, false on padding; none means all valid.
        size: Window side ``Q``, in tokens; the edge is repeated for ``(Q - 1) // 2`` before, ``Q // 2`` after.

    Example:
        >>> windows = SlidingWindows(torch.ones(1, 4, 4, 2), None, size=2)
        >>> windows.respond(torch.ones(2, 2)).unique().tolist()
        [4.0]
    """

    def __init__(self, tokens: torch.Tensor, valid_tokens: torch.Tensor | None, *, size: int) -> None:
        before, after = (size - 1) // 2, size // 2
        grid = pad_edge(tokens, before=before, after=(after, after))
        self._invalid: torch.Tensor | None = None
        if valid_tokens is not None:
            valid = pad_edge(valid_tokens, before=before, after=(after, after))[..., None]
            grid = torch.where(valid, grid, 0)
            ones = torch.ones(size, size, dtype=grid.dtype, device=grid.device)
            counts = _filter_depthwise(valid.to(grid.dtype), ones).clamp(min=1)
            self._invalid = (~valid).to(grid.dtype)
            self._means = _filter_depthwise(grid, ones) / counts
        self._grid = grid

    def respond(self, weights: torch.Tensor) -> torch.Tensor:
        """Return ``sum_ij weights_ij window_ij`` for the window of every token.

        Args:
            weights: One filter ``(Q, Q)``.

        Returns:
            Responses ``(B, H_t, W_t, D)``.
        """
        response = _filter_depthwise(self._grid, weights)
        if self._invalid is None:
            return response
        return response + (_filter_depthwise(self._invalid, weights) * self._means).to(response.dtype)


def _filter_depthwise(grid: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Correlate every channel of ``(B, H, W, C)`` with one filter ``(Q, Q)``, without padding."""
    channels = grid.shape[-1]
    kernels = weights.to(grid.dtype).expand(channels, 1, -1, -1)
    return functional.conv2d(grid.permute(0, 3, 1, 2), kernels, groups=channels).permute(0, 2, 3, 1)
