"""Write generated data sets.

python -m feclip.demo mvtec /data/demo --families finetuning --num_train_good 100
python -m feclip.demo archive /data/field --families finetuning,unseen --num_images 500
"""

import logging
import sys
from pathlib import Path

from jsonargparse import auto_cli

from feclip.demo.archive import write_archive
from feclip.demo.defects import DEFECT_TYPES
from feclip.demo.families import ALL_FAMILIES, FAMILIES
from feclip.demo.mvtec import write_mvtec
from feclip.errors import FeclipError

PROGRAM = "python -m feclip.demo"
PURPOSE = "Write generated data sets: industrial surfaces and parts, flawless and damaged, with exact masks."
logger = logging.getLogger("feclip.demo")


def mvtec(
    root: Path,
    *,
    families: str = "finetuning",
    seed: int = 0,
    image_size: int = 256,
    num_train_good: int = 100,
    num_test_good: int = 40,
    num_per_defect: int = 8,
    defect_types: str = "all",
) -> None:
    """Write a data set in MVTec layout: normal images to train on, a test set with exact masks.

    Args:
        root: Folder to create; absent or empty.
        families: Families or roles, separated by commas; the roles are pretraining, finetuning, unseen and all.
        seed: Seed of the data set.
        image_size: Side of the square images, pixels.
        num_train_good: Normal training images per family.
        num_test_good: Normal test images per family.
        num_per_defect: Defective test images per family and defect type.
        defect_types: Defect types, separated by commas, or all.
    """
    write_mvtec(
        root,
        seed=seed,
        families=_families(families),
        image_size=image_size,
        num_train_good=num_train_good,
        num_test_good=num_test_good,
        num_per_defect=num_per_defect,
        defect_types=DEFECT_TYPES if defect_types == "all" else tuple(defect_types.split(",")),
    )


def archive(
    root: Path,
    *,
    families: str = "finetuning",
    seed: int = 0,
    num_images: int = 300,
    defect_fraction: float = 0.1,
    image_size: int = 256,
    num_months: int = 3,
    letterboxed_fraction: float = 0.3,
) -> None:
    """Write a field archive: JPEGs of strong aspect ratios under line=N/date=YYYY-MM, with labels.csv.

    Args:
        root: Folder to create; absent or empty.
        families: Families or roles, separated by commas, one family per line; see mvtec.
        seed: Seed of the archive.
        num_images: Images in all.
        defect_fraction: Share of defective images, 0 to 1.
        image_size: Side of the square with the area of each photograph, pixels.
        num_months: Months that the images are spread over.
        letterboxed_fraction: Share of images padded with white to a square, 0 to 1.
    """
    write_archive(
        root,
        seed=seed,
        families=_families(families),
        num_images=num_images,
        defect_fraction=defect_fraction,
        image_size=image_size,
        num_months=num_months,
        letterboxed_fraction=letterboxed_fraction,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 where writing failed, 2 where the command line is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        auto_cli([mvtec, archive], args=arguments, description=PURPOSE, prog=PROGRAM, allow_abbrev=False)
    except FeclipError as error:
        logger.error("error: %s", error)  # noqa: TRY400 - written for the user, without a traceback
        return 1
    except ValueError as error:
        logger.error("error: %s", error)  # noqa: TRY400
        return 2
    return 0


def _families(text: str) -> tuple[str, ...]:
    """Expand roles; an unknown word stays, for the writer to name it."""
    roles: dict[str, tuple[str, ...]] = {"all": ALL_FAMILIES}
    roles.update(FAMILIES.items())
    return tuple(family for word in text.split(",") for family in roles.get(word, (word,)))


if __name__ == "__main__":
    sys.exit(main())
