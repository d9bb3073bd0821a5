#!/usr/bin/env python
"""Run the benchmarks, each as a process of its own, and write the table of what came of them.

python benchmarks/run.py --list
python benchmarks/run.py
python benchmarks/run.py --only winclip,archive_cpu

One that cannot run says why and the others go on; then the exit status is 1. Long ones come last.
"""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """What writes one record, or several."""

    name: str
    """Its record, or what the names of its records begin with."""
    command: str
    """Script beside this file, with its arguments."""
    minutes: float
    """About how long it takes on 2 cores."""


BENCHMARKS = (
    Benchmark("lfs_statistic", "model.py lfs_statistic", 1),
    Benchmark("adapters", "model.py adapters", 2),
    Benchmark("whole_model", "model.py whole_model", 2),
    Benchmark("frozen_blocks", "model.py frozen_blocks", 5),
    Benchmark("gpu_peak", "model.py gpu_peak", 1),
    Benchmark("training_step", "training_step.py step", 4),
    Benchmark("training_step_cached", "training_step.py cached_step", 3),
    Benchmark("training_step_gpu", "training_step.py gpu_step", 1),
    Benchmark("exported", "export.py exported", 5),
    Benchmark("exported_demo", "export.py exported_demo", 2),
    Benchmark("archive_gpu", "archive.py archive_gpu", 2),
    Benchmark("percentiles_10m", "calibration.py percentiles_10m", 12),
    Benchmark("scale", "scale.py", 5),
    Benchmark("decoding", "decoding.py", 10),
    Benchmark("percentiles_100m", "calibration.py percentiles_100m", 10),
    Benchmark("winclip", "winclip.py", 10),
    Benchmark("archive_cpu", "archive.py archive_cpu", 20),
    Benchmark("growth", "archive.py growth", 20),
)


def main() -> None:
    """Read the flags, and run or list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="A,B", help="names of some of them; all where it is left out")
    parser.add_argument("--list", action="store_true", help="print names, minutes and commands, and run nothing")
    flags = parser.parse_args()
    chosen = BENCHMARKS if flags.only is None else find(flags.only.split(","))
    if not flags.list:
        sys.exit(run(chosen))
    for benchmark in chosen:
        print(f"{benchmark.name:20} {benchmark.minutes:3g} min  python benchmarks/{benchmark.command}")


def run(chosen: Sequence[Benchmark]) -> int:
    """Run benchmarks, write benchmarks/README.md, and return the exit status."""
    failed = {benchmark.name: why for benchmark in chosen if (why := _run(benchmark)) is not None}
    subprocess.run([sys.executable, FOLDER / "rows.py"], check=True)  # noqa: S603 - our own script
    for name, why in failed.items():
        print(f"{name} did not run: {why}", file=sys.stderr)
    return 1 if failed else 0


def find(names: Sequence[str]) -> list[Benchmark]:
    """Return the benchmarks of some names, in the order of the table.

    Raises:
        SystemExit: If a name is unknown.
    """
    unknown = sorted({*names} - {benchmark.name for benchmark in BENCHMARKS})
    if unknown:
        known = ", ".join(benchmark.name for benchmark in BENCHMARKS)
        sys.exit(f"--only knows {known}; got {', '.join(unknown)}.")
    return [benchmark for benchmark in BENCHMARKS if benchmark.name in names]


def _run(benchmark: Benchmark) -> str | None:
    """Run one, with its output passed on; return the last line of its complaints if it fails."""
    print(f"== {benchmark.name} (about {benchmark.minutes:g} min)", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-u", *_argv(benchmark.command)]
    last = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:  # noqa: S603 - ours
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
    print(f"== {benchmark.name}: {(time.monotonic() - started) / 60:.1f} min", flush=True)
    return None if process.returncode == 0 else last or f"it ended with {process.returncode}"


def _argv(command: str) -> list[str]:
    script, *arguments = shlex.split(command)
    return [str(FOLDER / script), *arguments]


if __name__ == "__main__":
    main()
