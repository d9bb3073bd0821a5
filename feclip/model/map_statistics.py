"""Statistics of anomaly maps, from token maps as they are stored: the same bits today, tomorrow and elsewhere.

Scores are stored beside the float16 token map they come from. New thresholds, rules and pictures are later made from
that map alone, on another machine, perhaps without a GPU, and must meet the stored scores exactly. Therefore the
statistics start from the float16 map, and every step is one whose result IEEE 754 fixes: element by element, one
operation at a time (no matrix product, no convolution, no fused multiply-add, whose order and rounding differ between
devices), and one sum, of the highest pixels, which is added in pairs in an order that the size of the input alone
fixes. For this reason `upsample` is not used here, which draws the same map up to rounding; and none of this may be
compiled, since a compiler fuses.

Shapes: B images, H_t x W_t token grid, S side of the model input in pixels.
"""

import functools
import math
from decimal import Decimal
from typing import NamedTuple

import torch
from torch.nn import functional

from feclip.model.maps import fill_padding

TRUNCATION = 4.0
"""Standard deviations after which the Gaussian is cut off, as scipy's filter does."""


class MapStatistics(NamedTuple):
    """Statistics over the valid pixels of each image, logits, float32, where the maps are."""

    map_max: torch.Tensor
    """Highest pixel, ``(B,)``."""
    map_topk_mean: torch.Tensor
    """Mean of the highest pixels, ``(B,)``."""


def pixel_maps(token_maps: torch.Tensor, *, image_size: int, smoothing_sigma: float = 0.0) -> torch.Tensor:
    """Draw stored token maps at the size of the model input: fill padding, upsample bilinearly, smooth.

    Beyond the edge of the input the outermost pixel goes on, as the nearest valid token does on padding.

    Args:
        token_maps: Logits ``(B, H_t, W_t)``, float16, NaN on padding.
        image_size: S, pixels.
        smoothing_sigma: Standard deviation of the Gaussian, pixels of the model input; 0 for none.

    Returns:
        Logits ``(B, S, S)``, float32. What stands on padding is filled in and means nothing.

    Raises:
        ValueError: If the maps are not float16, or sigma is negative or infinite.

    Example:
        >>> pixel_maps(torch.tensor([[[0.0, torch.nan], [4.0, torch.nan]]]).half(), image_size=4)[0, :, 0].tolist()
        [0.0, 1.0, 3.0, 4.0]
    """
    if token_maps.dtype is not torch.float16:
        msg = f"token_maps must be torch.float16, as they are stored, got {token_maps.dtype}."
        raise ValueError(msg)
    if not (smoothing_sigma >= 0 and math.isfinite(smoothing_sigma)):
        msg = f"smoothing_sigma must be at least 0 pixels, got {smoothing_sigma}."
        raise ValueError(msg)
    maps = fill_padding(token_maps, ~token_maps.isnan()).float()
    for _ in range(2):  # rows, then columns
        maps = _upsample_rows(maps, image_size).mT
    if smoothing_sigma > 0:
        for _ in range(2):
            maps = _smooth_rows(maps, smoothing_sigma).mT
    return maps.contiguous()


def num_top_pixels(num_valid: int, *, topk_fraction: float) -> int:
    """Return how many pixels count among the highest: ``max(1, ceil(topk_fraction * num_valid))``.

    Args:
        num_valid: Valid pixels of the image.
        topk_fraction: Their share, above 0 and at most 1; taken as the decimal that it is written as, since
            0.07 * 100 is more than 7 in binary.

    Returns:
        Pixels.

    Raises:
        ValueError: If the share is out of range.

    Example:
        >>> num_top_pixels(100, topk_fraction=0.07), num_top_pixels(20, topk_fraction=0.01)
        (7, 1)
    """
    if not 0 < topk_fraction <= 1:
        msg = f"topk_fraction must be above 0 and at most 1, got {topk_fraction}."
        raise ValueError(msg)
    return max(1, math.ceil(Decimal(str(topk_fraction)) * num_valid))


def map_statistics(
    token_maps: torch.Tensor, valid_pixels: torch.Tensor, *, topk_fraction: float = 0.01, smoothing_sigma: float = 0.0
) -> MapStatistics:
    """Compute what is scored and decided on from stored token maps.

    Args:
        token_maps: Logits ``(B, H_t, W_t)``, float16, NaN on padding.
        valid_pixels: Bool ``(B, S, S)``, on the same device; somewhere true in each image. Other pixels don't count.
        topk_fraction: Share of the valid pixels that the mean of the highest is taken over, above 0 and at most 1.
        smoothing_sigma: As for `pixel_maps`.

    Returns:
        Maximum and mean of the highest ``max(1, ceil(topk_fraction * valid pixels))``.

    Raises:
        ValueError: If a type, shape or range differs from the above.
    """
    size = valid_pixels.shape[-1]
    if valid_pixels.dtype is not torch.bool or valid_pixels.shape != (len(token_maps), size, size):
        shape = tuple(valid_pixels.shape)
        msg = f"valid_pixels must be bool of shape ({len(token_maps)}, S, S), got {valid_pixels.dtype} of {shape}."
        raise ValueError(msg)
    num_valid = valid_pixels.flatten(1).sum(dim=1).tolist()
    if not all(num_valid):
        msg = "valid_pixels must be true somewhere in each image; one has none."
        raise ValueError(msg)
    counts = [num_top_pixels(number, topk_fraction=topk_fraction) for number in num_valid]
    return counted_statistics(
        token_maps,
        valid_pixels,
        torch.tensor(counts, device=token_maps.device),
        topk_fraction=topk_fraction,
        smoothing_sigma=smoothing_sigma,
    )


def counted_statistics(
    token_maps: torch.Tensor,
    valid_pixels: torch.Tensor,
    counts: torch.Tensor,
    *,
    topk_fraction: float,
    smoothing_sigma: float,
) -> MapStatistics:
    """Compute `map_statistics` of checked maps whose numbers of highest pixels are known; never waits for a GPU.

    Args:
        token_maps: Logits ``(B, H_t, W_t)``, float16, NaN on padding.
        valid_pixels: Bool ``(B, S, S)``, on the same device; somewhere true in each image.
        counts: `num_top_pixels` of each image, int64 ``(B,)``, on the same device.
        topk_fraction: As for `map_statistics`; bounds the counts.
        smoothing_sigma: As for `pixel_maps`.
    """
    size = valid_pixels.shape[-1]
    maps = pixel_maps(token_maps, image_size=size, smoothing_sigma=smoothing_sigma)
    ranked = maps.masked_fill(~valid_pixels, -torch.inf).flatten(1)
    highest = ranked.topk(num_top_pixels(size * size, topk_fraction=topk_fraction), dim=1).values
    counted = torch.arange(highest.shape[1], device=counts.device) < counts[:, None]
    total = _sum_in_pairs(torch.where(counted, highest, 0).double())
    return MapStatistics(map_max=highest[:, 0].clone(), map_topk_mean=(total / counts).float())


def _sum_in_pairs(values: torch.Tensor) -> torch.Tensor:
    """Add ``(B, K)`` along its rows: the first half to the second, element by element, until one is left."""
    width = 1 << (values.shape[1] - 1).bit_length()
    values = functional.pad(values, (0, width - values.shape[1]))
    while width > 1:
        width //= 2
        values = values[:, :width] + values[:, width:]
    return values[:, 0]


def _upsample_rows(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Bring ``(B, H, W)`` to ``(B, size, W)`` bilinearly; corners of tokens are corners of pixels."""
    lower, upper, share = _neighbours(maps.shape[1], size, maps.device)
    below = maps[:, lower]
    step = (maps[:, upper] - below) * share
    return below + step


@functools.lru_cache(maxsize=8)  # a copy of its own for each batch would make the host wait for the GPU
def _neighbours(height: int, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return for each of ``size`` rows the row below, the row above, and the share of the latter ``(size, 1)``."""
    centers = ((torch.arange(size, dtype=torch.float64) + 0.5) * height / size - 0.5).clamp(0, height - 1)
    lower = centers.floor().long()
    share = (centers - lower).float()[:, None]
    upper = (lower + 1).clamp(max=height - 1)
    return lower.to(device), upper.to(device), share.to(device)


def _smooth_rows(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Smooth ``(B, S, S)`` along its rows' index with a Gaussian; two offsets at a time, from the middle outwards."""
    radius = int(TRUNCATION * sigma + 0.5)
    variance = Decimal(str(sigma)) ** 2  # in decimals: the exponential of every system's own library rounds its own way
    weights = [float((-(offset**2) / (2 * variance)).exp()) for offset in range(radius + 1)]
    total = weights[0] + 2 * math.fsum(weights[1:])
    padded = functional.pad(maps, (0, 0, radius, radius), mode="replicate")
    size = maps.shape[1]
    smoothed = maps * (weights[0] / total)
    for offset in range(1, radius + 1):
        pair = padded[:, radius - offset : radius - offset + size] + padded[:, radius + offset : radius + offset + size]
        smoothed = smoothed + pair * (weights[offset] / total)
    return smoothed
