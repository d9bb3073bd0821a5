"""What every benchmark shares: two candidates that take turns in one run, and the record of what came of it.

A record is one JSON file in ``benchmarks/results/``; ``benchmarks/rows.py`` makes the table of them.
"""

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).with_name("results")
FEWEST_REPEATS = 5
SPREAD = ("median", "least", "most")
"""Keys of a measurement with its spread, in the facts of a record."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Measurements of one candidate, in ``unit``."""

    values: tuple[float, ...]
    unit: str = "s"

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row of the table: ours against its rival, measured in the same run."""

    row: str
    """Name of the row, which names its file too."""
    what: str
    """What is measured, with its sizes."""
    rival: str
    """What it is measured against."""
    wanted: str
    """The ratio that is wanted, as text."""
    command: str
    """What repeats it."""
    ratio: float | None
    """Ours and the rival's medians divided, as ``ratio_of`` says; None where it was not measured, or where what was
    measured is a ``table`` in the facts."""
    ratio_of: str
    """What is divided by what: ``rival / ours, time`` is above 1 where ours is faster."""
    met: bool | None
    """Whether the wanted ratio was reached; None where it was not measured."""
    ours: Timing | None = None
    theirs: Timing | None = None
    device: str = "cpu"
    """``cpu`` or the name of the GPU."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers of the run: memory, differences, sizes."""


def in_turns(
    ours: Callable[[], object], theirs: Callable[[], object], *, repeats: int = FEWEST_REPEATS, warmup: int = 1
) -> tuple[Timing, Timing]:
    """Time two functions, which take turns so that a noisy moment meets both.

    Args:
        ours: One call of ours.
        theirs: One call of the rival.
        repeats: Counted calls of each, at least 5.
        warmup: Calls of each before, which are not counted.

    Returns:
        Wall seconds of each call. On a GPU a call ends when the device has ended.

    Raises:
        ValueError: If ``repeats`` is too few for a median with spread.
    """
    if repeats < FEWEST_REPEATS:
        msg = f"repeats must be at least {FEWEST_REPEATS}, got {repeats}."
        raise ValueError(msg)
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(warmup + repeats):
        for function, found in zip((ours, theirs), seconds, strict=True):
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warmup:
                found.append(time.perf_counter() - start)
    return Timing(values=tuple(seconds[0])), Timing(values=tuple(seconds[1]))


def write_record(record: Record) -> Path:
    """Write a row with the machine, the commit and the date, and print it as one line.

    Returns:
        The file in ``benchmarks/results/``.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{record.row}.json"
    written = dataclasses.asdict(record) | {"machine": machine(), "commit": commit(), "date": _today()}
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(line_of(written))
    return path


def machine() -> dict[str, Any]:
    """Return what the numbers depend on and may be told: processor, cores, memory, GPU, versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
    }


def is_table(record: Mapping[str, Any]) -> bool:
    """Return whether what a record holds is no ratio but a ``table`` in its facts."""
    return record["ratio"] is None and "table" in record["facts"]


def line_of(record: Mapping[str, Any]) -> str:
    """Return one record, as `write_record` writes it, as a line for a terminal."""
    if is_table(record):
        return f"{record['row']}: {json.dumps(record['facts'], indent=1)}"
    if record["ratio"] is None:
        return f"{record['row']}: not measured on {record['device']} (wanted {record['wanted']})"
    spreads = [shown_timing(record[side]) for side in ("ours", "theirs") if record[side] is not None]
    against = f" ({' against '.join(spreads)})" if spreads else ""
    return f"{record['row']}: {record['ratio']:.3g} {record['ratio_of']}{against}, wanted {record['wanted']}"


def shown_timing(timing: Mapping[str, Any]) -> str:
    """Return median and spread of one candidate's measurements."""
    values: Sequence[float] = timing["values"]
    return f"{statistics.median(values):.3g} {timing['unit']} ({min(values):.3g} to {max(values):.3g})"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most of some measurements with four digits, for the facts of a record."""
    found = (statistics.median(values), min(values), max(values))
    return {name: float(f"{value:.4g}") for name, value in zip(SPREAD, found, strict=True)}


def shown_spread(found: Mapping[str, float]) -> str:
    """Return what `spread` found as text.

    Example:
        >>> shown_spread(spread([1200.0, 1000.0, 1234.5]))
        '1,200 (1,000 to 1,234)'
    """
    median, least, most = (shown_number(found[name]) for name in SPREAD)
    return f"{median} ({least} to {most})"


def shown_number(value: float) -> str:
    """Return three digits, and whole numbers in full.

    Example:
        >>> shown_number(0.012345), shown_number(12.345), shown_number(12345.6), shown_number(7)
        ('0.0123', '12.3', '12,346', '7')
    """
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - digits


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Return the commit that is checked out."""
    done = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],  # noqa: S607
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


def _today() -> str:
    return datetime.now(tz=UTC).date().isoformat()
