"""Seconds by stage, added up by all threads of a process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up wall time by stage; threads may share one, and theirs adds up too.

    Example:
        >>> stopwatch = Stopwatch()
        >>> with stopwatch.time("fetch"):
        ...     pass
        >>> stopwatch.add("decode", 0.5)
        >>> stopwatch.take()["decode"], stopwatch.take()
        (0.5, {})
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """Add time that was measured elsewhere."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the time of a ``with`` block, whether it ends well or not."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def take(self) -> dict[str, float]:
        """Return the seconds since the last call, and begin anew."""
        with self._lock:
            seconds, self._seconds = self._seconds, {}
        return seconds
