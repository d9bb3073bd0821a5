"""The way of a slice's arrays to the device, batch by batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["DeviceBatches"]


class DeviceBatches:
    """Brings arrays to a device in batches; on a GPU a batch is copied while the one before is computed.

    Nothing waits for the GPU: the caller queues its work and comes back for the next batch, which the host then puts in
    pinned memory and a stream of its own copies.

    Args:
        device: Where the batches go.

    Example:
        >>> batches = DeviceBatches(torch.device("cpu"))
        >>> [batch.tolist() for (batch,) in batches.of([np.arange(5)], 2)]
        [[0, 1], [2, 3], [4]]
        >>> [batch.tolist() for (batch,) in batches.of([np.arange(5)], 2, fills=True)]
        [[0, 1], [2, 3], [4, 4]]
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def of(
        self, arrays: Sequence[npt.NDArray[Any]], size: int, *, fills: bool = False
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield arrays of one length in batches.

        Args:
            arrays: With the images along their first dimension.
            size: Images of a batch.
            fills: Whether the last batch gets copies of its first image until it is as large as the others.
        """
        for start in range(0, len(arrays[0]), size):
            parts = [array[start : start + size] for array in arrays]
            yield self._copied([self._on_host(part, num_rows=size if fills else len(part)) for part in parts])

    def _on_host(self, part: npt.NDArray[Any], *, num_rows: int) -> torch.Tensor:
        kind = torch.from_numpy(np.empty(0, part.dtype)).dtype
        tensor = torch.empty((num_rows, *part.shape[1:]), dtype=kind, pin_memory=self._copies is not None)
        rows = tensor.numpy()
        rows[: len(part)], rows[len(part) :] = part, part[:1]
        return tensor

    def _copied(self, batch: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        if self._copies is None:
            return tuple(tensor.to(self._device) for tensor in batch)
        computes = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            copied = tuple(tensor.to(self._device, non_blocking=True) for tensor in batch)
        computes.wait_stream(self._copies)
        for tensor in copied:
            tensor.record_stream(computes)  # its memory is free again when that stream, too, is done with it
        return copied
