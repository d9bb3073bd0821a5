#!/usr/bin/env python
r"""How far the thumbnail of a picture moves when it is saved anew, and how far two pictures of one category differ.

    python benchmarks/near_duplicates.py /data/mvtec/screw /data/mvtec/grid runs/demo-pictures/train/tile

Prints one row of a Markdown table for each folder: the largest distance of a copy, by what was done to it, and the
smallest distances between different pictures. The limit of `feclip.data.near_duplicates` must lie between them.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from feclip.data import IMAGE_SUFFIXES, SAME_PICTURE, THUMBNAIL_BYTES, decode_image, nearest_thumbnails, thumbnail

QUALITIES = (30, 50, 75, 95)
SCALES = (0.5, 0.75, 1.5, 2.0)
MAX_COPIED = 40  # pictures of a folder that copies are made of
SHOWN = 3


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of pictures of one category each")
    folders = parser.parse_args().folders
    print(f"Limit {SAME_PICTURE} grey levels, {THUMBNAIL_BYTES} bytes.\n")
    print("| folder | pictures | JPEG 30 to 95 | resized 0.5 to 2 | half size and JPEG 50 | nearest others | closer |")
    print("|---|---|---|---|---|---|---|")
    for folder in folders:
        print(_row(folder), flush=True)
    return 0


def _row(folder: Path) -> str:
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and "ground_truth" not in path.parts
    )
    thumbnails = np.stack([_stored(_decoded(path)) for path in paths])
    others = np.sort(_distances_between(thumbnails))
    chosen = np.random.default_rng(0).permutation(len(paths))[:MAX_COPIED]
    largest: dict[str, float] = {}
    for index in chosen:
        for kind, copy in _copies(_decoded(paths[index])):
            distance = float(nearest_thumbnails(_stored(copy)[None], thumbnails[index : index + 1])[1][0])
            largest[kind] = max(largest.get(kind, 0.0), distance)
    copied = " | ".join(f"{value:.2f}" for value in largest.values())
    nearest = ", ".join(f"{value:.2f}" for value in others[:SHOWN])
    return f"| {folder.name} | {len(paths)} | {copied} | {nearest} | {int((others <= SAME_PICTURE).sum())} |"


def _distances_between(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the distances of all pairs."""
    values = thumbnails.astype(np.float64)
    rows = [np.sqrt(np.square(values[index + 1 :] - row).mean(axis=1)) for index, row in enumerate(values)]
    return np.concatenate(rows)


def _copies(image: npt.NDArray[np.uint8]) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    picture = Image.fromarray(image)
    for quality in QUALITIES:
        yield "jpeg", _saved(picture, quality=quality)
    for scale in SCALES:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        for resample in (Image.Resampling.BILINEAR, Image.Resampling.LANCZOS):
            yield "resized", np.asarray(picture.resize(size, resample))
    half = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.BICUBIC)
    yield "both", _saved(half, quality=50)


def _saved(picture: Image.Image, *, quality: int) -> npt.NDArray[np.uint8]:
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=quality)
    return decode_image(sink.getvalue(), uri="copy.jpg")


def _decoded(path: Path) -> npt.NDArray[np.uint8]:
    return decode_image(path.read_bytes(), uri=str(path))


def _stored(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(thumbnail(image), np.uint8)


if __name__ == "__main__":
    sys.exit(main())
