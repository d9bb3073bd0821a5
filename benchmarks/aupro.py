#!/usr/bin/env python
"""Exact AUPRO against anomalib's on the CPU: seconds, peak memory and value.

python benchmarks/aupro.py --rival_python /path/to/environment/bin/python --output runs/aupro.json

The environment of the rival is its own, since anomalib pins older packages: ``python -m venv ENV`` and
``ENV/bin/pip install "anomalib>=2.3"``.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jsonargparse import auto_cli
from scipy import ndimage
from scipy.special import expit

ONCE = Path(__file__).with_name("aupro_once.py")
SMOOTHNESS = 8.0  # standard deviation of the Gaussian in pixels, about half a patch of ViT-L/14 at 336 px


def draw_images(
    *, num_images: int, image_size: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return smooth probabilities and masks ``(N, S, S)``: three of four images have one to three ellipses."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:image_size, :image_size]
    scores = np.empty((num_images, image_size, image_size), np.float32)
    masks = np.zeros(scores.shape, np.bool_)
    for index in range(num_images):
        for _ in range(int(rng.integers(1, 4)) if index % 4 else 0):
            center, radii = rng.uniform(0, image_size, 2), rng.uniform(image_size / 60, image_size / 10, 2)
            masks[index] |= ((rows - center[0]) / radii[0]) ** 2 + ((columns - center[1]) / radii[1]) ** 2 < 1
        noise = ndimage.gaussian_filter(rng.normal(size=(image_size, image_size)), SMOOTHNESS)
        signal = ndimage.gaussian_filter(masks[index].astype(np.float64), SMOOTHNESS)
        scores[index] = expit(2 * noise / noise.std() + 4 * signal - 3)
    return scores, masks


def measure(python: str, library: str, folder: str) -> dict[str, float | str]:
    """Return one measurement, taken by the interpreter ``python``.

    Raises:
        SystemExit: If the library cannot be measured there, with the last line of what it said.
    """
    command = [python, str(ONCE), library, folder]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or library == "feclip"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    if done.returncode != 0:
        sys.exit(f"{library} cannot be measured with {python}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float | str] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def aupro(
    *,
    rival_python: str,
    num_images: int = 200,
    image_size: int = 336,
    seed: int = 0,
    repeats: int = 5,
    output: Path | None = None,
) -> None:
    """Print medians with spread and the ratio; the two take turns, each time in a new process.

    Args:
        rival_python: Interpreter of an environment with anomalib.
        num_images: Maps.
        image_size: Their side in pixels.
        seed: Of the maps.
        repeats: Measurements of each.
        output: JSON file of every measurement; none if null.
    """
    runs: dict[str, list[dict[str, float | str]]] = {"feclip": [], "anomalib": []}
    with tempfile.TemporaryDirectory() as folder:
        scores, masks = draw_images(num_images=num_images, image_size=image_size, seed=seed)
        np.save(Path(folder) / "scores.npy", scores, allow_pickle=False)
        np.save(Path(folder) / "masks.npy", masks, allow_pickle=False)
        for _ in range(repeats):
            runs["feclip"].append(measure(sys.executable, "feclip", folder))
            runs["anomalib"].append(measure(rival_python, "anomalib", folder))
    medians, cpu_medians = {}, {}
    for library, found in runs.items():
        seconds = [float(run["seconds"]) for run in found]
        extra = max(float(run["bytes_beyond_input"]) for run in found)
        medians[library] = statistics.median(seconds)
        cpu_medians[library] = statistics.median(float(run["cpu_seconds"]) for run in found)
        print(
            f"{library} {found[0]['version']}: {medians[library]:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
            f"{cpu_medians[library]:.2f} s of CPU, "
            f"peak {extra / 1e6:.0f} MB beyond the maps, value {found[0]['value']:.9f}"
        )
    difference = abs(float(runs["feclip"][0]["value"]) - float(runs["anomalib"][0]["value"]))
    ratio = medians["anomalib"] / medians["feclip"]
    cpu_ratio = cpu_medians["anomalib"] / cpu_medians["feclip"]
    print(f"anomalib / feclip: {ratio:.1f} times the time, {cpu_ratio:.1f} of CPU; values differ by {difference:.1e}")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        arguments = {"num_images": num_images, "image_size": image_size, "seed": seed, "num_cpus": os.cpu_count()}
        record = {
            "arguments": arguments,
            "ratio": ratio,
            "cpu_ratio": cpu_ratio,
            "difference": difference,
            "runs": runs,
        }
        output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(aupro)
