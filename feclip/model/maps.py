"""Maps on the token grid: one scale for scores, padding filled, and upsampling to pixels.

Shapes: B images, T taps, H_t x W_t token grid, H x W pixels.
"""

import torch
from torch.nn import functional

from feclip.model.windows import check_valid_tokens

MAX_DISTANCE = 2.0  # of 1 - cosine


def mean_probability_logit(logits: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Return the logit of the mean of ``sigmoid(logits)``, which neither saturates nor changes the ranking (Eq. 3).

    ``logsumexp_t logsigmoid(l_t) - logsumexp_t logsigmoid(-l_t)`` in float32: the probability itself is 1.0 in
    float32 from a logit of 17 on.

    Args:
        logits: Any shape.
        dim: Dimension of the mean, which disappears.

    Returns:
        Logits, float32.

    Example:
        >>> mean_probability_logit(torch.tensor([90.0, 100.0]), dim=0).item() > 90
        True
    """
    logits = logits.float()
    normal = torch.logsumexp(functional.logsigmoid(-logits), dim=dim)
    return torch.logsumexp(functional.logsigmoid(logits), dim=dim) - normal


def add_distances(logits: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Return the logit of a third of ``sigmoid(logits) + distances``: within 0..1, and in the order of the sum.

    Args:
        logits: Logits of probabilities, float32, any shape.
        distances: Distances to a memory bank, 0 to 2, of the same shape.

    Returns:
        Logits, float32; finite where those given are.

    Example:
        >>> add_distances(torch.tensor([0.0]), torch.tensor([1.0])).sigmoid().item()  # (0.5 + 1) / 3
        0.5
    """
    summed = functional.sigmoid(logits) + distances
    missing = functional.sigmoid(-logits) + (MAX_DISTANCE - distances)
    tiny = torch.finfo(summed.dtype).tiny
    return summed.clamp(min=tiny).log() - missing.clamp(min=tiny).log()


def fill_padding(maps: torch.Tensor, valid_tokens: torch.Tensor | None) -> torch.Tensor:
    """Give every token on padding the value of the nearest valid token, so that none bleeds when upsampled.

    Nearest by Euclidean distance; of several the one in the upper row, then in the left column. An image
    without any valid token is left as it is.

    Args:
        maps: Values ``(B, H_t, W_t)`` or ``(B, T, H_t, W_t)``; differentiable.
        valid_tokens: Bool ``(B, H_t, W_t)``, false on padding; none means all valid.

    Returns:
        Values of the same shape. What stood on padding, NaN included, reaches neither it nor a gradient.

    Raises:
        ValueError: If ``valid_tokens`` is not bool or does not fit ``maps``.

    Example:
        >>> fill_padding(torch.tensor([[[3.0, torch.nan]]]), torch.tensor([[[True, False]]])).tolist()
        [[[3.0, 3.0]]]
    """
    if valid_tokens is None:
        return maps
    check_valid_tokens(valid_tokens, (maps.shape[0], *maps.shape[-2:]))
    nearest = _find_nearest_valid(valid_tokens).flatten(1)  # (B, H_t * W_t)
    values = maps.flatten(-2)
    if maps.ndim > valid_tokens.ndim:
        nearest = nearest[:, None]
    return values.gather(-1, nearest.expand(values.shape)).view(maps.shape)


def _find_nearest_valid(valid_tokens: torch.Tensor) -> torch.Tensor:
    """Return the flat index of the nearest valid token: first the nearest column of each row, then the row."""
    height, width = valid_tokens.shape[1:]
    device = valid_tokens.device
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    far = 4 * (height + width) ** 2
    across = (columns[:, None] - columns).square()  # (W_t, W_t)
    row_distance, column = torch.where(valid_tokens[:, :, None, :], across, far).min(dim=-1)  # (B, H_t, W_t)
    down = (rows[:, None] - rows).square()  # (H_t, H_t)
    distance, row = (row_distance.mT[:, None] + down[:, None, :]).min(dim=-1)  # (B, H_t, W_t)
    nearest = row * width + column.gather(1, row)
    itself = rows[:, None] * width + columns
    return torch.where(distance < far, nearest, itself)


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Upsample maps bilinearly in float32; corners of tokens are corners of pixels (``align_corners=False``).

    Args:
        maps: Values ``(B, H_t, W_t)`` or ``(B, T, H_t, W_t)``, padding filled.
        size: ``(H, W)``, in pixels.

    Returns:
        Values ``(B, H, W)`` or ``(B, T, H, W)``, float32.

    Example:
        >>> upsample(torch.tensor([[[0.0, 4.0]]]), (1, 4)).tolist()
        [[[0.0, 1.0, 3.0, 4.0]]]
    """
    planes = maps.float().reshape(maps.shape[0], -1, *maps.shape[-2:])
    resized = functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)
    return resized.reshape(*maps.shape[:-2], *size)
