#!/usr/bin/env python
"""What a memory bank of few normal images is worth: metrics by the number of shots, and its cost.

python benchmarks/few_shots.py pictures runs/few_shots
python benchmarks/few_shots.py accuracy runs/demo/bundle --roots runs/few_shots/seen,runs/few_shots/unseen
python benchmarks/few_shots.py accuracy runs/demo/bundle --roots ../shared/data/mvtec --shots 0,1,2,4,all
python benchmarks/few_shots.py cost

Each category has a bank of its own, of images of its ``train/good``, and is evaluated on all of its ``test``. A number
is the mean over the categories; its spread is over the seeds of which images are taken.
"""

import logging
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from commands import run_commands
from numerics import demo_inputs, fresh_bundle

from feclip.archive import ShotRequest, Source, choose_shots, merge_shots, plan_parts
from feclip.building import build_images, read_labelled
from feclip.bundle import Bundle, read_bundle
from feclip.config import DataConfig, Names
from feclip.data import GuardedDecoder, PreparedImage, Split, fetch_and_decode, list_children
from feclip.demo import FAMILIES, write_mvtec
from feclip.errors import DataError
from feclip.model import FeClipModel
from feclip.scoring import BankImages, build_bank
from feclip.training import PrefixSource, held_out_metrics

logger = logging.getLogger("few_shots")

IMAGE_SIZE = 128  # pixels of the pictures, as in benchmarks/accuracy.py
COUNTS = {"num_train_good": 32, "num_test_good": 60, "num_per_defect": 6}
METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
ALL = "all"


def pictures(folder: Path, *, seed: int = 3) -> None:
    """Write pictures of the seen and the unseen families, with 32 normal ones of each to take shots from.

    Args:
        folder: Where to, in ``seen`` and ``unseen``.
        seed: Seed of the pictures; another than that of any training.
    """
    for name, families in (("seen", FAMILIES["finetuning"]), ("unseen", FAMILIES["unseen"])):
        write_mvtec(folder / name, seed=seed, families=families, image_size=IMAGE_SIZE, **COUNTS)


def accuracy(
    bundle: str,
    *,
    roots: str,
    shots: str = "0,1,2,4,8,16,all",
    seeds: str = "0,1,2,3,4",
    coreset_fraction: float = 1.0,
    num_threads: int = 2,
) -> None:
    """Print a table: shots by metrics, mean and standard deviation over the seeds.

    Args:
        bundle: Bundle without a memory bank.
        roots: Data sets in the layout of MVTec AD, separated by commas.
        shots: Numbers of normal images of each category, separated by commas; 0 is no bank, all is every one.
        seeds: Seeds of which images are taken, separated by commas.
        coreset_fraction: Share of the tokens that are kept.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    found = read_bundle(bundle)
    sys.stdout.write(f"| data set | shots | {' | '.join(METRICS.values())} |\n|---|---|{'---|' * len(METRICS)}\n")
    for root in roots.split(","):
        for number in shots.split(","):
            drawn = seeds.split(",")[:1] if number in {"0", ALL} else seeds.split(",")  # these leave nothing to chance
            runs = [_run(found, Path(root), number, seed=int(seed), fraction=coreset_fraction) for seed in drawn]
            cells = [_cell([run[name] for run in runs if name in run]) for name in METRICS]
            sys.stdout.write(f"| {Path(root).name} | {number} | {' | '.join(cells)} |\n")
            sys.stdout.flush()


def cost(
    *,
    backbone: str = "ViT-B-16",
    image_size: int = 240,
    shots: str = "1,4,16",
    batch: int = 4,
    repeats: int = 5,
    num_threads: int = 2,
) -> None:
    """Print how long a forward pass takes with a bank against one without, float32, in turns, and the bank's size.

    Args:
        backbone: Backbone with random weights.
        image_size: Side of the model's input, pixels.
        shots: Numbers of normal images, separated by commas.
        batch: Images of a pass.
        repeats: Passes of either.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    bundle = fresh_bundle(backbone, image_size=image_size)
    pixels, valid = demo_inputs(bundle, pictures=max(batch, *(int(number) for number in shots.split(","))))
    model = bundle.build()
    images = model.normalize(torch.from_numpy(pixels[:batch]).permute(0, 3, 1, 2))
    sys.stdout.write("| shots | bank, MB | without, s | with, s | with / without |\n|---|---|---|---|---|\n")
    for number in shots.split(","):
        part = BankImages(pixels=pixels[: int(number)], valid_pixels=valid[: int(number)])
        bank = build_bank(bundle, {"": [part]}, group_column=None, request={}, precision="float32")
        module = bank.build()
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(2 * (repeats + 1)):
            model.memory_bank = module if turn % 2 else None
            seconds[bool(turn % 2)].append(_timed(model, images))
        without, having = (statistics.median(values[1:]) for values in seconds.values())
        size = bank.num_bytes / 1e6
        sys.stdout.write(f"| {number} | {size:.1f} | {without:.3f} | {having:.3f} | {having / without:.2f} |\n")


@torch.inference_mode()
def _timed(model: FeClipModel, images: torch.Tensor) -> float:
    started = time.perf_counter()
    output = model(images)
    output.image_logit.sum().item()
    output.token_map.sum().item()
    return time.perf_counter() - started


def _run(bundle: Bundle, root: Path, number: str, *, seed: int, fraction: float) -> dict[str, float]:
    """Return the mean over the categories of a data set."""
    categories = sorted(entry.uri.rstrip("/").rpartition("/")[2] for entry in list_children(str(root)))
    folders = [name for name in categories if (root / name / "train" / "good").is_dir()]
    found = [_category(bundle, root / name, number, seed=seed, fraction=fraction) for name in folders]
    means = {name: statistics.mean(part[name] for part in found) for name in METRICS if all(name in p for p in found)}
    logger.info("%s, %s shots, seed %d: %s", root.name, number, seed, means)
    return means


def _category(bundle: Bundle, folder: Path, number: str, *, seed: int, fraction: float) -> dict[str, float]:
    model = bundle.build()
    if number != "0":
        shots = _shots(folder / "train" / "good", number, seed=seed)
        batches = _prepared(bundle, shots)
        model.memory_bank = build_bank(
            bundle,
            {"": batches},
            group_column=None,
            request={},
            coreset_fraction=fraction,
            precision="float32",
        ).build()
    source = DataConfig(root=str(folder.parent), categories=Names((folder.name,)), **bundle.input)
    rows = read_labelled(source, seed=0)
    images = build_images(rows.filter(pc.field("split") == Split.TRAIN.value), source, image_size=model.image_size)
    return held_out_metrics(
        PrefixSource(
            model, images, precision="float32", device=torch.device("cpu"), num_threads=torch.get_num_threads()
        )
    )


def _shots(folder: Path, number: str, *, seed: int) -> list[str]:
    source = Source(archive=str(folder), manifest=None)
    request = ShotRequest(shots=None if number == ALL else int(number), group_column=None, seed=seed)
    chosen = merge_shots([choose_shots(part, source, request) for part in plan_parts(source)], request)[""]
    if number != ALL and len(chosen) < int(number):
        msg = f"{folder} has {len(chosen)} images, fewer than {number} shots."
        raise DataError(msg)
    return [shot.uri for shot in chosen]


def _prepared(bundle: Bundle, uris: list[str]) -> Iterator[BankImages]:
    with GuardedDecoder(bundle.input_options) as decoder:
        for uri in uris:
            image = fetch_and_decode(uri, decoder=decoder).image
            assert isinstance(image, PreparedImage)
            yield BankImages(pixels=image.pixels[None], valid_pixels=np.asarray(image.valid_pixels())[None])


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(run_commands([pictures, accuracy, cost], logger=logger))
