"""What the rows of the scoring job share: bundles without training, archives of hard links, a job that is watched."""

import contextlib
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from memory import descendants, pss

from feclip.building import build_model
from feclip.bundle import read_bundle, write_bundle
from feclip.config import FinetuneConfig, Indices, ModelConfig, OptimConfig
from feclip.demo import FAMILIES, write_archive

JOB = Path(__file__).parents[1] / "jobs" / "score.py"
NUM_PICTURES = 400  # distinct ones; an archive links to them again and again
PER_FOLDER = 200
SAMPLE_SECONDS = 1.0


class JobFailedError(Exception):
    """A job that ended with an error; the text holds the end of its log."""


@dataclass(frozen=True, kw_only=True)
class JobRun:
    """One run of the scoring job."""

    seconds_to_first_slice: float
    """Imports, Ray's start, listing, the model, and the first slice itself."""
    slices: tuple[tuple[float, int], ...]
    """When each stood, seconds after the first, and its images; in the order of time, at least two."""
    memory: tuple[tuple[int, int], ...] = ()
    """Images written and bytes of all its processes, from the first slice to the last; empty where it was not asked."""

    @property
    def images_per_second(self) -> float:
        """From the first slice to the last."""
        return self.rates_of_parts(1)[0]

    def rates_of_parts(self, num_parts: int) -> list[float]:
        """Return images per second of as many parts of the job, one after another, of equally many slices or almost."""
        ends = [round(part * (len(self.slices) - 1) / num_parts) for part in range(num_parts + 1)]
        return [
            sum(num for _, num in self.slices[first + 1 : last + 1]) / (self.slices[last][0] - self.slices[first][0])
            for first, last in itertools.pairwise(ends)
        ]

    @property
    def peak(self) -> int:
        """The most memory, bytes."""
        return max(used for _, used in self.memory)

    @property
    def peak_of_halves(self) -> tuple[int, int]:
        """The most memory in the first and in the second half of the time, bytes."""
        used = [found for _, found in self.memory]
        middle = (len(used) + 1) // 2
        return max(used[:middle]), max(used[middle:] or used)

    @property
    def bytes_per_image(self) -> float:
        """Slope of memory over images, by least squares."""
        images, used = zip(*self.memory, strict=True)
        return statistics.linear_regression(images, used).slope if len(set(images)) > 1 else 0.0


def untrained_bundle(
    folder: Path,
    *,
    backbone: str,
    image_size: int | None = None,
    pretrained: str | None = "none",
    tap_blocks: tuple[int, ...] | None = None,
) -> str:
    """Write a bundle as zero epochs leave it, and return where it lies.

    Args:
        folder: For the bundle.
        backbone: Name of an open_clip model, or ``feclip-demo``.
        image_size: Side of the input, pixels; None for the backbone's own.
        pretrained: ``none`` for random weights, None for those that the config takes.
        tap_blocks: Zero-based tap blocks; None for the config's.
    """
    taps = None if tap_blocks is None else Indices(tap_blocks)
    config = ModelConfig(backbone=backbone, pretrained=pretrained, image_size=image_size, tap_blocks=taps).settled()
    run = FinetuneConfig(output=str(folder), model=config, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["none"], "role": ["trained"], "sha256": ["0" * 64]})
    write_bundle(str(folder), model=build_model(config, seed=0), config=run, images=images, metrics=[])
    return read_bundle(str(folder)).uri


def linked_archive(folder: Path, *, images: int, picture_size: int, num_pictures: int = NUM_PICTURES) -> Path:
    """Return an archive of hard links to a few generated JPEGs, 200 in a folder; what is there is used again.

    Args:
        folder: Working folder.
        images: Images of the archive.
        picture_size: Side of the square with the area of each picture, pixels.
        num_pictures: Distinct pictures.
    """
    pictures = folder.absolute() / f"pictures-{picture_size}"
    if not pictures.is_dir():
        write_archive(
            pictures,
            seed=0,
            families=FAMILIES["unseen"],
            num_images=min(images, num_pictures),
            defect_fraction=0.1,
            image_size=picture_size,
        )
    archive = folder.absolute() / f"archive-{picture_size}-{images}"
    if not archive.is_dir():
        found = sorted((pictures / "images").rglob("*.jpg"))
        for number in range(images):
            target = (
                archive / f"line={number // (10 * PER_FOLDER)}" / f"date={number // PER_FOLDER}" / f"{number:08d}.jpg"
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(found[number % len(found)], target)
    return archive


def mean_bytes(archive: Path) -> float:
    """Return the mean size of an archive's files, bytes."""
    return statistics.fmean(path.stat().st_size for path in archive.rglob("*.jpg"))


def run_job(
    bundle: str,
    archive: str | Path,
    output: Path,
    *,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    watches_memory: bool = False,
) -> JobRun:
    """Score an archive by `jobs/score.py` and return what was seen of it.

    Args:
        bundle: The bundle.
        archive: Folder or ``s3://`` prefix of the images.
        output: Local folder; what is there of a former run is deleted.
        flags: Further flags.
        environment: Further variables, as those that lead to an object storage.
        watches_memory: Whether the memory of all its processes is sampled, which takes some of the processor.

    Raises:
        JobFailedError: If the job fails.
    """
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, str(JOB), "--bundle", bundle, "--archive", str(archive), "--output", str(output), *flags]
    started = time.time()
    samples: list[tuple[float, int]] = []
    variables = os.environ | dict(environment or {})
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)  # noqa: S603 - our own job
        with _sampling(process.pid, samples) if watches_memory else contextlib.nullcontext():
            status = process.wait()
        if status:
            log.seek(0)
            msg = f"jobs/score.py ended with {status}: {' '.join(log.read().split())[-500:]}"
            raise JobFailedError(msg)
    return _seen(output, started=started, samples=samples)


def _seen(output: Path, *, started: float, samples: Sequence[tuple[float, int]]) -> JobRun:
    files = sorted((output / "scores").glob("*/slice-*.parquet"), key=lambda path: path.stat().st_mtime)
    times = [path.stat().st_mtime for path in files]
    rows = [pq.read_metadata(path).num_rows for path in files]
    if len(files) < 2:  # noqa: PLR2004 - a rate needs two points in time
        msg = f"{output} holds {len(files)} slices; a rate needs at least 2, so take more images."
        raise JobFailedError(msg)
    memory = [
        (sum(num for num, then in zip(rows, times, strict=True) if then <= when), used)
        for when, used in samples
        if times[0] <= when <= times[-1]
    ]
    if samples and not memory:
        msg = f"{output} was done between two looks at its memory, {SAMPLE_SECONDS:g} s apart; take more images."
        raise JobFailedError(msg)
    return JobRun(
        seconds_to_first_slice=times[0] - started,
        slices=tuple((when - times[0], num) for when, num in zip(times, rows, strict=True)),
        memory=tuple(memory),
    )


@contextlib.contextmanager
def _sampling(pid: int, samples: list[tuple[float, int]]) -> Iterator[None]:
    """Record the memory of a process and all below it while the block runs."""
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append((time.time(), sum(map(pss, [Path("/proc", str(pid)), *descendants(pid)]))))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        ended.set()
        sampler.join()
