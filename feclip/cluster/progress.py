"""How far a job is: a bar on a terminal, one line each half minute elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

__all__ = ["Progress"]

logger = logging.getLogger(__name__)

SECONDS_PER_LINE = 30.0


class Progress:
    """Counts images; use it as a context.

    Args:
        total: Images to come.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._num_errors = 0
        self._started = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, unit="image", smoothing=0.1, disable=not sys.stderr.isatty())

    def advance(self, num_images: int, *, num_errors: int) -> None:
        """Count images that are done, errors among them."""
        self._done += num_images
        self._num_errors += num_errors
        self._bar.update(num_images)
        if num_errors:
            self._bar.set_postfix(errors=self._num_errors)
        now = time.monotonic()
        if self._bar.disable and now - self._last_line >= SECONDS_PER_LINE:
            self._last_line = now
            rate = self._done / (now - self._started)
            left = (self._total - self._done) / rate if rate else float("inf")
            logger.info(
                "%d of %d images (%.0f %%), %d errors, %.1f images/s, about %.0f min left",
                self._done,
                self._total,
                100 * self._done / self._total,
                self._num_errors,
                rate,
                left / 60,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
