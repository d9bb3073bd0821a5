#!/usr/bin/env python
"""From the bytes of a JPEG or a PNG to the letterboxed input of 336 px: feclip against what else decodes.

    python benchmarks/decoding.py

The rivals are no dependencies and stand in an environment of their own, which is made from requirements-decoders.txt.

Pictures are generated ones, enlarged, with sensor noise over them; nothing of them is kept. All candidates take turns,
each in a process with one thread, and CPU seconds count: images/s are those of one core.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from harness import FEWEST_REPEATS, Record, Timing, shown_spread, spread, write_record
from jsonargparse import auto_cli
from PIL import Image
from rivals import rival_python

from feclip.demo import FAMILIES, render

SIZES = {1: (864, 1152), 4: (1728, 2304), 12: (3000, 4000)}
"""Height and width by megapixels."""
RENDERED = (768, 1024)  # what the generator paints before it is enlarged
NOISE = 3.0  # standard deviation, levels of 255: a sensor at moderate gain
JPEG_QUALITY = 92  # as the generated archives have; chroma halved
WORKER = Path(__file__).with_name("decoders.py")
OURS, BEFORE, SCALED = "feclip", "Pillow, array between", "feclip, scaled"
REDUCING = (SCALED, "Pillow, draft", "simplejpeg, scaled", "opencv, IMREAD_REDUCED")
"""Candidates that may decode fewer pixels than there are."""
SAME_LEVELS = 1
"""Largest difference, levels of 255, from feclip's input in full decoding that counts as the same input."""


@dataclass(kw_only=True)
class _Worker:
    """A process with some of the decoders."""

    process: "subprocess.Popen[str]"
    versions: dict[str, str]
    candidates: dict[str, list[str]]

    def ask(self, **request: Any) -> dict[str, float]:  # noqa: ANN401 - what the worker's docstring says
        """Send a request and return its answer."""
        stdin, stdout = _pipes(self.process)
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer: dict[str, float] = json.loads(stdout.readline())
        return answer


@dataclass(kw_only=True)
class _Candidate:
    """One decoder and what was measured of it."""

    name: str
    worker: _Worker
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    difference: dict[str, float] = field(default_factory=dict)


def decoding(
    *,
    rivals: Path | None = None,
    formats: tuple[str, ...] = ("jpeg", "png"),
    megapixels: tuple[int, ...] = tuple(SIZES),
    pictures: int = 2,
    repeats: int = FEWEST_REPEATS,
) -> None:
    """Measure every decoder at hand and write a record for each format and size.

    Args:
        rivals: Interpreter of an environment with the rivals; null makes one.
        formats: jpeg, png.
        megapixels: Of 1, 4 and 12.
        pictures: Pictures decoded in each turn; images/s is over all of them.
        repeats: Counted turns, at least 5; one more before them is not.
    """
    if repeats < FEWEST_REPEATS:
        sys.exit(f"--repeats must be at least {FEWEST_REPEATS}, got {repeats}.")
    workers = [_started(python) for python in (Path(sys.executable), rivals or rival_python("decoders"))]
    for size in megapixels:
        drawn = [
            picture(number, megapixels=size, defect_type=(None if number % 2 else "scratch"))
            for number in range(pictures)
        ]
        for kind in formats:
            with tempfile.TemporaryDirectory() as folder:
                paths = [_saved(image, Path(folder) / f"{number}.{kind}") for number, image in enumerate(drawn)]
                candidates = _candidates(workers, kind)
                _measure(candidates, kind=kind, paths=paths, repeats=repeats)
                _write(candidates, kind=kind, megapixels=size, paths=paths, workers=workers)
    for worker in workers:
        _pipes(worker.process)[0].close()
        worker.process.wait()


def picture(number: int, *, megapixels: int, defect_type: str | None) -> npt.NDArray[np.uint8]:
    """Return a generated picture, enlarged, with noise at its own scale; shape ``(h, w, 3)``.

    Args:
        number: Which one; the same number is the same scene at every size.
        megapixels: 1, 4 or 12.
        defect_type: One of ``feclip.demo.DEFECT_TYPES``, or None for a normal one.
    """
    family = FAMILIES["unseen"][number % len(FAMILIES["unseen"])]
    scene = render(seed=0, stream=("decoding", number), family=family, size=RENDERED, defect_type=defect_type).image
    height, width = SIZES[megapixels]
    large = np.asarray(Image.fromarray(scene).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(number).standard_normal((height, width, 3), np.float32) * NOISE
    return np.rint(large + noise).clip(0, 255).astype(np.uint8)


def _saved(image: npt.NDArray[np.uint8], path: Path) -> Path:
    options = {"quality": JPEG_QUALITY} if path.suffix == ".jpeg" else {"compress_level": 6}
    Image.fromarray(image).save(path, **options)
    return path


def _started(python: Path) -> _Worker:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "VIPS_CONCURRENCY": "1"}
    process = subprocess.Popen(  # noqa: S603 - our own script
        [str(python), str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    return _Worker(process=process, **json.loads(_pipes(process)[1].readline()))


def _pipes(process: "subprocess.Popen[str]") -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _candidates(workers: list[_Worker], kind: str) -> list[_Candidate]:
    """Return each decoder once, in the first process that has it."""
    found: dict[str, _Candidate] = {}
    for worker in workers:
        for name in worker.candidates[kind]:
            found.setdefault(name, _Candidate(name=name, worker=worker))
    return list(found.values())


def _measure(candidates: list[_Candidate], *, kind: str, paths: list[Path], repeats: int) -> None:
    """Let all take turns; what each makes of the pictures is compared with feclip's full decoding."""
    names = [str(path) for path in paths]
    results = {}
    for candidate in candidates:  # not counted
        file = str(paths[0].with_name("result.npy"))
        candidate.worker.ask(format=kind, candidate=candidate.name, paths=names, save=file)
        results[candidate.name] = np.load(file, allow_pickle=False).astype(np.int16)
    for candidate in candidates:
        apart = np.abs(results[candidate.name] - results[OURS])
        candidate.difference = {"mean": round(float(apart.mean()), 3), "largest": int(apart.max())}
    for _ in range(repeats):
        for candidate in candidates:
            spent = candidate.worker.ask(format=kind, candidate=candidate.name, paths=names, save=None)
            candidate.cpu.append(spent["cpu"])
            candidate.wall.append(spent["wall"])


def _write(
    candidates: list[_Candidate],
    *,
    kind: str,
    megapixels: int,
    paths: list[Path],
    workers: list[_Worker],
) -> None:
    rates = {found.name: _timing(found, num_images=len(paths)) for found in candidates}
    same = [found.name for found in candidates if found.difference["largest"] <= SAME_LEVELS]
    fastest = max(set(same) - {OURS, BEFORE, *REDUCING}, key=lambda name: rates[name].median)
    height, width = SIZES[megapixels]
    encoded = "quality 92, chroma halved" if kind == "jpeg" else "level 6"
    facts: dict[str, Any] = {
        "pictures": "generated by feclip.demo at 1024 x 768 px, enlarged bicubically, noise of 3 levels over them",
        "mean_megabytes": round(statistics.fmean(path.stat().st_size for path in paths) / 1e6, 2),
        "fastest_to_the_same_input": fastest,
        "speedup_over_array_between": round(rates[OURS].median / rates[BEFORE].median, 2),
        "versions": {name: number for worker in workers for name, number in worker.versions.items()},
        "candidates": {
            found.name: {
                "images_per_second": spread(rates[found.name].values),
                "wall_milliseconds": round(1e3 * statistics.median(found.wall) / len(paths), 1),
                "levels_apart": found.difference,
            }
            for found in sorted(candidates, key=lambda found: -rates[found.name].median)
        },
    }
    if SCALED in rates:
        facts["speedup_of_scaled"] = round(rates[SCALED].median / rates[OURS].median, 2)
    ratio = rates[OURS].median / rates[fastest].median
    write_record(
        Record(
            row=f"decoding_{kind}_{megapixels}",
            what=f"bytes to 336 px input, {kind.upper()} {width} x {height}, {encoded}, one core",
            rival=f"the fastest other decoder to the same input: {fastest}",
            wanted="none stated; chooses the decoder",
            command="python benchmarks/decoding.py",
            ratio=round(ratio, 3),
            ratio_of="ours / rival, images/s",
            met=None,
            ours=rates[OURS],
            theirs=rates[fastest],
            facts=facts,
        )
    )
    for name, found in facts["candidates"].items():
        print(f"  {name}: {shown_spread(found['images_per_second'])} images/s, levels apart {found['levels_apart']}")


def _timing(candidate: _Candidate, *, num_images: int) -> Timing:
    return Timing(values=tuple(num_images / seconds for seconds in candidate.cpu), unit="images/s")


if __name__ == "__main__":
    auto_cli(decoding)
