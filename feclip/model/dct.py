"""Orthonormal DCT-II and the fixed filters that FE-CLIP's adapters derive from it.

FE-CLIP: Gong et al., ICCV 2025, Sections 3.3 and 3.4.

Letters: P window side of the FFE adapter, Q window side of the LFS adapter, both in tokens.
Frequencies and positions count from zero; frequency ``(0, 0)`` is the DC term.
"""

import math

import torch


def dct_basis(size: int, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the orthonormal DCT-II basis.

    Args:
        size: Window side ``P``, in tokens.
        dtype: Of the result; computed in float64 and rounded once.

    Returns:
        Basis of shape ``(P, P)``; row ``k`` holds frequency ``k``, so ``basis @ x``
        transforms and ``basis.T @ x`` inverts.

    Raises:
        ValueError: If ``size`` is not positive.

    Example:
        >>> basis = dct_basis(3)
        >>> torch.allclose(basis @ basis.T, torch.eye(3), atol=1e-6)
        True
    """
    if size < 1:
        msg = f"size of a DCT basis must be at least 1, got {size}."
        raise ValueError(msg)
    position = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * torch.outer(position, position + 0.5)) * math.sqrt(2 / size)
    basis[0] = math.sqrt(1 / size)
    return basis.to(dtype)


def signed_filter(size: int) -> torch.Tensor:
    """Return the one filter that equals the mean of all signed DCT coefficients of a window.

    The mean over the ``Q * Q`` coefficients of ``C x C^T`` is ``sum_ij w_i w_j x_ij`` with ``w`` the
    column means of ``C`` (Section 3.4 taken literally): linear, and centred up-left of the token.

    Args:
        size: Window side ``Q``, in tokens.

    Returns:
        Filter of shape ``(1, Q, Q)``, float64.

    Raises:
        ValueError: If ``size`` is not positive.

    Example:
        >>> [round(weight, 3) for weight in signed_filter(3)[0, 0].tolist()]
        [0.318, -0.045, 0.052]
    """
    means = dct_basis(size, dtype=torch.float64).mean(dim=0)
    return torch.outer(means, means)[None]


def frequency_filters(size: int) -> torch.Tensor:
    """Return one filter for each DCT coefficient of a window but the DC term.

    Args:
        size: Window side ``Q``, in tokens.

    Returns:
        Filters of shape ``(Q * Q - 1, Q, Q)``, float64, row-major in the frequencies; none for ``Q = 1``.

    Raises:
        ValueError: If ``size`` is not positive.

    Example:
        >>> filters = frequency_filters(2)
        >>> filters.shape, filters.sum(dim=(1, 2)).abs().max().item() < 1e-12
        (torch.Size([3, 2, 2]), True)
    """
    basis = dct_basis(size, dtype=torch.float64)
    return torch.einsum("ki,lj->klij", basis, basis).reshape(size * size, size, size)[1:]
