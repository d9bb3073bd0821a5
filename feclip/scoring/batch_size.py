"""How many images go through the model at once, found from the memory of a GPU; arithmetic alone.

The memory of a forward pass grows linearly with its images: two passes that were measured tell what one image takes and
what is there without any.
"""

from collections.abc import Mapping

__all__ = ["CPU_BATCH_SIZE", "MAX_BATCH_SIZE", "PROBED", "even_batches", "fitting_batch_size", "memory_budget"]

CPU_BATCH_SIZE = 16
"""Images in one forward pass on a CPU, where more gain nothing."""
MAX_BATCH_SIZE = 128
"""Most images that are chosen for a GPU: at 336 px that is 74,000 tokens, which fill any."""
PROBED = (2, 8)
"""Batch sizes whose peaks of memory are measured."""
USED_SHARE = 0.8
"""Of the memory that is free; the rest is for fragments, for what compiled code and libraries set aside, and for
batches that wait."""


def memory_budget(*, free: int, own: int, total: int, share: float) -> int:
    """Return the bytes of a GPU that a process may plan with.

    Args:
        free: Free on the device, bytes.
        own: Held by this process already, bytes.
        total: Of the device, bytes.
        share: Of the device that the process was given, above 0 and at most 1.

    Example:
        >>> memory_budget(free=90, own=10, total=200, share=1.0), memory_budget(free=90, own=10, total=200, share=0.25)
        (80, 40)
    """
    return int(USED_SHARE * min(free + own, share * total))


def fitting_batch_size(peaks: Mapping[int, int], *, budget: int) -> int:
    """Return how many images fit, at least 1 and at most `MAX_BATCH_SIZE`.

    Args:
        peaks: Highest memory of a forward pass, bytes, by its number of images; two of them.
        budget: Bytes that a pass may take, as from `memory_budget`.

    Example:
        >>> fitting_batch_size({2: 1200, 8: 1800}, budget=5_000), fitting_batch_size({2: 1200, 8: 1800}, budget=10**6)
        (40, 128)
    """
    (few, low), (many, high) = sorted(peaks.items())
    per_image = max((high - low) / (many - few), 1.0)
    fixed = low - few * per_image
    return max(1, min(int((budget - fixed) // per_image), MAX_BATCH_SIZE))


def even_batches(num_images: int, *, most: int) -> int:
    """Return the smallest batch size that divides images in as few batches as ``most`` does.

    Args:
        num_images: Images that are scored together, at least 1.
        most: Images in one batch, at least 1.

    Example:
        >>> even_batches(188, most=128), even_batches(16, most=128), even_batches(100, most=16)
        (94, 16, 15)
    """
    return -(-num_images // -(-num_images // most))
