#!/usr/bin/env python
"""How far scores move with the colour of the padding, for each way in which the model can treat it.

python benchmarks/padding.py --bundle runs/demo --folder runs/demo-normals/images
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from feclip.bundle import read_bundle
from feclip.config import PaddingMode
from feclip.data import GuardedDecoder, InputOptions, fetch_and_decode
from feclip.scoring import Scorer, Scores

COLORS = ("white", "black", "mean", "230,20,20")
STATISTICS = ("image_logit", "map_max", "map_topk_mean")


def padding(*, bundle: str, folder: Path, num_images: int = 100) -> None:
    """Print the largest and the median spread of each statistic over four colours of padding, in logits, by mode.

    The same adapters are used in every mode, and images alone whose letterbox has padding. Beside it stands the
    standard deviation of the statistic over the images: a spread is small or large against that.

    Args:
        bundle: Bundle to score with.
        folder: Folder of images.
        num_images: Images to score, the first ones by name.
    """
    found = read_bundle(bundle)
    options = found.input_options
    uris = [str(path) for path in sorted(folder.rglob("*.*")) if path.is_file()]
    sys.stdout.write("| padding | statistic | largest spread | median spread | deviation over images |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    for mode in PaddingMode:
        scorer = Scorer(dataclasses.replace(found, model=dataclasses.replace(found.model, padding=mode)))
        scores = [
            _scored(uris, options=dataclasses.replace(options, padding_color=color), scorer=scorer, most=num_images)
            for color in COLORS
        ]
        for name in STATISTICS:
            values = np.stack([getattr(of_color, name) for of_color in scores]).astype(np.float64)
            spread = values.max(axis=0) - values.min(axis=0)
            row = f"{spread.max():.2g} | {np.median(spread):.2g} | {values[0].std():.2g}"
            sys.stdout.write(f"| {mode} | {name} | {row} |\n")
    sys.stdout.write(f"{values.shape[1]} images, padded with {'; '.join(COLORS)}\n")


def _scored(uris: list[str], *, options: InputOptions, scorer: Scorer, most: int) -> Scores:
    pixels, valid = [], []
    with GuardedDecoder(options) as decoder:
        for uri in uris:
            image = fetch_and_decode(uri, decoder=decoder).image
            if image is None or image.valid_pixels().all():
                continue
            pixels.append(image.pixels)
            valid.append(image.valid_pixels())
            if len(pixels) == most:
                break
    return scorer.score(np.stack(pixels), np.stack(valid))


if __name__ == "__main__":
    auto_cli(padding)
