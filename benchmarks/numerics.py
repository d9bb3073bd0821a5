#!/usr/bin/env python
"""How far bfloat16 and compiled models score from float32, and how fast a compiled model is.

    python benchmarks/numerics.py scores
    python benchmarks/numerics.py scores --bundle runs/demo
    python benchmarks/numerics.py speed
    python benchmarks/numerics.py speed --backbone ViT-B-16 --image_size 224 --batch 4
    python benchmarks/numerics.py patch_embedding

Rows ``numerics`` and ``compiled_*`` of the table. On a CPU without bfloat16 it is emulated: slow, and the same numbers.
"""

import copy
import functools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from devices import name_of
from harness import Record, in_turns, write_record
from jsonargparse import auto_cli
from scipy.stats import spearmanr
from scoring_job import untrained_bundle
from torch import nn

from feclip.bundle import Bundle, read_bundle
from feclip.config import DEMO_BACKBONE
from feclip.data import prepare_image
from feclip.demo import FAMILIES, write_archive
from feclip.scoring import CPU_BATCH_SIZE, Scorer, Scores

STATISTICS = ("image_logit", "map_max", "map_topk_mean")
VARIANTS = {
    "float32, compiled": ("float32", True),
    "bfloat16": ("bfloat16", False),
    "bfloat16, compiled": ("bfloat16", True),
}
WANTED = 0.999  # Spearman's rank correlation
EMBEDDINGS = (("feclip-demo", 192, 8, 112, 16), ("ViT-B-16", 768, 16, 224, 16), ("ViT-L-14", 1024, 14, 336, 4))
"""Name, token width, side of a patch and of the input in pixels, images."""
PICTURE_SIZE = 160  # side of the square with a picture's area, pixels


def scores(*, bundle: str | None = None, pictures: int = 1000, image_size: int = 112, num_threads: int = 1) -> None:
    """Score generated pictures in each way, print how far apart and how alike they rank; write the row ``numerics``.

    Args:
        bundle: Bundle to score with; None takes the demonstration backbone with untrained adapters.
        pictures: Pictures, half of them with a defect, of any aspect ratio.
        image_size: Side of the model's input without a bundle, pixels.
        num_threads: Threads of the model.
    """
    torch.set_num_threads(num_threads)
    found = fresh_bundle(DEMO_BACKBONE, image_size=image_size) if bundle is None else read_bundle(bundle)
    pixels, valid = demo_inputs(found, pictures=pictures)
    plain = scored(found, pixels, valid)
    facts: dict[str, str] = {}
    ranks = []
    halves: list[Scores] = []
    for name, (precision, compiles) in VARIANTS.items():
        other = scored(found, pixels, valid, precision=precision, compiles=compiles)
        for statistic, (mean, largest, rank) in differences(other, plain).items():
            spread = getattr(plain, statistic).std()
            said = f"mean {mean:.2g}, largest {largest:.2g} of a deviation of {spread:.2g}, Spearman {rank:.6f}"
            print(f"{name}, {statistic}: {said}", flush=True)
            facts[f"{name}: {statistic}"] = said
            ranks.append(rank)
        halves += [other] if precision == "bfloat16" else []
    for statistic, (mean, largest, rank) in differences(*halves).items():
        said = f"mean {mean:.2g}, largest {largest:.2g}, Spearman {rank:.6f}"
        print(f"bfloat16, compiled against plain, {statistic}: {said}")
    lowest = min(ranks)
    adapters = "untrained adapters" if bundle is None else "trained adapters"
    write_record(
        Record(
            row="numerics",
            what=f"bfloat16, compiled, and both: logits of {pictures} pictures, {found.model.backbone}, {adapters}",
            rival="float32, not compiled",
            wanted=f">= {WANTED} Spearman, so <= {1 - WANTED:.3f}",
            command="python benchmarks/numerics.py scores" + ("" if bundle is None else f" --bundle {bundle}"),
            ratio=1 - lowest,
            ratio_of="1 - lowest rank correlation",
            met=lowest >= WANTED,
            device=name_of(torch.device(device())),
            facts=facts,
        )
    )


def speed(
    *, backbone: str = DEMO_BACKBONE, image_size: int = 112, batch: int = CPU_BATCH_SIZE, num_threads: int = 1
) -> None:
    """Time batches that are scored by a compiled and by a plain model, in turns, and write the row.

    Args:
        backbone: The trunk; with random weights but for the demonstration backbone.
        image_size: Side of the model's input, pixels.
        batch: Images.
        num_threads: Threads of the model.
    """
    torch.set_num_threads(num_threads)
    bundle = fresh_bundle(backbone, image_size=image_size)
    plain, fast = (Scorer(bundle, device=device(), batch_size=batch, compiles=compiles) for compiles in (False, True))
    pixels = np.random.default_rng(0).integers(0, 256, (batch, image_size, image_size, 3), dtype=np.uint8)
    valid = np.ones(pixels.shape[:3], np.bool_)
    ours, theirs = in_turns(lambda: fast.score(pixels, valid), lambda: plain.score(pixels, valid))
    ratio = theirs.median / ours.median
    sizes = f"--image_size {image_size} --batch {batch}"
    where = "gpu" if torch.cuda.is_available() else "cpu"
    write_record(
        Record(
            row=f"compiled_{where}_{backbone}".lower().replace("-", "_"),
            what=f"scoring a batch with a compiled model, {backbone} at {image_size} px, batch {batch}",
            rival="the same, not compiled",
            wanted="> 1 x",
            command=f"python benchmarks/numerics.py speed --backbone {backbone} {sizes}",
            ratio=ratio,
            ratio_of="rival / ours, time",
            met=ratio > 1,
            ours=ours,
            theirs=theirs,
            device=name_of(torch.device(device())),
            facts={"warm_up_seconds": fast.start_up.warm_up_seconds},
        )
    )


def patch_embedding(*, repeats: int = 11, num_threads: int = 1) -> None:
    """Print milliseconds from bytes to patch tokens by the layout of the pixels and of the convolution's weights.

    Args:
        repeats: Counted calls of each, which take turns.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    for name, width, patch_size, image_size, batch in EMBEDDINGS:
        convolution = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        last = copy.deepcopy(convolution).to(memory_format=torch.channels_last)
        pixels = torch.randint(0, 256, (batch, image_size, image_size, 3), dtype=torch.uint8)

        def embed(layer: nn.Module, *, first: bool, pixels: torch.Tensor = pixels) -> torch.Tensor:
            images = pixels.permute(0, 3, 1, 2)
            images = (images.contiguous() if first else images).float() / 255
            return layer(images).flatten(2).mT.contiguous()

        ways = {
            "channels first": functools.partial(embed, convolution, first=True),
            "pixels channels last": functools.partial(embed, convolution, first=False),
            "both channels last": functools.partial(embed, last, first=False),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        with torch.inference_mode():
            for turn in range(1 + repeats):
                for way, run in ways.items():
                    started = time.perf_counter()
                    run()
                    if turn:
                        seconds[way].append(time.perf_counter() - started)
        shown = (f"{way} {1e3 * statistics.median(found):.1f} ms" for way, found in seconds.items())
        print(f"{name} at {image_size} px, batch {batch}: {', '.join(shown)}", flush=True)


def fresh_bundle(backbone: str, *, image_size: int) -> Bundle:
    """Return a bundle with adapters as they start, of the demonstration's layout where it is its backbone."""
    is_demo = backbone == DEMO_BACKBONE
    with tempfile.TemporaryDirectory() as folder:
        uri = untrained_bundle(
            Path(folder),
            backbone=backbone,
            image_size=image_size,
            pretrained=None if is_demo else "none",
            tap_blocks=(3, 4, 5) if is_demo else None,
        )
        return read_bundle(uri)


def demo_inputs(bundle: Bundle, *, pictures: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels ``(N, S, S, 3)`` and valid pixels ``(N, S, S)`` of a generated archive."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "archive"
        families = tuple(dict.fromkeys(name for names in FAMILIES.values() for name in names))
        write_archive(
            root, seed=seed, families=families, num_images=pictures, defect_fraction=0.5, image_size=PICTURE_SIZE
        )
        prepared = [
            prepare_image(path.read_bytes(), uri=path.name, options=bundle.input_options)
            for path in sorted(root.rglob("*.jpg"))
        ]
    return np.stack([image.pixels for image in prepared]), np.stack([image.valid_pixels() for image in prepared])


def scored(
    bundle: Bundle, pixels: np.ndarray, valid: np.ndarray, *, precision: str = "float32", compiles: bool = False
) -> Scores:
    """Return the scores of pictures, on the GPU if there is one."""
    return Scorer(bundle, device=device(), precision=precision, compiles=compiles).score(pixels, valid)


def differences(ours: Scores, theirs: Scores) -> dict[str, tuple[float, float, float]]:
    """Return for each statistic the mean and the largest difference of the logits, and Spearman's rank correlation."""
    found = {}
    for name in STATISTICS:
        one, other = (getattr(scores, name).astype(np.float64) for scores in (ours, theirs))
        apart = np.abs(one - other)
        found[name] = (float(apart.mean()), float(apart.max()), float(spearmanr(one, other).statistic))
    return found


def device() -> str:
    """Return ``cuda`` where there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    auto_cli([scores, speed, patch_embedding])
