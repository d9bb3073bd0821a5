"""What the formats share: the function that runs a file, and silence while one is written."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Arrays", "Runner", "quiet"]

Arrays = dict[str, npt.NDArray[np.float32]]
"""Outputs by name."""


class Runner(Protocol):
    """Runs an exported file."""

    def __call__(self, *, pixels: npt.NDArray[np.uint8], valid_pixels: npt.NDArray[np.bool_]) -> Arrays:
        """Score a batch, as `ExportedModel` takes it."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters say of their own code from a user's terminal."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
