"""Generated pictures in the layouts of the paper's data sets, so that all that reads these can be run without them.

Categories bear names of the real data sets, two for each, and each is of another family, so that no two data sets show
the same surface. What they are called has nothing to do with what the real images show.
"""

import csv
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from feclip.demo.defects import DEFECT_TYPES
from feclip.demo.fields import ByteArray
from feclip.demo.geometry import check_size
from feclip.demo.sampling import Sample, check_counts, render
from feclip.demo.staging import staged_folder

__all__ = ["DATASETS", "write_dataset"]

logger = logging.getLogger(__name__)

VISA_TABLE = "split_csv/1cls.csv"
VISA_COLUMNS = ("object", "split", "label", "image", "mask")
BRIGHTEST = 255
JPEG_QUALITY = 92


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a layout has its files, and the families that its categories show."""

    families: Mapping[str, str]
    """Family by category."""
    train: str
    """Path of a normal training image, of ``c`` (category) and ``n`` (number)."""
    normal: str
    anomalous: str
    mask: str
    defect: str | None = None
    """What all defects are called, ``d`` in the paths; None for the defect's own type."""
    mask_value: int = BRIGHTEST
    """What an anomalous pixel of a mask is."""


def _mvtec(families: Mapping[str, str], *, defect: str | None = None) -> Places:
    return Places(
        families=families,
        train="{c}/train/good/{n:03d}.png",
        normal="{c}/test/good/{n:03d}.png",
        anomalous="{c}/test/{d}/{n:03d}.png",
        mask="{c}/ground_truth/{d}/{n:03d}_mask.png",
        defect=defect,
    )


DATASETS: Mapping[str, Places] = MappingProxyType(
    {
        "mvtec": _mvtec({"tile": "tile", "cable": "cable_bundle"}),
        "visa": Places(
            families={"pcb1": "circuit_board", "capsules": "capsule"},
            train="{c}/Data/Images/Normal/{n:04d}.JPG",
            normal="{c}/Data/Images/Normal/{n:04d}.JPG",
            anomalous="{c}/Data/Images/Anomaly/{n:03d}.JPG",
            mask="{c}/Data/Masks/Anomaly/{n:03d}.png",
            mask_value=1,
        ),
        "mpdd": _mvtec({"metal_plate": "brushed_metal", "connector": "casting"}),
        "btad": Places(
            families={"01": "bottle_cap", "02": "wood"},
            train="{c}/train/ok/{n:04d}.bmp",
            normal="{c}/test/ok/{n:04d}.bmp",
            anomalous="{c}/test/ko/{n:04d}.bmp",
            mask="{c}/ground_truth/ko/{n:04d}.png",
        ),
        "dagm": Places(
            families={"Class1": "granite", "Class2": "knurled_part"},
            train="{c}/Train/{n:04d}.PNG",
            normal="{c}/Test/{n:04d}.PNG",
            anomalous="{c}/Test/{n:04d}.PNG",
            mask="{c}/Test/Label/{n:04d}_label.PNG",
        ),
        "dtd": _mvtec({"Perforated_037": "perforated_sheet", "Woven_001": "weave"}, defect="bad"),
    }
)
"""The layouts by the names of their data sets."""


def write_dataset(
    root: Path | str,
    *,
    dataset: str,
    seed: int,
    image_size: int = 128,
    num_train: int = 2,
    num_normal: int = 8,
    num_anomalous: int = 8,
) -> None:
    """Write one generated data set in the layout of a real one.

    Args:
        root: Folder to create, local; absent or empty.
        dataset: One of `DATASETS`.
        seed: Seed of its pictures, in [0, 2**32).
        image_size: Side of the square images, pixels, at least 32.
        num_train: Normal training images per category.
        num_normal: Normal test images per category.
        num_anomalous: Anomalous test images per category; their defect types take turns.

    Raises:
        ValueError: If an argument is out of range.
        DataError: If ``root`` is not empty.
        StorageError: If the file system refuses.
    """
    if dataset not in DATASETS:
        msg = f"dataset must be one of {', '.join(DATASETS)}, got {dataset!r}."
        raise ValueError(msg)
    check_size((image_size, image_size))
    check_counts(at_least=0, num_train=num_train, num_normal=num_normal, num_anomalous=num_anomalous)
    places = DATASETS[dataset]
    rows: list[dict[str, str]] = []
    with staged_folder(Path(root)) as partial:
        for category, family in places.families.items():
            for number, kind in enumerate(_kinds(num_train, num_normal, num_anomalous)):
                sample = render(
                    seed=seed,
                    stream=(dataset, category, number),
                    family=family,
                    size=(image_size, image_size),
                    defect_type=DEFECT_TYPES[number % len(DEFECT_TYPES)] if kind == "anomalous" else None,
                )
                rows.append(_save(sample, folder=partial, places=places, category=category, kind=kind, number=number))
        if dataset == "visa":
            _write_table(partial / VISA_TABLE, rows)
    logger.info("Generated pictures in the layout of %s are at %s", dataset, root)


def _kinds(num_train: int, num_normal: int, num_anomalous: int) -> Iterator[str]:
    """Yield what each picture of a category is; its place is its number, zero-based."""
    for kind, count in (("train", num_train), ("normal", num_normal), ("anomalous", num_anomalous)):
        yield from [kind] * count


def _save(sample: Sample, *, folder: Path, places: Places, category: str, kind: str, number: int) -> dict[str, str]:
    """Save one picture, and the mask of an anomalous one; return its row of VisA's table."""
    words = {"c": category, "n": number, "d": places.defect or sample.defect_type}
    image = {"train": places.train, "normal": places.normal, "anomalous": places.anomalous}[kind].format(**words)
    _write_image(folder / image, sample.image)
    mask = ""
    if kind == "anomalous":
        mask = places.mask.format(**words)
        _write_image(folder / mask, sample.mask.astype(np.uint8) * np.uint8(places.mask_value))
    label = "anomaly" if kind == "anomalous" else "normal"
    split = "train" if kind == "train" else "test"
    return dict(zip(VISA_COLUMNS, (category, split, label, image, mask), strict=True))


def _write_image(path: Path, pixels: ByteArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)  # which other formats do not heed


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, VISA_COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")
