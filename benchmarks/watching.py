#!/usr/bin/env python
"""What watching costs: metrics of a slice, stopwatches of its images, a line of progress, as CPU time.

python benchmarks/watching.py          # with a Ray that exports them meanwhile
python benchmarks/watching.py alone    # recorded, and exported to nobody
"""

import io
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr

import ray

from feclip.cluster.monitoring import RunTags, count_slice, count_step, show_slices_left
from feclip.data import Stopwatch
from feclip.logs import LogConfig, LogFormat, configure
from feclip.progress import Progress

NUM_CALLS = 20_000
STAGES = ("fetch", "decode", "letterbox", "model", "write")


def microseconds(call: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    for _ in range(100):
        call()
    started = time.process_time()
    for _ in range(NUM_CALLS):
        call()
    return (time.process_time() - started) / NUM_CALLS * 1e6


def main() -> int:
    """Measure and print."""
    configure(LogConfig(format=LogFormat.json, every=0), job="benchmark")
    alone = sys.argv[1:] == ["alone"]
    if not alone:
        ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="warning")
    tags, stopwatch = RunTags.of("benchmark"), Stopwatch()
    seconds = dict.fromkeys(STAGES, 0.1)

    def slice_metrics() -> None:
        count_slice(tags, num_images=64, errors={"absent": 1, "truncated": 1}, seconds=seconds)
        show_slices_left(tags, 7)

    def image_stopwatch() -> None:
        with stopwatch.time("fetch"):
            pass
        stopwatch.add("decode", 0.1)
        stopwatch.add("letterbox", 0.1)

    with Progress("Measuring", NUM_CALLS + 100, unit="calls") as progress:
        rows = {
            "metrics of a slice": slice_metrics,
            "metrics of a training step": lambda: count_step(tags, seconds=0.1, num_images=16, loss=0.5),
            "stopwatches of an image": image_stopwatch,
            "a JSON line of progress": progress.advance,
        }
        with redirect_stderr(io.StringIO()):
            measured = {name: microseconds(call) for name, call in rows.items()}
    if not alone:
        ray.shutdown()
    print("| what | microseconds |\n|---|---|")
    for name, value in measured.items():
        print(f"| {name} | {value:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
