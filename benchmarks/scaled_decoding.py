#!/usr/bin/env python
"""How far scores move when large JPEGs are decoded at a fraction of their size (`data.jpeg_decoding: scaled`).

    python benchmarks/scaled_decoding.py
    python benchmarks/scaled_decoding.py --bundle runs/demo

Generated pictures, half of them with a defect, are enlarged with sensor noise over them and saved as JPEGs of 4 and 12
megapixels, one after another; nothing of them is kept. The same model scores both decodings of the same bytes.
"""

import dataclasses
import sys
import tempfile
from io import BytesIO

import numpy as np
import pyarrow as pa
import torch
from decoding import JPEG_QUALITY, picture
from jsonargparse import auto_cli
from PIL import Image
from scipy.stats import spearmanr

from feclip.building import build_model
from feclip.bundle import Bundle, read_bundle, write_bundle
from feclip.config import DEMO_BACKBONE, FinetuneConfig, Indices, ModelConfig, OptimConfig
from feclip.data import PreparedImage, prepare_image
from feclip.demo import DEFECT_TYPES
from feclip.scoring import Scorer, Scores

STATISTICS = ("image_logit", "map_max", "map_topk_mean")
DECODINGS = ("full", "scaled")


def scaled_decoding(
    *,
    bundle: str | None = None,
    megapixels: tuple[int, ...] = (4, 12),
    pictures: int = 60,
    image_size: int = 336,
    num_threads: int = 1,
) -> None:
    """Print, for each size and statistic, how far apart the logits of both decodings are and how alike they rank.

    Args:
        bundle: Bundle to score with; None takes the demonstration backbone with untrained adapters.
        megapixels: Of 1, 4 and 12.
        pictures: Pictures of each size.
        image_size: Side of the model's input without a bundle, pixels.
        num_threads: Threads of the model.
    """
    torch.set_num_threads(num_threads)
    found = _untrained(image_size) if bundle is None else read_bundle(bundle)
    scorer = Scorer(found, precision="float32")
    print("| megapixels | statistic | median apart | largest apart | deviation over pictures | rank correlation |")
    print("|---|---|---|---|---|---|")
    for size in megapixels:
        full, scaled = _scored(found, scorer, megapixels=size, pictures=pictures)
        for name in STATISTICS:
            ours, theirs = (getattr(scores, name).astype(np.float64) for scores in (full, scaled))
            apart = np.abs(ours - theirs)
            rank = spearmanr(ours, theirs).statistic
            print(
                f"| {size} | {name} | {np.median(apart):.2g} | {apart.max():.2g} | {ours.std():.2g} | {rank:.5f} |",
                flush=True,
            )
    print(f"{pictures} pictures of each size, {'untrained adapters' if bundle is None else bundle}")


def _untrained(image_size: int) -> Bundle:
    """Return the demonstration backbone with adapters as they start, written and read again."""
    model = ModelConfig(backbone=DEMO_BACKBONE, image_size=image_size, tap_blocks=Indices((3, 4, 5)))
    with tempfile.TemporaryDirectory() as folder:
        config = FinetuneConfig(output=folder, model=model, optim=OptimConfig(epochs=0))
        images = pa.table({"uri": pa.array([], pa.string())})
        write_bundle(folder, model=build_model(config.model, seed=0), config=config, images=images, metrics=[])
        return read_bundle(folder)


def _scored(bundle: Bundle, scorer: Scorer, *, megapixels: int, pictures: int) -> tuple[Scores, Scores]:
    prepared: dict[str, list[PreparedImage]] = {decoding: [] for decoding in DECODINGS}
    for number in range(pictures):
        defect = DEFECT_TYPES[number // 2 % len(DEFECT_TYPES)] if number % 2 else None
        sink = BytesIO()
        image = picture(number, megapixels=megapixels, defect_type=defect)
        Image.fromarray(image).save(sink, "JPEG", quality=JPEG_QUALITY)
        for decoding, kept in prepared.items():
            options = dataclasses.replace(bundle.input_options, jpeg_decoding=decoding)
            kept.append(prepare_image(sink.getvalue(), uri=f"picture {number}", options=options))
    full, scaled = (
        scorer.score(np.stack([image.pixels for image in kept]), np.stack([image.valid_pixels() for image in kept]))
        for kept in prepared.values()
    )
    levels = np.abs(
        np.stack([image.pixels for image in prepared["full"]]).astype(np.int16)
        - np.stack([image.pixels for image in prepared["scaled"]])
    )
    sys.stdout.write(
        f"{megapixels} megapixels: inputs {levels.mean():.3f} levels of 255 apart, at most {levels.max()}\n"
    )
    return full, scaled


if __name__ == "__main__":
    auto_cli(scaled_decoding)
