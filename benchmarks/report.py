"""A report over a large score table: time, memory, size of the page, and how long a browser takes to open it.

    python benchmarks/report.py                        # 1,000,000 rows
    python benchmarks/report.py --num_rows 100000

The table is synthetic: chosen scores and random token maps, four lines and a year of days, near the 2,048 groups and
dates that a page may have. Images are not fetched, so what is shown is scores alone. The browser is Debian's chromium;
without one the time to open is not measured.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from harness import commit

from feclip.archive import ListedFile, Run, Source, slice_name
from feclip.archive.listing import ROWS_PER_FILE
from feclip.archive.slices import encode_table
from feclip.building import build_model
from feclip.bundle import Bundle, read_bundle, write_bundle, write_calibrated
from feclip.calibration import CalibrationOptions, StatisticOptions, calibrate
from feclip.config import FinetuneConfig, ModelConfig, OptimConfig, ScoringConfig
from feclip.data import join_uri, write_bytes
from feclip.score_table import SCORE_SCHEMA

NUM_LINES, NUM_DAYS, NUM_NORMALS = 4, 365, 10_000
SLICE_SIZE = 512
GRID = 14  # tokens along a side of the demonstration backbone
NUM_MAPS = 64
ANOMALOUS, ERRORS = 0.01, 0.001
LONGEST_REPORT, LARGEST_PAGE, LONGEST_OPENING = 120.0, 30e6, 3.0  # seconds, bytes, seconds: what is wanted
NUM_OPENINGS = 5


def main() -> None:
    """Write a table, report on it in a process of its own, open the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        bundle = written_bundle(home, seed=args.seed)
        written = time.perf_counter()
        write_table(str(home / "scores"), bundle=bundle, num_rows=args.num_rows, seed=args.seed, anomalous=ANOMALOUS)
        print(f"{datetime.now(UTC):%Y-%m-%d}, commit {commit()}, seed {args.seed}")
        print(f"{args.num_rows:,} rows written in {time.perf_counter() - written:.1f} s (not part of the report)")
        seconds, peak = reported(home, bundle=bundle)
        size = sum(path.stat().st_size for path in (home / "page").rglob("*") if path.is_file())
        html = (home / "page" / "index.html").stat().st_size
        rate, memory = args.num_rows / seconds, peak / 2**20
        print(f"report: {seconds:.1f} s (wanted <= {LONGEST_REPORT:g} s), {rate:,.0f} rows/s, peak {memory:.0f} MiB")
        print(f"page: {size / 1e6:.2f} MB in all (wanted <= {LARGEST_PAGE / 1e6:g} MB), index.html {html / 1e6:.2f} MB")
        opened = opening_seconds(home / "page" / "index.html")
        if opened is None:
            print("opening: not measured, no chromium here")
        else:
            median, spread = float(np.median(opened)), f"{min(opened):.2f} to {max(opened):.2f}"
            print(f"opening: {median:.2f} s ({spread}) until the plots stand (wanted <= {LONGEST_OPENING:g} s)")


def written_bundle(home: Path, *, seed: int) -> Bundle:
    """Write an untrained bundle, calibrated on synthetic normals that stand beside it."""
    model = ModelConfig(backbone="feclip-demo").settled()
    config = FinetuneConfig(output=str(home / "bundle"), model=model, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/a.png"], "sha256": ["0"]})
    write_bundle(str(home / "bundle"), model=build_model(model, seed=seed), config=config, images=images, metrics=[])
    bundle = read_bundle(str(home / "bundle"))
    normals = home / "calibrated" / "_normals"
    tables = write_table(str(normals), bundle=bundle, num_rows=NUM_NORMALS, seed=seed + 1, anomalous=0)
    calibration = calibrate(
        tables,
        model_id=bundle.model_id,
        options=CalibrationOptions(percentiles=("99.5",)),
        statistic_options=StatisticOptions(topk_fraction=0.01, smoothing_sigma=0),
    )
    write_calibrated(str(home / "calibrated"), bundle=bundle, calibration=calibration, images=images)
    return read_bundle(str(home / "calibrated"))


def write_table(output: str, *, bundle: Bundle, num_rows: int, seed: int, anomalous: float) -> list[pa.Table]:
    """Write a finished score table; return its first slices, which are all of a small one."""
    run = Run.frozen(
        output,
        model_id=bundle.model_id,
        config=ScoringConfig(slice_size=SLICE_SIZE),
        source=Source(archive="/archive", manifest=None),
        files=[
            ListedFile(
                name=f"rows-{first:012d}.parquet",
                first_row_id=first,
                num_rows=min(ROWS_PER_FILE, num_rows - first),
                sha256="0" * 64,
            )
            for first in range(0, num_rows, ROWS_PER_FILE)
        ],
        ignored={},
        image_size=bundle.input_options.image_size,
    )
    run.publish()
    rng = np.random.default_rng(seed)
    maps = [rng.normal(-6, 1, GRID * GRID).astype("<f2").tobytes() for _ in range(NUM_MAPS)]
    kept = []
    for index in range(run.num_slices):
        table = _slice(run, index, maps=maps, rng=rng, anomalous=anomalous)
        write_bytes(join_uri(run.scores_folder, slice_name(index)), encode_table(table))
        if index <= NUM_NORMALS // SLICE_SIZE:
            kept.append(table)
    return kept


def _slice(run: Run, index: int, *, maps: list[bytes], rng: np.random.Generator, anomalous: float) -> pa.Table:
    rows = run.rows_of(index)
    num, size = len(rows), 112
    failed = rng.random(num) < ERRORS
    scores = (rng.normal(-6, 1, (3, num)) + 6 * (rng.random(num) < anomalous)).astype(np.float32)
    first = date(2025, 1, 1)
    days = [str(first + timedelta(int(day))) for day in rng.integers(0, NUM_DAYS, num)]
    lines = rng.integers(0, NUM_LINES, num).tolist()
    ids = list(rows)
    columns = {
        "row_id": pa.array(ids, pa.int64()),
        "uri": [
            f"s3://plant/archive/line={line}/date={day}/part_{row:09d}.jpg"
            for row, line, day in zip(ids, lines, days, strict=True)
        ],
        "model_id": [run.model_id] * num,
        "sha256": [f"{row:064x}" for row in ids],
        "width": pa.array([1280] * num, pa.int32(), mask=failed),
        "height": pa.array([960] * num, pa.int32(), mask=failed),
        "image_logit": pa.array(scores[0], mask=failed),
        "image_score": pa.array(1 / (1 + np.exp(-scores[0])), mask=failed),
        "map_max": pa.array(scores[1], mask=failed),
        "map_topk_mean": pa.array(scores[2], mask=failed),
        "token_map": [
            None if flag else maps[int(chosen)]
            for flag, chosen in zip(failed, rng.integers(0, NUM_MAPS, num), strict=True)
        ],
        "valid_box": pa.array([None if flag else [14, 0, 84, size] for flag in failed], pa.list_(pa.int16(), 4)),
        "error": [
            f"Cannot decode image {row}: the file is cut short." if flag else None
            for row, flag in zip(ids, failed, strict=True)
        ],
        "error_kind": ["truncated" if flag else None for flag in failed],
    }
    arrays = [
        pa.array([None] * num, field.type) if field.name not in columns else pa.array(columns[field.name], field.type)
        for field in SCORE_SCHEMA
    ]
    names = [*SCORE_SCHEMA.names, "line", "date"]
    return pa.table([*arrays, pa.array([str(line) for line in lines]), pa.array(days)], names=names)


def reported(home: Path, *, bundle: Bundle) -> tuple[float, int]:
    """Run the job in a process of its own; return its wall seconds, start-up included, and its peak memory in bytes."""
    job = Path(__file__).parents[1] / "jobs" / "report.py"
    flags = [
        "--bundle",
        bundle.uri,
        "--scores",
        str(home / "scores"),
        "--output",
        str(home / "page"),
        "--with_images=false",
    ]
    started = time.perf_counter()
    subprocess.run([sys.executable, str(job), *flags], check=True)  # noqa: S603 - our own job
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def opening_seconds(page: Path) -> list[float] | None:
    """Return the seconds from the start of loading until the last plot stands, in a fresh browser context each."""
    program = shutil.which("chromium")
    if program is None:
        return None
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - of the development extra

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(NUM_OPENINGS):
            with browser.new_context() as context:
                opened = context.new_page()
                started = time.perf_counter()
                opened.goto(page.as_uri())
                opened.locator("#drift-plot .main-svg").first.wait_for(state="visible")
                found.append(time.perf_counter() - started)
        browser.close()
    return found


if __name__ == "__main__":
    main()
