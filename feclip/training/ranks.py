"""What the ranks of a run agree on. Without a process group there is one rank, and each function is the identity."""

import hashlib
import platform

import torch
from torch import distributed
from torchmetrics.utilities.distributed import gather_all_tensors

from feclip.errors import RunError

__all__ = ["gathered", "rank", "ranks_of_machine", "require_equal", "summed", "world_size"]


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


def ranks_of_machine(*, device: torch.device) -> int:
    """Return how many ranks run on this machine, or in this container; each rank must call it."""
    own = _row(hashlib.sha256(platform.node().encode()).digest(), device=device)
    return int((gathered(own) == own).all(dim=1).sum())


def _row(data: bytes, *, device: torch.device) -> torch.Tensor:
    """Return ``data`` as a row to gather, ``(1, N)``, uint8."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device).unsqueeze(0)


def require_equal(tensors: dict[str, torch.Tensor], *, device: torch.device) -> None:
    """Check that every rank holds the same tensors, bit for bit, by the digest of their bytes.

    Raises:
        RunError: If a rank differs: it would train another model, silently.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    digests = gathered(_row(digest.digest(), device=device))
    if bool((digests != digests[0]).any()):
        msg = "The training workers start from different adapters; they must run the same versions on the same files."
        raise RunError(msg)
