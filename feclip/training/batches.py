"""Which images a step reads: the same global batches whatever the number of ranks."""

import numpy as np

__all__ = ["epoch_batches", "shard"]


def epoch_batches(num_images: int, *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the global batches of one epoch, a permutation of all images; the last one may be smaller.

    Args:
        num_images: Images to draw from.
        batch_size: Images per step over all ranks.
        seed: Seed of the run.
        epoch: Zero-based epoch; each has its own permutation.

    Example:
        >>> sorted(sum(epoch_batches(5, batch_size=2, seed=0, epoch=0), []))
        [0, 1, 2, 3, 4]
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_images).tolist()
    return [order[start : start + batch_size] for start in range(0, num_images, batch_size)]


def shard(batch: list[int], *, rank: int, world_size: int) -> list[int]:
    """Return the images of ``batch`` that one rank reads; empty where there are fewer images than ranks.

    Example:
        >>> shard([7, 3, 9], rank=1, world_size=2)
        [3]
    """
    return batch[rank::world_size]
