"""Images on which an exported file is compared with PyTorch: drawn ones, or those of a folder."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from feclip.data import (
    IMAGE_SUFFIXES,
    FileEntry,
    GuardedDecoder,
    InputOptions,
    PreparedImage,
    fetch_and_decode,
    list_files,
)
from feclip.demo import DEFECT_TYPES, FAMILIES, render
from feclip.errors import DataError

__all__ = ["Input", "drawn_inputs", "list_images", "read_inputs"]

PICTURE_AREA = 160**2
"""Pixels of a drawn picture."""
ASPECT_RATIOS = (1.0, 4 / 3, 1 / 2, 3.0, 3 / 4, 2.0, 1 / 3)
"""Height to width of drawn pictures in turn, so that padding stands above and below, left and right, or nowhere."""

Input = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]
"""Pixels ``(S, S, 3)`` and valid pixels ``(S, S)`` of one image, S the side of the model input in pixels."""


def drawn_inputs(options: InputOptions, *, num: int) -> Iterator[Input]:
    """Draw pictures of several shapes, every second one with a defect, always the same ones.

    Args:
        options: How they become inputs.
        num: How many.
    """
    families = itertools.cycle(FAMILIES["unseen"])
    shapes = itertools.cycle(
        (round((PICTURE_AREA * h) ** 0.5), round((PICTURE_AREA / h) ** 0.5)) for h in ASPECT_RATIOS
    )
    defects = itertools.cycle(itertools.chain.from_iterable((None, defect) for defect in DEFECT_TYPES))
    for index, family, size, defect in zip(range(num), families, shapes, defects, strict=False):
        drawn = render(seed=0, stream=("export", index), family=family, size=size, defect_type=defect)
        pixels, placed = options.place(drawn.image)
        yield pixels, placed.valid_pixels()


def list_images(folder: str, *, num: int) -> list[FileEntry]:
    """Return the first images of a folder, by name.

    Args:
        folder: Folder or ``s3://`` prefix.
        num: How many at most.

    Raises:
        DataError: If there is none.
        StorageError: If it cannot be listed.
    """
    images = (file for file in list_files(folder) if file.uri.lower().endswith(IMAGE_SUFFIXES))
    found = list(itertools.islice(images, num))
    if not found:
        msg = f"check_images: {folder} holds no image ({', '.join(IMAGE_SUFFIXES)})."
        raise DataError(msg)
    return found


def read_inputs(options: InputOptions, files: Sequence[FileEntry]) -> Iterator[Input]:
    """Read images.

    Args:
        options: How they become inputs; masks of valid regions are not at hand, and not needed to compare.
        files: What `list_images` found.

    Raises:
        DataError: If one cannot be decoded.
        StorageError: If storage fails.
    """
    if options.valid_region == "mask_uri":
        options = dataclasses.replace(options, valid_region="letterbox")
    decoder = GuardedDecoder(options)
    try:
        for file in files:
            found = fetch_and_decode(file.uri, decoder=decoder, size=file.size)
            if found.error is not None:
                raise found.error
            assert isinstance(found.image, PreparedImage)
            yield found.image.pixels, found.image.valid_pixels()
    finally:
        decoder.close()
