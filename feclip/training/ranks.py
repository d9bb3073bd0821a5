"""What the ranks of a run agree on. Without a process group there is one rank, and each function is the identity."""

import hashlib

import torch
from torch import distributed
from torchmetrics.utilities.distributed import gather_all_tensors

from feclip.errors import RunError

__all__ = ["gathered", "rank", "require_equal", "summed", "world_size"]


def rank() -> int:
    """Return this process's number, zero-based."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def summed(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``values`` over all ranks; the argument stays as it is."""
    total = values.clone()
    if world_size() > 1:
        distributed.all_reduce(total)
    return total


def gathered(values: torch.Tensor) -> torch.Tensor:
    """Return the rows of all ranks, concatenated in rank order; ranks may hold different numbers of rows, also none."""
    if world_size() == 1:
        return values
    return torch.cat(gather_all_tensors(values))


def require_equal(tensors: dict[str, torch.Tensor], *, device: torch.device) -> None:
    """Check that every rank holds the same tensors, bit for bit, by the digest of their bytes.

    Raises:
        RunError: If a rank differs: it would train another model, silently.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    own = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8).to(device)
    digests = gathered(own.unsqueeze(0))
    if bool((digests != digests[0]).any()):
        msg = "The training workers start from different adapters; they must run the same versions on the same files."
        raise RunError(msg)
