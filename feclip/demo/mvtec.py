"""Generated data sets in the folder layout of MVTec AD."""

import functools
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from feclip.demo.defects import DEFECT_TYPES, Difficulty
from feclip.demo.families import check_families
from feclip.demo.geometry import check_size
from feclip.demo.sampling import Sample, check_counts, check_defect_types, render
from feclip.demo.staging import staged_folder

logger = logging.getLogger(__name__)


def write_mvtec(
    root: Path | str,
    *,
    seed: int,
    families: tuple[str, ...],
    image_size: int,
    num_train_good: int,
    num_test_good: int,
    num_per_defect: int,
    defect_types: tuple[str, ...] | None = None,
    difficulty: Difficulty | None = None,
) -> None:
    """Write ``<family>/train/good``, ``test/good``, ``test/<defect>`` and ``ground_truth/<defect>`` as PNG.

    An image depends on the seed, its family, its folder and its number alone, so a larger data set of the same seed
    holds the smaller one.

    Args:
        root: Folder to create, local; absent or empty.
        seed: Seed of the data set, in [0, 2**32).
        families: Categories to write.
        image_size: Side of the square images, pixels, at least 32.
        num_train_good: Normal training images per family.
        num_test_good: Normal test images per family.
        num_per_defect: Defective test images per family and defect type.
        defect_types: Defects to write; all where absent.
        difficulty: Ranges of size and contrast; the defaults where absent.

    Raises:
        ValueError: If an argument is out of range.
        DataError: If ``root`` is not empty.
        StorageError: If the file system refuses.
    """
    types = DEFECT_TYPES if defect_types is None else defect_types
    check_families(families)
    check_defect_types(types)
    check_size((image_size, image_size))
    check_counts(at_least=0, num_train_good=num_train_good, num_test_good=num_test_good, num_per_defect=num_per_defect)
    counts = _count_folders(num_train_good, num_test_good, num_per_defect, types=types)
    with staged_folder(Path(root)) as partial:
        for position, family in enumerate(families, start=1):
            for (folder, defect_type), count in counts.items():
                draw = functools.partial(
                    render, seed=seed, size=(image_size, image_size), defect_type=defect_type, difficulty=difficulty
                )
                for index in range(count):
                    sample = draw(family=family, stream=("mvtec", family, folder, index))
                    _save(sample, category=partial / family, folder=folder, index=index)
            logger.info("%s: %d of %d families written", family, position, len(families))
    logger.info("MVTec layout of %d families is at %s", len(families), root)


def _count_folders(
    num_train_good: int, num_test_good: int, num_per_defect: int, *, types: tuple[str, ...]
) -> dict[tuple[str, str | None], int]:
    """Images to write by folder and defect type."""
    good: dict[tuple[str, str | None], int] = {("train/good", None): num_train_good, ("test/good", None): num_test_good}
    return good | {(f"test/{name}", name): num_per_defect for name in types}


def _save(sample: Sample, *, category: Path, folder: str, index: int) -> None:
    """Save one image, and the mask of a defective one."""
    path = category / folder / f"{index:03d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.image).save(path, optimize=False)
    if sample.defect_type is not None:
        mask = category / "ground_truth" / sample.defect_type / f"{index:03d}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.mask.astype(np.uint8) * np.uint8(255)).save(mask)
