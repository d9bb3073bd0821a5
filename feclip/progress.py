"""How far long work is: a bar on a terminal, elsewhere a line each half minute, with numbers in JSON."""

import logging
import sys
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from feclip.logs import LogFormat, fields, settings

__all__ = ["Progress", "draws_bars", "time_left"]

logger = logging.getLogger(__name__)

BAR_DELAY = 1.0
"""Seconds that work must last before it gets a bar."""
MINUTE, HOUR = 60, 3600


def draws_bars() -> bool:
    """Return whether progress is a bar: text, for a person, who looks at it."""
    config = settings().config
    return sys.stderr.isatty() and config.format is LogFormat.text and not config.is_quiet


class Progress:
    """Counts what is done of some work; use it as a context.

    Args:
        task: What is done, at the head of a line.
        total: How much there is to do.
        unit: What is counted, in the plural.
        done: What was done before this began, which the rate leaves out.

    Example:
        >>> with Progress("Scoring", 100, unit="images") as progress:
        ...     progress.advance(25, errors=1)
        >>> progress.text(seconds=10)
        'Scoring: 25 of 100 images (25 %), 1 errors, 2.5 images/s, about 30 s left'
    """

    def __init__(self, task: str, total: int, *, unit: str, done: int = 0) -> None:
        config = settings().config
        self._task, self._total, self._unit = task, total, unit
        self._begun = self._done = done
        self._counts = Counter[str]()
        self._every = config.every
        self._started = self._last_line = time.monotonic()
        self._told = done
        draws = draws_bars()
        self._tells = not draws and not config.is_quiet
        self._bar = tqdm(
            total=total, initial=done, desc=task, unit=f" {unit}", smoothing=0.1, delay=BAR_DELAY, disable=not draws
        )

    def advance(self, number: int = 1, **counts: int) -> None:
        """Count what is done, and what is worth knowing of it: errors, for instance."""
        self._done += number
        self._counts.update(counts)
        self._bar.update(number)
        if any(counts.values()):
            self._bar.set_postfix(self._counts)
        now = time.monotonic()
        if self._tells and now - self._last_line >= self._every:
            self._tell(now)

    def text(self, *, seconds: float) -> str:
        """Return how far it is, for people, so many seconds after its beginning."""
        numbers = self._numbers(seconds)
        share = f" ({100 * self._done / self._total:.0f} %)" if self._total else ""
        parts = [f"{self._task}: {self._done} of {self._total} {self._unit}{share}"]
        parts += [f"{number} {name}" for name, number in self._counts.items()]
        parts += [f"{_short(numbers['rate'])} {self._unit}/s", time_left(numbers["seconds_left"])]
        return ", ".join(parts)

    def _numbers(self, seconds: float) -> dict[str, Any]:
        rate = (self._done - self._begun) / seconds if seconds > 0 else 0.0
        left = (self._total - self._done) / rate if rate else None
        return {
            "task": self._task,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
            **self._counts,
            "rate": round(rate, 4),
            "seconds_left": None if left is None else round(left, 1),
        }

    def _tell(self, now: float) -> None:
        self._last_line = now
        self._told = self._done
        seconds = now - self._started
        logger.info("%s", self.text(seconds=seconds), extra=fields(**self._numbers(seconds)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
        has_told = self._told != self._begun
        if has_told and self._told != self._done and error is None:
            self._tell(time.monotonic())


def time_left(seconds: float | None) -> str:
    """Return what is left, for people.

    Example:
        >>> time_left(40), time_left(150), time_left(20_000), time_left(None)
        ('about 40 s left', 'about 2 min left', 'about 5.6 h left', 'time left unknown')
    """
    if seconds is None:
        return "time left unknown"
    if seconds < 2 * MINUTE:
        return f"about {seconds:.0f} s left"
    return f"about {seconds / MINUTE:.0f} min left" if seconds < 2 * HOUR else f"about {seconds / HOUR:.1f} h left"


def _short(rate: float) -> str:
    return f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
