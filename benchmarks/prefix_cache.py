#!/usr/bin/env python
"""Seconds of an epoch of the demonstration's recipe where prefixes are kept nowhere, in memory and on disk.

python benchmarks/accuracy.py data runs/accuracy
python benchmarks/prefix_cache.py --root runs/accuracy/train --folder runs/prefixes

One process, one thread, all images train; three fits differ in ``optim.prefix_cache`` alone and start alike. The folder
must be empty at the start, so that the first epoch on disk fills it; a fourth fit then finds it full.
"""

import itertools
import time
from pathlib import Path

import pyarrow.compute as pc
import torch
from jsonargparse import auto_cli

from feclip.building import build_images, build_model, read_labelled
from feclip.cli import parse_config
from feclip.config import FinetuneConfig
from feclip.data import MANIFEST_SCHEMA, Split, inspect_rows
from feclip.demo import RECIPE
from feclip.training import TrainState, fit

FITS = {"none": "none", "memory": "memory", "disk": "disk", "disk, full": "disk"}  # name: optim.prefix_cache


def main(root: Path, *, folder: Path, categories: str | None = None, epochs: int = 3, seed: int = 0) -> None:
    """Print the seconds of each epoch, in brackets those of CPU, and the last epoch's loss.

    Args:
        root: Pictures to train on, in MVTec layout.
        folder: Where ``disk`` keeps; must be empty.
        categories: Categories to train on, comma-separated; null takes all.
        epochs: Epochs of each fit.
        seed: Seed of the adapters and the order of the pictures.
    """
    torch.set_num_threads(1)
    if folder.is_dir() and any(folder.iterdir()):
        msg = f"{folder} must be empty."
        raise SystemExit(msg)
    flags = ["--config", str(RECIPE), "--data.root", str(root), "--output", "unused", f"--optim.epochs={epochs}"]
    flags += [] if categories is None else [f"--data.categories={categories}"]
    manifest = None
    for name, place in FITS.items():
        cache = [f"--optim.prefix_cache={place}", f"--optim.prefix_cache_folder={folder}"]
        config = parse_config(FinetuneConfig, [*flags, *cache], prog="prefix_cache.py", about="")
        if manifest is None:
            labelled = read_labelled(config.data, seed=seed)
            manifest = inspect_rows(labelled.filter(pc.field("split") == Split.TRAIN.value), num_threads=1)
        model = build_model(config.model, seed=seed)
        ends = [(time.perf_counter(), time.process_time())]

        def on_epoch(_: TrainState, ends: list[tuple[float, float]] = ends) -> None:
            ends.append((time.perf_counter(), time.process_time()))

        torch.manual_seed(seed)
        last = fit(
            model,
            train=build_images(manifest, config.data, image_size=model.image_size),
            held_out=build_images(MANIFEST_SCHEMA.empty_table(), config.data, image_size=model.image_size),
            loss=config.loss,
            optim=config.optim,
            seed=seed,
            device=torch.device("cpu"),
            num_threads=1,
            state=None,
            on_epoch=on_epoch,
        )
        epochs_taken = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(ends)]
        shown = ", ".join(f"{wall:.1f} ({cpu:.1f})" for wall, cpu in epochs_taken)
        print(f"{name}: epochs of {shown} s; loss {last.metrics[-1]['loss']:.6f}", flush=True)
    assert manifest is not None
    print(f"{manifest.num_rows} images, torch {torch.__version__}")


if __name__ == "__main__":
    auto_cli(main)
