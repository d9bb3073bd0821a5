#!/usr/bin/env python
"""Scoring an archive as a job: against a plain loop, against its own stages on a GPU, and against itself as it grows.

python benchmarks/archive.py archive_cpu
python benchmarks/archive.py growth
python benchmarks/archive.py archive_gpu

A job's rate is that from its first slice to its last; what comes before (imports, Ray's start, listing, the model)
stands in the facts. Archives are hard links to a few hundred generated JPEGs.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from devices import TINY, name_of, not_measured
from harness import FEWEST_REPEATS, Record, Timing, spread, write_record
from jsonargparse import auto_cli
from object_store import serving
from scoring_job import JobRun, linked_archive, mean_bytes, run_job, untrained_bundle
from stages import decoding_rate, model_rate

from feclip.bundle import read_bundle

PLAIN_LOOP = Path(__file__).with_name("plain_loop.py")
RIVALS = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Workers of the DataLoader and threads of the model that are tried."""
PICTURE_SIZE = 256
SMALLEST_PICTURE = 64
SIZES = (5_000, 20_000, 100_000)
GROWTH_SLICE = 128
GROWTH_INPUT = 24  # pixels: three by three tokens of the demonstration backbone
BACKBONE, IMAGE_SIZE = "ViT-L-14-336", 336  # the paper's

CPU_WANTED, CPU_AIM = 0.85, 0.95  # of the plain loop's images/s
GPU_WANTED = 0.9  # of the slower stage's
RATE_WANTED = 0.9  # of the fastest size's images/s
MEMORY_WANTED = 1.1  # times the smallest size's peak, and of a second half the first half's


def archive_cpu(*, images: int = 6000, repeats: int = FEWEST_REPEATS, folder: Path | None = None) -> None:
    """Compare the job with one process and a DataLoader, demonstration backbone; write the row ``archive_cpu``.

    The rival is the fastest of a few numbers of workers and threads, found by one short run each.

    Args:
        images: Images of the archive; the rival scores them too.
        repeats: Runs of each, which take turns, at least 5.
        folder: Working folder whose archive is used again; null takes a temporary one.
    """
    _require(repeats)
    with _working(folder) as root:
        archive = linked_archive(root, images=images, picture_size=PICTURE_SIZE)
        bundle = untrained_bundle(root / "bundle", backbone="feclip-demo", pretrained=None)
        tried = {pair: _plain(bundle, archive, images=max(images // 4, 64), pair=pair) for pair in RIVALS}
        workers, threads = best = max(tried, key=lambda pair: tried[pair]["images_per_second"])
        jobs: list[JobRun] = []
        plain: list[dict[str, float]] = []
        for _ in range(repeats):
            jobs.append(run_job(bundle, archive, root / "scores"))
            plain.append(_plain(bundle, archive, images=images, pair=best))
        facts = {
            "mean_kilobytes": round(mean_bytes(archive) / 1e3, 1),
            "seconds_to_first_slice": [round(job.seconds_to_first_slice, 1) for job in jobs],
            "rival_seconds_to_first_batch": [round(found["seconds_to_first_batch"], 1) for found in plain],
            "slices": len(jobs[0].slices),
            "aimed_at": f">= {CPU_AIM}",
            "rivals_tried_in_short": {
                f"{pair[0]} workers, {pair[1]} threads": {"images_per_second": round(found["images_per_second"], 1)}
                for pair, found in tried.items()
            },
        }
    ours = Timing(values=tuple(job.images_per_second for job in jobs), unit="images/s")
    theirs = Timing(values=tuple(found["images_per_second"] for found in plain), unit="images/s")
    ratio = ours.median / theirs.median
    cores = len(os.sched_getaffinity(0))
    write_record(
        Record(
            row="archive_cpu",
            what=f"scoring {images:,} {_jpegs(PICTURE_SIZE)} from local disk, feclip-demo at 112 px, {cores} cores, "
            "from the first slice to the last",
            rival=f"one process, DataLoader (workers: {workers}), model (threads: {threads}), same decoding and model",
            wanted=f">= {CPU_WANTED} of its images/s",
            command=f"python benchmarks/archive.py archive_cpu --images {images} --repeats {repeats}",
            ratio=ratio,
            ratio_of="ours / rival, images/s",
            met=ratio >= CPU_WANTED,
            ours=ours,
            theirs=theirs,
            facts=facts,
        )
    )


def growth(*, sizes: tuple[int, ...] = SIZES, repeats: int = FEWEST_REPEATS, folder: Path | None = None) -> None:
    """Compare jobs over archives of growing size; write the row ``growth``.

    The pictures and the model are as small as they may be (64 px, random weights), so that it is the pipeline that is
    measured: listing, reading, decoding, the way between processes, rows and files. Slices are of one size, since a
    job's own choice grows with the archive. The largest archive is scored once, amid the others, and the parts of that
    job are its measurements.

    Args:
        sizes: Images of the archives, growing.
        repeats: Jobs of each size but the largest, which take turns, and parts of that one's job; at least 5.
        folder: Working folder whose archives are used again; null takes a temporary one.
    """
    _require(repeats)
    flags = ["--score.slice_size", str(GROWTH_SLICE)]
    with _working(folder) as root:
        archives = {size: linked_archive(root, images=size, picture_size=SMALLEST_PICTURE) for size in sizes}
        bundle = untrained_bundle(root / "bundle", backbone="feclip-demo", image_size=GROWTH_INPUT)
        jobs: dict[int, list[JobRun]] = {size: [] for size in sizes}
        for turn in range(repeats):
            for size in sizes if turn == repeats // 2 else sizes[:-1]:
                jobs[size].append(run_job(bundle, archives[size], root / "scores", flags=flags, watches_memory=True))
    (largest,) = jobs[sizes[-1]]
    rates = {size: Timing(values=tuple(job.images_per_second for job in jobs[size]), unit="images/s") for size in sizes}
    rates[sizes[-1]] = Timing(values=tuple(largest.rates_of_parts(repeats)), unit="images/s")
    medians = [timing.median for timing in rates.values()]
    peaks = {size: statistics.median(job.peak for job in jobs[size]) for size in sizes}
    halves = largest.peak_of_halves[1] / largest.peak_of_halves[0]
    ratio, memory = min(medians) / max(medians), max(peaks.values()) / peaks[sizes[0]]
    write_record(
        Record(
            row="growth",
            what=f"scoring {', '.join(f'{size:,}' for size in sizes)} {_jpegs(SMALLEST_PICTURE)} on the CPU with "
            f"feclip-demo at {GROWTH_INPUT} px, random weights; ours is the largest, its {repeats} parts",
            rival=f"itself at {sizes[0]:,}",
            wanted="images/s within 10 %, memory flat (within 10 %)",
            command=f"python benchmarks/archive.py growth --sizes [{','.join(map(str, sizes))}]",
            ratio=ratio,
            ratio_of="slowest / fastest size, images/s",
            met=ratio >= RATE_WANTED and memory <= MEMORY_WANTED and halves <= MEMORY_WANTED,
            ours=rates[sizes[-1]],
            theirs=rates[sizes[0]],
            facts={
                "largest_peak_by_smallest_sizes": memory,
                "peak_of_second_half_by_first_half_of_largest": halves,
                "slice_size": GROWTH_SLICE,
                "memory": "all processes of the job, shared pages counted once, from the first slice to the last",
                "sizes": [_size_line(size, rates[size], jobs[size]) for size in sizes],
            },
        )
    )


def archive_gpu(
    *,
    backbone: str = BACKBONE,
    image_size: int = IMAGE_SIZE,
    picture_size: int = 1024,
    images: int = 20_000,
    batch_size: int = 64,
    repeats: int = FEWEST_REPEATS,
    folder: Path | None = None,
) -> None:
    """Compare the job on one GPU, from object storage on this machine, with its stages alone; write ``archive_gpu``.

    Args:
        backbone: Name of the open_clip model, random weights.
        image_size: Side of the input, pixels.
        picture_size: Side of the square with the area of each JPEG, pixels.
        images: Images of the archive.
        batch_size: Images in one forward pass.
        repeats: Runs of each, which take turns, at least 5; without a GPU each runs once.
        folder: Working folder whose archive is used again; null takes a temporary one.
    """
    _require(repeats)
    named = _GpuRun(backbone, image_size, picture_size, images, batch_size)
    if torch.cuda.is_available():
        write_record(_archive_gpu(named, named=named, device=torch.device("cuda"), repeats=repeats, folder=folder))
        return
    tiny = _GpuRun(TINY.backbone, TINY.image_size, SMALLEST_PICTURE, 64, TINY.batch)
    record = _archive_gpu(tiny, named=named, device=torch.device("cpu"), repeats=1, folder=None)
    write_record(not_measured(record, ran=f"{tiny.images} images, {TINY}"))


@dataclass(frozen=True)
class _GpuRun:
    backbone: str
    image_size: int
    picture_size: int
    images: int
    batch_size: int


def _archive_gpu(run: _GpuRun, *, named: _GpuRun, device: torch.device, repeats: int, folder: Path | None) -> Record:
    on_gpu = device.type == "cuda"
    cores = len(os.sched_getaffinity(0))
    flags = ["--score.batch_size", str(run.batch_size), "--score.gpus_per_actor", "1" if on_gpu else "0"]
    jobs: list[JobRun] = []
    alone: dict[str, list[float]] = {"decoding": [], "model": []}
    with _working(folder) as root:
        local = linked_archive(root, images=run.images, picture_size=run.picture_size)
        bundle = untrained_bundle(root / "bundle", backbone=run.backbone, image_size=run.image_size)
        paths = sorted(local.rglob("*.jpg"))[: min(run.images, 1000)]
        for _ in range(repeats):
            with serving(local.parent) as store:
                archive = f"s3://{local.name}"
                jobs.append(
                    run_job(
                        bundle,
                        archive,
                        root / "scores",
                        flags=[*flags, "--cluster.storage_endpoint", store.endpoint],
                        environment=store.environment,
                    )
                )
            alone["decoding"].append(decoding_rate(paths, read_bundle(bundle).input_options, num_processes=cores))
            alone["model"].append(model_rate(bundle, device=device, batch_size=run.batch_size))
        megabytes = mean_bytes(local) / 1e6
    slower = min(alone, key=lambda stage: statistics.median(alone[stage]))
    ours = Timing(values=tuple(job.images_per_second for job in jobs), unit="images/s")
    theirs = Timing(values=tuple(alone[slower]), unit="images/s")
    ratio = ours.median / theirs.median
    return Record(
        row="archive_gpu",
        what=f"scoring {named.images:,} {_jpegs(named.picture_size)} from S3 on this machine with {named.backbone} at "
        f"{named.image_size} px, batch {named.batch_size}, bfloat16, one GPU, {cores} cores",
        rival="the slower of decoding on all cores and the model alone on resident batches"
        + (f": {slower}" if on_gpu else ""),
        wanted=f">= {GPU_WANTED} of its images/s",
        command="python benchmarks/archive.py archive_gpu",
        ratio=ratio,
        ratio_of="ours / rival, images/s",
        met=ratio >= GPU_WANTED,
        ours=ours,
        theirs=theirs,
        device=name_of(device),
        facts={
            "mean_megabytes": round(megabytes, 3),
            "seconds_to_first_slice": [round(job.seconds_to_first_slice, 1) for job in jobs],
            "alone": {stage: {"images_per_second": spread(values)} for stage, values in alone.items()},
        },
    )


def _plain(bundle: str, archive: Path, *, images: int, pair: tuple[int, int]) -> dict[str, float]:
    """Run the plain loop in a process of its own and return what it prints."""
    command = [sys.executable, str(PLAIN_LOOP), "--bundle", bundle, "--archive", str(archive), "--images", str(images)]
    command += ["--num_workers", str(pair[0]), "--num_threads", str(pair[1])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own script
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _size_line(size: int, rates: Timing, jobs: list[JobRun]) -> dict[str, Any]:
    slopes = [job.bytes_per_image * 1000 / 2**20 for job in jobs]
    return {
        "images": size,
        "images_per_second": spread(rates.values),
        "seconds_to_first_slice": spread([job.seconds_to_first_slice for job in jobs]),
        "peak_mib": spread([job.peak / 2**20 for job in jobs]),
        "slope_mib_per_1000_images": spread(slopes),
    }


def _jpegs(side: int) -> str:
    return f"JPEGs of about {side} x {side} px"


@contextlib.contextmanager
def _working(folder: Path | None) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feclip-archive-")))
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.absolute()


def _require(repeats: int) -> None:
    if repeats < FEWEST_REPEATS:
        sys.exit(f"--repeats must be at least {FEWEST_REPEATS}, got {repeats}.")


if __name__ == "__main__":
    auto_cli([archive_cpu, growth, archive_gpu])
