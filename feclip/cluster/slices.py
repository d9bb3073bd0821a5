"""Slices of a finished score table, worked on in tasks."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from feclip.archive import Run, decide_slice
from feclip.calibration import Calibration
from feclip.data import InputOptions, join_uri, write_bytes
from feclip.errors import FeclipError
from feclip.logs import context
from feclip.progress import Progress

if TYPE_CHECKING:  # jobs that judge nothing do without it: docs/adr/0020
    from feclip.metrics import PixelCounts

__all__ = ["by_category", "counted_pixels", "decide_slices", "mapped"]

logger = logging.getLogger(__name__)

SLICES_PER_TASK = 32
CALIBRATION_FILE = "_calibration.json"

_T = TypeVar("_T")


def mapped(
    function: Callable[..., _T],
    run: Run,
    indices: Iterable[int],
    *,
    task: str,
    **arguments: Any,  # noqa: ANN401
) -> Iterator[_T]:
    """Call ``function(run, some of the slices, **arguments)`` in tasks; yield the results in the order of the slices.

    Args:
        function: What to do with some slices.
        run: The run, which is sent to each node once.
        indices: Slices, from zero.
        task: What is done, for the progress that is shown.
        **arguments: Further arguments of the function.

    Raises:
        FeclipError: As the function does.
    """
    remote = ray.remote(num_cpus=1)(_caught)
    shared, chosen = ray.put(run), list(indices)
    parts = [chosen[start : start + SLICES_PER_TASK] for start in range(0, len(chosen), SLICES_PER_TASK)]
    references = [remote.remote(function, shared, part, arguments=arguments) for part in parts]
    with Progress(task, sum(len(run.rows_of(index)) for index in chosen), unit="images") as progress:
        for part, reference in zip(parts, references, strict=True):
            result = ray.get(reference)
            if isinstance(result, FeclipError):
                raise result
            progress.advance(sum(len(run.rows_of(index)) for index in part))
            yield result


def by_category(references: Mapping[str, "ray.ObjectRef[_T | FeclipError]"], *, task: str) -> dict[str, _T]:
    """Wait for what a task returns of each category.

    Args:
        references: What the tasks return, by category: a result, or an error that is written for users.
        task: What is done, for the progress that is shown.

    Raises:
        FeclipError: The first error that a task returned.
    """
    results: dict[str, _T] = {}
    with Progress(task, len(references), unit="categories") as progress:
        for category, reference in references.items():
            result = ray.get(reference)
            if isinstance(result, FeclipError):
                raise result
            results[category] = result
            progress.advance()
    return results


def counted_pixels(
    run: Run, index: int, *, category: str, options: InputOptions, smoothing_sigma: float
) -> "dict[str, PixelCounts] | FeclipError":
    """Return what `feclip.evaluation.count_pixels` does, or its error, so that it arrives as it is."""
    from feclip.evaluation import count_pixels  # noqa: PLC0415 - see docs/adr/0020

    try:
        return count_pixels(run, index, category=category, options=options, smoothing_sigma=smoothing_sigma)
    except FeclipError as error:
        return error


def decide_slices(run: Run, calibration: Calibration) -> None:
    """Write the decisions that are missing, from scores that stand, and the thresholds beside them.

    Raises:
        DataError: If the thresholds do not fit the scores.
        StorageError: If storage fails.
    """
    folder = run.decisions_folder(calibration.calibration_id)
    missing = run.missing(folder)
    if missing:
        logger.info("Deciding on %d slices by calibration %s", len(missing), calibration.calibration_id[:12])
    for _ in mapped(_decide, run, missing, task="Deciding", calibration=calibration):
        pass
    text = json.dumps(calibration.to_json(), indent=1) + "\n"
    write_bytes(join_uri(folder, CALIBRATION_FILE), text.encode())  # last: a folder without it is not finished


def _decide(run: Run, indices: Iterable[int], *, calibration: Calibration) -> None:
    for index in indices:
        decide_slice(run, index, calibration=calibration)


def _caught(function: Any, run: Run, indices: list[int], *, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return an error that is written for users instead of raising it, so that it arrives as it is."""
    try:
        with context(slices=f"{indices[0]}-{indices[-1]}"):
            return function(run, indices, **arguments)
    except FeclipError as error:
        return error
