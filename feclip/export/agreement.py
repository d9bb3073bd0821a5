"""An exported file against PyTorch: the same images through both, and the largest difference of each output.

Outputs are compared with what PyTorch computes of the same bytes. The statistics of the map start from its float16
copy, so a map that differs in its last bit now and then differs by a whole float16 step there (0.002 for logits from 2
to 4). They are therefore compared with what PyTorch makes of the very map that the file returned.
"""

import itertools
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from feclip.errors import RunError
from feclip.export.images import Input
from feclip.export.model import OUTPUT_NAMES, ExportedModel
from feclip.export.runner import Arrays, Runner
from feclip.model import map_statistics
from feclip.progress import Progress

__all__ = ["Agreement", "compare"]


@dataclass(kw_only=True)
class Agreement:
    """How far a file and PyTorch are apart."""

    num_images: int = 0
    differences: dict[str, float] = field(default_factory=lambda: dict.fromkeys(OUTPUT_NAMES, 0.0))
    """Largest difference by output, logits."""
    seconds: list[float] = field(default_factory=list)
    """Of each run of the file, for a batch."""
    torch_seconds: list[float] = field(default_factory=list)
    """Of each run of PyTorch."""

    def add(self, differences: Mapping[str, float], *, num: int, tolerance: float) -> None:
        """Count a batch of ``num`` images.

        Raises:
            RunError: If a difference exceeds the tolerance.
        """
        self.num_images += num
        for name, difference in differences.items():
            self.differences[name] = max(self.differences[name], difference)
            if not difference <= tolerance:
                msg = (
                    f"The exported file differs from PyTorch by {difference:.2g} in {name}, more than tolerance "
                    f"{tolerance:g}, among the first {self.num_images} images; it was not written."
                )
                raise RunError(msg)

    def text(self) -> str:
        """Return it for people, without the first run of each, which still makes ready."""
        largest = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        ours, theirs = (1000 * statistics.median(found[1:] or found) for found in (self.seconds, self.torch_seconds))
        return (
            f"{self.num_images} images agree with PyTorch (largest differences: {largest}); "
            f"a batch takes {ours:.1f} ms, in PyTorch {theirs:.1f} ms, {torch.get_num_threads()} threads"
        )


def compare(
    run: Runner, model: ExportedModel, inputs: Iterable[Input], *, num: int, batch_size: int, tolerance: float
) -> Agreement:
    """Send images through a file and through PyTorch.

    Args:
        run: Runs the file.
        model: What was exported.
        inputs: The images; the last batch is filled up with its first one.
        num: How many they are, for the progress.
        batch_size: B of the file.
        tolerance: Largest difference that is accepted, logits.

    Raises:
        RunError: If an output is absent, of another shape, or differs more.
    """
    found = Agreement()
    remaining = iter(inputs)
    with Progress("Comparing with PyTorch", num, unit="images") as progress:
        while batch := list(itertools.islice(remaining, batch_size)):
            filled = batch + batch[:1] * (batch_size - len(batch))
            pixels, valid = (np.stack(arrays) for arrays in zip(*filled, strict=True))
            began = time.perf_counter()
            got = run(pixels=pixels, valid_pixels=valid)
            between = time.perf_counter()
            with torch.no_grad():
                computed = model(torch.from_numpy(pixels), torch.from_numpy(valid))
            found.torch_seconds.append(time.perf_counter() - between)
            found.seconds.append(between - began)
            expected = {name: tensor.numpy() for name, tensor in computed.items()}
            found.add(_differences(got, expected, model=model, valid=valid), num=len(batch), tolerance=tolerance)
            progress.advance(len(batch))
    return found


def _differences(
    got: Arrays, expected: Arrays, *, model: ExportedModel, valid: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Return the largest difference of each output; infinite where it is no number on one side alone."""
    if not np.isfinite(expected["image_logit"]).all():
        msg = "The model gives an image_logit that is not finite; train again."
        raise RunError(msg)
    for name, array in expected.items():
        if name not in got or got[name].shape != array.shape or got[name].dtype != array.dtype:
            what = f"{got[name].dtype} of {got[name].shape}" if name in got else "nothing"
            msg = f"The exported file returns {what} for {name}, PyTorch {array.dtype} of {array.shape}."
            raise RunError(msg)
    options = model.statistic_options
    again = map_statistics(
        torch.from_numpy(got["token_map"]).half(),
        torch.from_numpy(valid),
        topk_fraction=options.topk_fraction,
        smoothing_sigma=options.smoothing_sigma,
    )
    wanted = expected | {name: tensor.numpy() for name, tensor in again._asdict().items()}
    return {name: _largest(got[name], wanted[name]) for name in OUTPUT_NAMES}


def _largest(got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    is_number = np.isfinite(wanted)
    if not np.array_equal(np.isfinite(got), is_number):
        return float("inf")
    return float(np.abs(got - wanted)[is_number].max(initial=0))
