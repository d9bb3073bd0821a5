"""Frequency adapters of FE-CLIP (Gong et al., ICCV 2025, Sections 3.3-3.4) and their fusion (Eq. 2).

Shapes: B images, H_t x W_t token grid, D token width, P and Q window sides in tokens.

Differs from the paper, which is silent there:

* Token grids that P does not divide are edge-padded, then cropped back; a sliding window repeats the edge
  for ``(Q - 1) // 2`` tokens before and ``Q // 2`` after, so even windows are legal.
* Tokens on padding (``valid_tokens`` false) never enter: each window replaces them by the mean of its valid
  tokens before the transform, and by 0 where it has none. The mask is edge-padded like the tokens.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from feclip.model.dct import dct_basis, frequency_filters, signed_filter
from feclip.model.windows import SlidingWindows, check_valid_tokens, fill_windows, pad_edge

LfsStatistic = Literal["signed", "magnitude", "power"]


class FFEAdapter(nn.Module):
    """Frequency-aware Feature Extraction: one linear layer on the DCT coefficients of each window.

    ``IDCT(GELU(Linear(DCT(f))))`` on non-overlapping P x P windows (Section 3.3); the linear layer
    is shared by all coefficients.

    Args:
        width: Token width ``D``.
        window_size: Window side ``P``, in tokens; at least 1, odd or even.

    Raises:
        ValueError: If ``width`` or ``window_size`` is not positive.

    Example:
        >>> FFEAdapter(8, 3)(torch.zeros(2, 5, 4, 8)).shape
        torch.Size([2, 5, 4, 8])
    """

    basis: torch.Tensor

    def __init__(self, width: int, window_size: int) -> None:
        super().__init__()
        _check_at_least_one(width=width, window_size=window_size)
        self.width = width
        self.window_size = window_size
        self.linear = nn.Linear(width, width)
        self.register_buffer("basis", dct_basis(window_size), persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "FFEAdapter":  # noqa: FBT001, FBT002 - torch's signature
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Casting a float32 basis to float64 would keep its rounding: it is built anew in the new type.
        self.basis = dct_basis(self.window_size, dtype=torch.float64).to(self.linear.weight)
        return self

    def forward(self, tokens: torch.Tensor, valid_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Return the frequency-aware tokens.

        Args:
            tokens: Patch tokens ``(B, H_t, W_t, D)``.
            valid_tokens: Bool ``(B, H_t, W_t)``, false on padding; none means all valid.

        Returns:
            Tokens ``(B, H_t, W_t, D)``; what stands at padding is of no meaning.

        Raises:
            ValueError: If a shape or type differs from the above.
        """
        _check_tokens(tokens, valid_tokens, self.width)
        height, width = tokens.shape[1:3]
        after = (-height % self.window_size, -width % self.window_size)
        windows = self._split(pad_edge(tokens, before=0, after=after))
        if valid_tokens is not None:
            valid = self._split(pad_edge(valid_tokens, before=0, after=after)[..., None])
            windows = fill_windows(windows, valid, dims=(2, 4))
        coefficients = functional.gelu(self.linear(_transform(windows, self.basis)))
        restored = _transform(coefficients, self.basis.T)
        return restored.flatten(3, 4).flatten(1, 2)[:, :height, :width]

    def _split(self, grid: torch.Tensor) -> torch.Tensor:
        side = self.window_size
        rows, columns = grid.shape[1] // side, grid.shape[2] // side
        return grid.reshape(len(grid), rows, side, columns, side, -1)  # (B, H_t / P, P, W_t / P, P, D)


class LFSAdapter(nn.Module):
    """Local Frequency Statistics: a sliding-window DCT at every token, its mean, then one convolution.

    ``GELU(Conv2d(statistic(DCT(window))))`` (Section 3.4). The statistic over the Q x Q coefficients ``c``:

    * ``signed``: mean of ``c``, the paper's words taken literally; a fixed linear filter.
    * ``magnitude``, ``power``: mean of ``|c|`` or ``c ** 2`` over the ``Q * Q - 1`` coefficients without the
      DC term; zero for ``Q = 1``, which has no other coefficient.

    Args:
        width: Token width ``D``.
        window_size: Window side ``Q``, in tokens; at least 1, odd or even.
        kernel_size: Side of the convolution, in tokens; odd. The grid is padded with zero statistics.
        statistic: Which mean.

    Raises:
        ValueError: If a size is not positive, ``kernel_size`` is even or ``statistic`` unknown.

    Example:
        >>> LFSAdapter(8, 4, statistic="power")(torch.zeros(2, 5, 4, 8)).shape
        torch.Size([2, 5, 4, 8])
    """

    filters: torch.Tensor

    def __init__(  # noqa: PLR0917 - two sizes and two options, as published
        self, width: int, window_size: int, kernel_size: int = 3, statistic: LfsStatistic = "signed"
    ) -> None:
        super().__init__()
        _check_at_least_one(width=width, window_size=window_size, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            msg = f"kernel_size must be odd, got {kernel_size}."
            raise ValueError(msg)
        if statistic not in get_args(LfsStatistic):
            msg = f"statistic must be one of {', '.join(get_args(LfsStatistic))}, got {statistic!r}."
            raise ValueError(msg)
        self.width = width
        self.window_size = window_size
        self.statistic = statistic
        # Tokens come channels last; weights that do not are converted in each pass, and their gradients back.
        convolution = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2)
        self.conv = convolution.to(memory_format=torch.channels_last)
        self.register_buffer("filters", self._build_filters().to(torch.float32), persistent=False)

    def _build_filters(self) -> torch.Tensor:
        return (signed_filter if self.statistic == "signed" else frequency_filters)(self.window_size)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "LFSAdapter":  # noqa: FBT001, FBT002 - torch's signature
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Casting float32 filters to float64 would keep their rounding: they are built anew in the new type.
        self.filters = self._build_filters().to(self.conv.weight)
        return self

    def forward(self, tokens: torch.Tensor, valid_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Return the local frequency statistics, convolved.

        Args:
            tokens: Patch tokens ``(B, H_t, W_t, D)``.
            valid_tokens: Bool ``(B, H_t, W_t)``, false on padding; none means all valid.

        Returns:
            Tokens ``(B, H_t, W_t, D)``. Statistics centred on padding come from the valid tokens of their
            window and enter the convolution.

        Raises:
            ValueError: If a shape or type differs from the above.
        """
        statistics = self.local_statistics(tokens, valid_tokens)
        convolved: torch.Tensor = self.conv(statistics.permute(0, 3, 1, 2))
        return functional.gelu(convolved).permute(0, 2, 3, 1)

    def local_statistics(self, tokens: torch.Tensor, valid_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Return the statistic of the window around every token, before the convolution.

        Args:
            tokens: Patch tokens ``(B, H_t, W_t, D)``.
            valid_tokens: Bool ``(B, H_t, W_t)``, false on padding; none means all valid.

        Returns:
            Statistics ``(B, H_t, W_t, D)``; zero where a window holds no valid token.

        Raises:
            ValueError: If a shape or type differs from the above.
        """
        _check_tokens(tokens, valid_tokens, self.width)
        windows = SlidingWindows(tokens, valid_tokens, size=self.window_size)
        if self.statistic == "signed":
            return windows.respond(self.filters[0])
        if len(self.filters) == 0:
            return torch.zeros_like(tokens)
        measure = torch.abs if self.statistic == "magnitude" else torch.square
        total = measure(windows.respond(self.filters[0]))
        for weights in self.filters[1:]:
            total = total + measure(windows.respond(weights))
        return total / len(self.filters)


class FrequencyTap(nn.Module):
    """The adapters after one tap block and their fusion with the patch tokens (Eq. 2).

    ``f_hat = fusion_weight * (FFE(f) + LFS(f)) + (1 - fusion_weight) * f``; on padding ``f_hat = f``. A missing
    adapter leaves the sum; without both, ``f_hat = f``.

    Args:
        ffe: FFE adapter, or none.
        lfs: LFS adapter, or none.
        fusion_weight: lambda of Eq. 2, within 0..1.

    Raises:
        ValueError: If ``fusion_weight`` is out of range.

    Example:
        >>> tap = FrequencyTap(FFEAdapter(8, 3), LFSAdapter(8, 3), fusion_weight=0.0)
        >>> tokens = torch.rand(1, 4, 4, 8)
        >>> torch.equal(tap(tokens), tokens)
        True
    """

    def __init__(self, ffe: FFEAdapter | None, lfs: LFSAdapter | None, *, fusion_weight: float) -> None:
        super().__init__()
        if not 0 <= fusion_weight <= 1:
            msg = f"fusion_weight must lie in [0, 1], got {fusion_weight}."
            raise ValueError(msg)
        self.ffe = ffe
        self.lfs = lfs
        self.fusion_weight = fusion_weight

    def forward(self, tokens: torch.Tensor, valid_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``f_hat``.

        Args:
            tokens: Patch tokens ``f`` of shape ``(B, H_t, W_t, D)``.
            valid_tokens: Bool ``(B, H_t, W_t)``, false on padding; none means all valid.

        Returns:
            Tokens ``(B, H_t, W_t, D)``.

        Raises:
            ValueError: If a shape or type differs from the above.
        """
        parts = [adapter(tokens, valid_tokens) for adapter in (self.ffe, self.lfs) if adapter is not None]
        if not parts:
            return tokens
        enhanced = self.fusion_weight * sum(parts[1:], start=parts[0]) + (1 - self.fusion_weight) * tokens
        return enhanced if valid_tokens is None else torch.where(valid_tokens[..., None], enhanced, tokens)


def _transform(windows: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Apply ``basis`` along columns and rows of windows ``(B, H_t / P, P, W_t / P, P, D)``."""
    basis = basis.to(windows.dtype)
    columns = torch.matmul(basis, windows).flatten(3)  # (B, H_t / P, P, W_t * D)
    return torch.matmul(basis, columns).view(windows.shape)


def _check_at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            msg = f"{name} must be at least 1, got {size}."
            raise ValueError(msg)


def _check_tokens(tokens: torch.Tensor, valid_tokens: torch.Tensor | None, width: int) -> None:
    if tokens.ndim != 4 or tokens.shape[-1] != width or 0 in tokens.shape[1:3]:  # noqa: PLR2004 - (B, H_t, W_t, D)
        msg = f"tokens must have shape (B, H_t, W_t, {width}) with a grid of at least 1 x 1, got {tuple(tokens.shape)}."
        raise ValueError(msg)
    check_valid_tokens(valid_tokens, tokens.shape[:3])
