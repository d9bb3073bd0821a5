#!/usr/bin/env python
"""Score images as one does without a cluster: one process with the model, torch's DataLoader that decodes for it.

python benchmarks/plain_loop.py --bundle <bundle> --archive <folder> --num_workers 1 --num_threads 1

prints its images/s as JSON. `benchmarks/archive.py` runs it as the rival: decoding (`feclip.data.prepare_image`, in the
DataLoader's workers), the model and the statistics of the maps are the job's own; it guards against no file, writes no
row and has no cluster.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from torch.utils.data import DataLoader, Dataset

from feclip.bundle import read_bundle
from feclip.data import InputOptions, prepare_image
from feclip.scoring import CPU_BATCH_SIZE, Scorer

Pair = tuple[torch.Tensor, torch.Tensor]


class Images(Dataset[Pair]):
    """Files as inputs of the model: uint8 pixels ``(S, S, 3)`` and valid pixels ``(S, S)``."""

    def __init__(self, paths: list[Path], options: InputOptions) -> None:
        self._paths = paths
        self._options = options

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Pair:
        path = self._paths[index]
        image = prepare_image(path.read_bytes(), uri=str(path), options=self._options)
        return torch.from_numpy(np.array(image.pixels)), torch.from_numpy(np.array(image.valid_pixels()))


def plain_loop(
    *,
    bundle: str,
    archive: Path,
    images: int | None = None,
    num_workers: int = 1,
    num_threads: int = 1,
    batch_size: int = CPU_BATCH_SIZE,
) -> None:
    """Score and print images/s from the first batch that is done to the last, and the seconds before.

    Args:
        bundle: The bundle.
        archive: Folder of JPEGs.
        images: How many of them; null for all.
        num_workers: Processes of the DataLoader; 0 decodes in the loop.
        num_threads: Threads of the model.
        batch_size: Images in one forward pass.
    """
    started = time.perf_counter()
    torch.set_num_threads(num_threads)
    found = read_bundle(bundle)
    scorer = Scorer(found, batch_size=batch_size)
    paths = sorted(archive.rglob("*.jpg"))[:images]
    loader = DataLoader(Images(paths, found.input_options), batch_size=batch_size, num_workers=num_workers)
    done: list[tuple[float, int]] = []
    for pixels, valid in loader:
        scores = scorer.score(pixels.numpy(), valid.numpy())
        done.append((time.perf_counter(), len(scores.image_logit)))
    (first, _), (last, _) = done[0], done[-1]
    rate = sum(num for _, num in done[1:]) / (last - first)
    print(json.dumps({"images_per_second": rate, "seconds_to_first_batch": first - started}))


if __name__ == "__main__":
    auto_cli(plain_loop)
