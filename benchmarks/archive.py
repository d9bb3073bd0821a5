#!/usr/bin/env python
"""Scoring an archive as a job, against a plain loop in one process with the same decoding and the same model.

python benchmarks/archive.py score --images 20000 --folder runs/load
python benchmarks/archive.py listing --objects 200000 --folder runs/listing
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli

from feclip.archive import Source, list_part, plan_parts
from feclip.bundle import read_bundle
from feclip.config import ListingConfig, Names
from feclip.data import GuardedDecoder, fetch_and_decode, list_files, unpack_valid_pixels
from feclip.demo import FAMILIES, write_archive
from feclip.scoring import Scorer

REPOSITORY = Path(__file__).parents[1]
NUM_PICTURES = 400  # distinct ones; the archive links to them again and again
PLAIN_IMAGES = 2000
BATCH = 256
SAMPLE_SECONDS = 1.0


def score(*, bundle: str, folder: Path, images: int = 20_000) -> None:
    """Print images/s of the job from its first slice on, of the plain loop, their ratio, and the memory over time.

    Args:
        bundle: Bundle to score with.
        folder: Working folder; what is there of a former run is deleted.
        images: Images of the archive.
    """
    shutil.rmtree(folder / "scores", ignore_errors=True)
    archive = _archive(folder, images=images)
    plain, shares = _plain_loop(bundle, archive)
    sys.stdout.write(f"plain loop, one process, {PLAIN_IMAGES} images: {plain:.1f} images/s; {shares}\n")
    command = [sys.executable, str(REPOSITORY / "jobs" / "score.py"), "--bundle", str(Path(bundle).absolute())]
    command += ["--archive", str(archive), "--output", str(folder.absolute() / "scores")]
    started = time.time()
    mark = f"FECLIP_BENCHMARK={started}"
    samples: list[tuple[float, int]] = []
    with subprocess.Popen(command, env=os.environ | dict([mark.split("=", 1)])) as process:  # noqa: S603 - our own job
        sampler = threading.Thread(target=_sample, args=(process, mark, samples), daemon=True)
        sampler.start()
        if process.wait():
            sys.exit(process.returncode)
    files = sorted(path.stat().st_mtime for path in (folder / "scores" / "scores").glob("*/slice-*.parquet"))
    first, last = files[0], files[-1]
    per_slice = images / len(files)
    rate = (len(files) - 1) * per_slice / (last - first)
    within = [rss for when, rss in samples if first <= when <= last]
    halves = within[: len(within) // 2], within[len(within) // 2 :]
    record = {
        "images": images,
        "plain_images_per_second": round(plain, 2),
        "plain_shares": shares,
        "job_images_per_second": round(rate, 2),
        "ratio": round(rate / plain, 3),
        "seconds_to_first_slice": round(first - started, 1),
        "seconds": round(last - first, 1),
        "peak_first_half_mib": max(halves[0]) >> 20,
        "peak_second_half_mib": max(halves[1]) >> 20,
        "peak_ratio": round(max(halves[1]) / max(halves[0]), 3),
        "cpus": os.cpu_count(),
    }
    sys.stdout.write(json.dumps(record, indent=1) + "\n")


def listing(*, folder: Path, objects: int = 200_000, repeats: int = 3) -> None:
    """Print seconds to list an archive in one go and in parts, one after another in this process.

    Args:
        folder: Working folder, which gets empty files.
        objects: Objects of the archive, in 200 folders.
        repeats: How often each is measured.
    """
    root = folder / "objects"
    if not root.is_dir():
        for number in range(objects):
            path = root / f"line={number % 10}" / f"date={number // 10 % 20}" / f"{number:08d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    source = Source(archive=str(root.absolute()), manifest=None, listing=ListingConfig(extensions=Names((".jpg",))))
    seconds: dict[str, list[float]] = {"walk": [], "parts": []}
    for _ in range(repeats):
        start = time.perf_counter()
        walked = sum(1 for _ in list_files(str(root)))
        seconds["walk"].append(time.perf_counter() - start)
        start = time.perf_counter()
        parts = plan_parts(source)
        listed = sum(len(block.table) for part in parts for block in list_part(part, source))
        seconds["parts"].append(time.perf_counter() - start)
        assert walked == listed == objects
    for name, values in seconds.items():
        rate = objects / statistics.median(values)
        sys.stdout.write(
            f"{name}: {statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f}), {rate:.0f}/s\n"
        )
    sys.stdout.write(f"{len(parts)} parts; Ray tasks divide them\n")


def _archive(folder: Path, *, images: int) -> Path:
    """Return an archive of hard links to a few hundred generated pictures, 200 in a folder."""
    pictures = folder / "pictures"
    if not pictures.is_dir():
        write_archive(pictures, seed=0, families=FAMILIES["unseen"], num_images=NUM_PICTURES, defect_fraction=0.1)
    archive = folder.absolute() / f"archive-{images}"
    if not archive.is_dir():
        found = sorted((pictures / "images").rglob("*.jpg"))
        for number in range(images):
            target = archive / f"line={number // 2000}" / f"date={number // 200}" / f"{number:08d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(found[number % len(found)], target)
    return archive


def _plain_loop(bundle_uri: str, archive: Path) -> tuple[float, dict[str, float]]:
    """Return images/s of fetch, decode and score, one after another, in batches like the job's slices; and its parts.

    The parts are shares of the loop's time: reading and decoding (in the decoder's child), model and statistics.
    """
    bundle = read_bundle(bundle_uri)
    torch.set_num_threads(1)
    scorer = Scorer(bundle)
    uris = [str(path) for path in sorted(archive.rglob("*.jpg"))[:PLAIN_IMAGES]]
    with GuardedDecoder(bundle.input_options) as decoder:
        _score_all(uris[:BATCH], scorer=scorer, decoder=decoder)
        start = time.perf_counter()
        decoding = _score_all(uris, scorer=scorer, decoder=decoder)
    seconds = time.perf_counter() - start
    share = decoding / seconds
    return len(uris) / seconds, {"read and decode": round(share, 3), "model and statistics": round(1 - share, 3)}


def _score_all(uris: list[str], *, scorer: Scorer, decoder: GuardedDecoder) -> float:
    """Score images and return the seconds that reading and decoding took."""
    decoding = 0.0
    for first in range(0, len(uris), BATCH):
        start = time.perf_counter()
        fetched = [fetch_and_decode(uri, decoder=decoder) for uri in uris[first : first + BATCH]]
        decoding += time.perf_counter() - start
        images = [found.image for found in fetched if found.image is not None]
        valid = [
            unpack_valid_pixels(image.valid_box, image.valid_mask, image_size=scorer.image_size) for image in images
        ]
        scorer.score(np.stack([image.pixels for image in images]), np.stack(valid))
    return decoding


def _sample(process: "subprocess.Popen[bytes]", mark: str, samples: list[tuple[float, int]]) -> None:
    """Record the resident memory of the job and of all it started, shared memory counted once for each process."""
    while process.poll() is None:
        samples.append((time.time(), sum(_private_bytes(folder) for folder in _members(mark))))
        time.sleep(SAMPLE_SECONDS)


def _members(mark: str) -> Iterator[Path]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    yield folder
            except OSError:
                continue


def _private_bytes(folder: Path) -> int:
    try:
        fields = (folder / "status").read_text().splitlines()
    except OSError:
        return 0
    found = {line.split(":")[0]: line.split()[1] for line in fields if line.startswith(("RssAnon", "RssFile"))}
    return sum(int(value) for value in found.values()) << 10


if __name__ == "__main__":
    auto_cli([score, listing])
