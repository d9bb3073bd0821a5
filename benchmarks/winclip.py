#!/usr/bin/env python
"""FE-CLIP on ViT-B-16 at 240 px against anomalib's WinCLIP on ViT-B-16-plus-240, the same JPEGs, CPU, random weights.

python benchmarks/winclip.py

WinCLIP runs in an environment of its own, which is made from requirements-winclip.txt. It is zero-shot and predicts as
`Engine.predict` does, without pictures of its results. What counts is a whole prediction in one process, from the first
file read to the last score; starts are not counted. Both run at batch 1, which is `Engine.predict`'s own, and at a
larger batch; the faster one of each counts.
"""

import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from harness import FEWEST_REPEATS, Record, Timing, spread, write_record
from jsonargparse import auto_cli
from PIL import Image
from rivals import rival_python
from scoring_job import untrained_bundle

from feclip.bundle import Bundle, read_bundle
from feclip.data import prepare_image
from feclip.demo import FAMILIES, render
from feclip.scoring import Scorer

CHILD = Path(__file__).with_name("winclip_once.py")
BACKBONE, IMAGE_SIZE = "ViT-B-16", 240
PICTURE = (480, 640)  # height and width, one size for all, so that anomalib can make batches of them
JPEG_QUALITY = 92
WANTED = 5  # times its images/s

Rates = dict[str, float]
"""Images/s of a whole prediction (``images_per_second``), and of the model in it (``model_images_per_second``)."""


def winclip(
    *,
    images: int = 8,
    batches: tuple[int, ...] = (1, 8),
    repeats: int = FEWEST_REPEATS,
    num_threads: int = 2,
    python: Path | None = None,
) -> None:
    """Let both take turns and write the row ``winclip``.

    Args:
        images: Images of a turn.
        batches: Images in one forward pass, of both.
        repeats: Counted turns, at least 5; one more before them is not.
        num_threads: Threads of torch, of both.
        python: Interpreter of an environment with anomalib; null makes one.
    """
    if repeats < FEWEST_REPEATS:
        msg = f"--repeats must be at least {FEWEST_REPEATS}, got {repeats}."
        raise SystemExit(msg)
    torch.set_num_threads(num_threads)
    python = python or rival_python("winclip")
    ours: dict[int, list[Rates]] = {batch: [] for batch in batches}
    theirs: dict[int, list[Rates]] = {batch: [] for batch in batches}
    with tempfile.TemporaryDirectory(prefix="feclip-winclip-") as made:
        paths = _pictures(Path(made, "images"), images)
        bundle = read_bundle(untrained_bundle(Path(made, "bundle"), backbone=BACKBONE, image_size=IMAGE_SIZE))
        scorer = Scorer(bundle, precision="float32")
        with _rival(python, paths[0].parent, num_threads=num_threads) as (versions, predict):
            for turn in range(1 + repeats):
                for batch in batches:
                    found = _score(paths, bundle=bundle, scorer=scorer, batch=batch), predict(batch)
                    if turn:
                        ours[batch].append(found[0])
                        theirs[batch].append(found[1])
    _write(ours, theirs, versions=versions, images=images)


def _pictures(folder: Path, images: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:04d}.jpg" for number in range(images)]
    families = FAMILIES["unseen"]
    for number, path in enumerate(paths):
        family = families[number % len(families)]
        drawn = render(seed=0, stream=("winclip", number), family=family, size=PICTURE, defect_type=None).image
        Image.fromarray(drawn).save(path, quality=JPEG_QUALITY)
    return paths


def _score(paths: Sequence[Path], *, bundle: Bundle, scorer: Scorer, batch: int) -> Rates:
    """Read, decode and score in this process, one after another."""
    model = 0.0
    started = time.perf_counter()
    for start in range(0, len(paths), batch):
        prepared = [
            prepare_image(path.read_bytes(), uri=str(path), options=bundle.input_options)
            for path in paths[start : start + batch]
        ]
        pixels = np.stack([image.pixels for image in prepared])
        valid = np.stack([image.valid_pixels() for image in prepared])
        before = time.perf_counter()
        scorer.score(pixels, valid)
        model += time.perf_counter() - before
    whole = time.perf_counter() - started
    return {"images_per_second": len(paths) / whole, "model_images_per_second": len(paths) / model}


@contextlib.contextmanager
def _rival(python: Path, folder: Path, *, num_threads: int) -> Iterator[tuple[dict[str, str], Callable[[int], Rates]]]:
    """Start WinCLIP on a folder; give its versions and what predicts at a batch size, and end it."""
    process = subprocess.Popen(  # noqa: S603 - our own script
        [python, CHILD, folder, str(num_threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin: IO[str] = process.stdin
    answers = process.stdout

    def answer() -> dict[str, Any]:
        line = answers.readline()
        if not line:
            msg = f"WinCLIP ended with {process.wait()}; what it said stands above."
            raise SystemExit(msg)
        found: dict[str, Any] = json.loads(line)
        return found

    def predict(batch: int) -> Rates:
        stdin.write(f"{batch}\n")
        stdin.flush()
        return answer()

    try:
        yield answer(), predict
    finally:
        stdin.close()
        process.wait()


def _write(
    ours: dict[int, list[Rates]], theirs: dict[int, list[Rates]], *, versions: dict[str, str], images: int
) -> None:
    def whole(found: list[Rates]) -> Timing:
        return Timing(values=tuple(rates["images_per_second"] for rates in found), unit="images/s")

    def best(found: dict[int, list[Rates]]) -> int:
        return max(found, key=lambda batch: whole(found[batch]).median)

    mine, its = best(ours), best(theirs)
    models = [
        statistics.median(rates["model_images_per_second"] for rates in side) for side in (ours[mine], theirs[its])
    ]
    ratio = whole(ours[mine]).median / whole(theirs[its]).median
    write_record(
        Record(
            row="winclip",
            what=f"FE-CLIP on {BACKBONE} at {IMAGE_SIZE} px, random weights, {images} JPEGs of "
            f"{PICTURE[1]} x {PICTURE[0]} px read, decoded and scored in one process, batch {mine}, float32, CPU",
            rival=f"anomalib WinCLIP, Engine.predict, ViT-B-16-plus-240, random weights, zero-shot, batch {its}",
            wanted=f">= {WANTED} x images/s",
            command="python benchmarks/winclip.py",
            ratio=ratio,
            ratio_of="ours / rival, images/s",
            met=ratio >= WANTED,
            ours=whole(ours[mine]),
            theirs=whole(theirs[its]),
            facts={
                "ratio_of_the_models_alone": models[0] / models[1],
                "rivals_versions": versions,
                "by_batch": [
                    {"of": name, "batch": batch} | {key: spread([one[key] for one in found]) for key in found[0]}
                    for name, side in (("FE-CLIP", ours), ("WinCLIP", theirs))
                    for batch, found in side.items()
                ],
            },
        )
    )


if __name__ == "__main__":
    auto_cli(winclip)
