#!/usr/bin/env python
"""Exact p99.5 and p99.9 of scores in Parquet files: against reading the column once, and against Ray's own aggregation.

python benchmarks/calibration.py percentiles_100m
python benchmarks/calibration.py percentiles_10m

Ours are the first two passes of a calibration over one statistic, in Ray tasks: read with checksums of pages, counted
as `feclip.calibration` counts. A calibration fits all three statistics, reads the row numbers and the model's name too,
and has a third pass; what it takes as a whole stands in the facts, against reading the three columns once.

The files are made at run time in a temporary folder, with the columns that a calibration reads. Their slices are larger
than those of a job (at most 512 images), whose files cost more to open than their scores to count; the facts say how
much more.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from harness import FEWEST_REPEATS, Record, in_turns, write_record
from jsonargparse import auto_cli
from percentiles import PERCENTILES, cluster, peak_memory, percentiles
from ray.data.aggregate import Quantile

from feclip.archive import Run, slice_name
from feclip.archive.listing import ListedFile
from feclip.calibration import CalibrationOptions, Percentiles, Statistic, Variant, rank_of
from feclip.cluster.calibrate import _fitted

COLUMN = str(Statistic.image_logit)
MODEL_ID = "0" * 64
NUM_SLICES = 200
SMALL_SLICE = 512  # the most images in a slice of a job
NUM_SMALL_SLICES = 1000
WHOLE_SHARE = 10  # a whole calibration is timed on this part of the images
GIB = 2**30
WANTED_TIMES, WANTED_GIB, WANTED_FASTER = 6, 1, 5


def percentiles_100m(
    *, num_scores: int = 100_000_000, repeats: int = FEWEST_REPEATS, num_threads: int = 2, folder: Path | None = None
) -> None:
    """Compare with reading the column once by pyarrow; write the row ``percentiles_100m``.

    Args:
        num_scores: Rows of the table.
        repeats: Counted turns, at least 5.
        num_threads: Cores that Ray's tasks and pyarrow get.
        folder: Where the files are made for the time of the run; null takes the system's temporary folder.
    """
    pa.set_cpu_count(num_threads)
    with _table(folder, num_scores=num_scores) as run, contextlib.ExitStack() as stack:
        memory = _own_memory(run, num_threads=num_threads)
        stack.enter_context(cluster(num_threads))
        found = _ours(run)
        _require_exact(run, found)
        ours, theirs = in_turns(lambda: _ours(run), lambda: _read_column(run), repeats=repeats)
        facts = {
            "parquet_gib": round(_num_bytes(run) / GIB, 2),
            "free_disk_gib": round(_free_bytes(run) / GIB),
            "percentiles": dict(zip(PERCENTILES, map(float, found), strict=True)),
            **{f"peak_{name}_gib": round(peak / GIB, 2) for name, peak in memory.items()},
            "num_tasks_at_once": num_threads,
        }
    options = CalibrationOptions(percentiles=Percentiles(PERCENTILES))
    with _table(folder, num_scores=num_scores // WHOLE_SHARE) as run, cluster(num_threads):
        whole, three = in_turns(lambda: _fitted(run, options=options), lambda: _read_columns(run), repeats=repeats)
        facts |= {
            "whole_calibration_images": run.num_rows,
            "whole_calibration_s": [round(value, 2) for value in whole.values],
            "three_columns_read_s": [round(value, 2) for value in three.values],
            "whole_calibration_over_three_columns": round(whole.median / three.median, 2),
        }
    with (
        _table(folder, num_scores=SMALL_SLICE * NUM_SMALL_SLICES, num_slices=NUM_SMALL_SLICES) as run,
        cluster(num_threads),
    ):
        small, _ = in_turns(lambda: _ours(run), lambda: _read_column(run), repeats=repeats)
        facts["ns_per_score"] = round(ours.median / num_scores * 1e9, 1)
        facts["ns_per_score_in_slices_of_512"] = round(small.median / run.num_rows * 1e9, 1)
    ratio = ours.median / theirs.median
    peak_gib = memory["driver_and_workers"] / GIB
    _write(
        "percentiles_100m",
        num_scores=num_scores,
        rival="pyarrow.parquet.read_table of the one column, once, with as many threads",
        wanted=f"<= {WANTED_TIMES} x, <= {WANTED_GIB} GiB",
        ratio=ratio,
        ratio_of="ours / rival, time",
        met=ratio <= WANTED_TIMES and peak_gib <= WANTED_GIB,
        ours=ours,
        theirs=theirs,
        facts=facts,
    )


def percentiles_10m(
    *, num_scores: int = 10_000_000, repeats: int = FEWEST_REPEATS, num_threads: int = 2, folder: Path | None = None
) -> None:
    """Compare with `ray.data.aggregate.Quantile`, both percentiles in one pass; write the row ``percentiles_10m``.

    Args:
        num_scores: Rows of the table.
        repeats: Counted turns, at least 5.
        num_threads: Cores that Ray's tasks get.
        folder: Where the files are made for the time of the run; null takes the system's temporary folder.
    """
    pa.set_cpu_count(num_threads)
    with (
        _table(folder, num_scores=num_scores) as run,
        _table(folder, num_scores=num_scores // 100) as few,
        cluster(num_threads),
    ):
        found = _ours(run)
        _require_exact(run, found)
        _quantiles(few)  # instead of a whole turn that is not counted
        ours, theirs = in_turns(lambda: _ours(run), lambda: _quantiles(run), repeats=repeats, warmup=0)
        interpolated: list[float] = []
        rival_memory = peak_memory(lambda: interpolated.extend(_quantiles(run)))
        facts = {
            "parquet_gib": round(_num_bytes(run) / GIB, 2),
            "percentiles": dict(zip(PERCENTILES, map(float, found), strict=True)),
            "rival_percentiles": dict(zip(PERCENTILES, map(float, interpolated), strict=True)),
            "largest_difference": float(np.abs(np.array(found, np.float64) - interpolated).max()),
            **{f"rival_peak_{name}_gib": round(peak / GIB, 2) for name, peak in rival_memory.items()},
            "num_tasks_at_once": num_threads,
        }
    ratio = theirs.median / ours.median
    _write(
        "percentiles_10m",
        num_scores=num_scores,
        rival="ray.data.read_parquet and two ray.data.aggregate.Quantile in one aggregate",
        wanted=f">= {WANTED_FASTER} x",
        ratio=ratio,
        ratio_of="rival / ours, time",
        met=ratio >= WANTED_FASTER,
        ours=ours,
        theirs=theirs,
        facts=facts,
    )


def _write(row: str, *, num_scores: int, **fields: Any) -> None:  # noqa: ANN401 - of Record
    what = f"exact p99.5 and p99.9 of {num_scores:,} float32 scores in Parquet files, start of Ray not counted"
    command = f"python benchmarks/calibration.py {row} --num_scores {num_scores}"
    write_record(Record(row=row, what=what, command=command, **fields))


@contextlib.contextmanager
def _table(folder: Path | None, *, num_scores: int, num_slices: int = NUM_SLICES) -> Iterator[Run]:
    """Make the slices of a score table with normally distributed logits, and delete them in the end."""
    with tempfile.TemporaryDirectory(prefix="feclip-percentiles-", dir=folder) as made:
        run = Run(
            output=made,
            model_id=MODEL_ID,
            options={"topk_fraction": 0.01, "smoothing_sigma": 0.0},
            source={},
            files=(ListedFile(name="none", first_row_id=0, num_rows=num_scores, sha256=""),),
            ignored={},
            slice_size=-(-num_scores // num_slices),
        )
        Path(run.scores_folder).mkdir(parents=True)
        generator = np.random.default_rng(0)
        for index in range(run.num_slices):
            rows = run.rows_of(index)
            columns = {str(name): generator.standard_normal(len(rows), np.float32) * 2 - 8 for name in Statistic}
            keys = {"row_id": np.arange(rows.start, rows.stop), "model_id": pa.array([MODEL_ID] * len(rows))}
            path = Path(run.scores_folder, slice_name(index))
            pq.write_table(pa.table(keys | columns), path, compression="zstd", write_page_checksum=True)
        yield run


def _ours(run: Run) -> list[np.float32]:
    return percentiles(run.scores_folder, column=COLUMN)


def _own_memory(run: Run, *, num_threads: int) -> dict[str, int]:
    script = Path(__file__).with_name("percentiles.py")
    command = [sys.executable, str(script), run.scores_folder, COLUMN, str(num_threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own script
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _read_column(run: Run) -> pa.Table:
    return pq.read_table(run.scores_folder, columns=[COLUMN])


def _read_columns(run: Run) -> pa.Table:
    return pq.read_table(run.scores_folder, columns=[str(name) for name in Statistic])


def _quantiles(run: Run) -> list[float]:
    """Return what Ray's aggregation finds, which interpolates between two scores."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.read_parquet(run.scores_folder, columns=[COLUMN])
    wanted = [Quantile(on=COLUMN, q=float(name) / 100, alias_name=name) for name in PERCENTILES]
    found = dataset.aggregate(*wanted)
    return [found[name] for name in PERCENTILES]


def _require_exact(run: Run, found: list[np.float32]) -> None:
    """Prove by counting in the rival's way of reading that each one is the score at its rank."""
    scores = _read_column(run)[COLUMN].to_numpy()
    for percentile, score in zip(PERCENTILES, found, strict=True):
        rank = rank_of(len(scores), percentile, Variant.percentile)
        assert (scores < score).sum() < rank <= (scores <= score).sum(), (percentile, score)


def _num_bytes(run: Run) -> int:
    return sum(path.stat().st_size for path in Path(run.scores_folder).iterdir())


def _free_bytes(run: Run) -> int:
    found = os.statvfs(run.output)
    return found.f_bavail * found.f_frsize


if __name__ == "__main__":
    auto_cli([percentiles_100m, percentiles_10m])
