#!/usr/bin/env python
"""Exact percentiles of a column of Parquet files in Ray tasks, and the memory of that; without torch.

python benchmarks/percentiles.py <folder of Parquet files> <column> <CPUs>

prints the most memory as JSON. `benchmarks/calibration.py` runs it, so that nothing else counts as its memory.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import ray
from memory import descendants, pss

from feclip.calibration import Variant, rank_of
from feclip.calibration.counts import Counts, bins_of, keys_of, merge_all, score_at
from feclip.score_keys import Keys

PERCENTILES = ("99.5", "99.9")
TASKS_PER_CPU = 4
BATCH = 1 << 18  # rows that a task holds
SAMPLE_SECONDS = 0.05


@contextlib.contextmanager
def cluster(num_cpus: int) -> Iterator[None]:
    """Start Ray with so many CPUs, and end it."""
    ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, logging_level="warning")
    try:
        yield
    finally:
        ray.shutdown()


def percentiles(folder: str, *, column: str) -> list[np.float32]:
    """Return the order statistics, as two passes over the files find them.

    Args:
        folder: Parquet files alone.
        column: float32 without nulls.
    """

    def in_tasks(count: Callable[[Keys], Counts]) -> Counts:
        paths = sorted(str(path) for path in Path(folder).iterdir())
        num_tasks = TASKS_PER_CPU * int(ray.cluster_resources()["CPU"])
        shares = [paths[start::num_tasks] for start in range(num_tasks)]
        return merge_all(ray.get([_count.remote(share, column, count) for share in shares]))

    bins = in_tasks(lambda keys: Counts.of(bins_of(keys)))
    ranks = [rank_of(bins.total, percentile, Variant.percentile) for percentile in PERCENTILES]
    wanted = sorted({bins.find(rank)[0] for rank in ranks})
    keys = in_tasks(lambda keys: Counts.of(keys[np.isin(bins_of(keys), wanted)]))
    return [score_at(rank, bins=bins, keys=keys) for rank in ranks]


@ray.remote(num_cpus=1)
def _count(paths: list[str], column: str, count: Callable[[Keys], Counts]) -> Counts:
    """Count the keys of some files, one batch in memory at a time."""

    def counted() -> Iterator[Counts]:
        for path in paths:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            for batch in file.iter_batches(BATCH, columns=[column], use_threads=False):
                yield count(keys_of(batch.column(0).to_numpy()))

    return merge_all(counted())


def peak_memory(function: Callable[[], object]) -> dict[str, int]:
    """Return the most memory while a call runs, which is not timed, in bytes.

    ``driver_and_workers`` are this process and Ray's workers with all their libraries, memory that several share
    divided among them (PSS); ``before`` is the same in front of the call, ``ray_services`` Ray's other processes.
    """
    samples = [_memory()]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append(_memory())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        function()
    finally:
        ended.set()
        sampler.join()
    work, services = zip(*samples, strict=True)
    return {"driver_and_workers": max(work), "before": work[0], "ray_services": max(services)}


def _memory() -> tuple[int, int]:
    """Return the memory of this process and Ray's workers, and of Ray's other processes, in bytes."""
    work, services = pss(Path("/proc/self")), 0
    for folder in descendants(os.getpid()):
        name = (folder / "cmdline").read_bytes() if folder.exists() else b""
        if name.startswith(b"ray::"):
            work += pss(folder)
        else:
            services += pss(folder)
    return work, services


if __name__ == "__main__":
    with cluster(int(sys.argv[3])):
        percentiles(sys.argv[1], column=sys.argv[2])  # the workers' start is not its peak
        print(json.dumps(peak_memory(lambda: percentiles(sys.argv[1], column=sys.argv[2]))))
