"""A generated field archive: JPEGs of any aspect ratio under ``line=N/date=YYYY-MM``, with image labels beside them.

<root>/labels.csv                                    path,label; paths below images/
<root>/images/line=0/date=2024-01/part_000017.jpg
"""

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from feclip.demo.defects import DEFECT_TYPES, Difficulty
from feclip.demo.families import check_families
from feclip.demo.fields import ByteArray, chance, generator, log_uniform
from feclip.demo.geometry import MIN_SIDE
from feclip.demo.sampling import check_counts, check_shares, draw_defect_type, render
from feclip.demo.staging import staged_folder

logger = logging.getLogger(__name__)

ASPECT_RATIOS = (1.0, 4.0)  # longer side to shorter, drawn log-uniformly; either side may be the longer one
PADDED_RATIOS = (1.6, 4.0)  # the same for letterboxed images, whose padding is wide therefore
FIRST_YEAR = 2024
JPEG_QUALITY = 92  # keeps the weakest lines above the compression's own error
MONTHS = 12
PROGRESS_EVERY = 100  # images


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What the archive holds of one image."""

    path: str
    """Below ``images/``."""
    family: str
    size: tuple[int, int]
    """Height and width of the photograph, pixels, before padding."""
    letterboxed: bool
    defect_type: str | None


def write_archive(
    root: Path | str,
    *,
    seed: int,
    families: tuple[str, ...],
    num_images: int,
    defect_fraction: float,
    image_size: int = 256,
    num_months: int = 3,
    letterboxed_fraction: float = 0.3,
    difficulty: Difficulty | None = None,
) -> None:
    """Write a field archive; line N makes the N-th family.

    Args:
        root: Folder to create, local; absent or empty.
        seed: Seed of the archive, in [0, 2**32).
        families: One per production line.
        num_images: Images in all.
        defect_fraction: Share of defective images, 0..1, rounded to a whole image.
        image_size: Side of the square with the area of each photograph, pixels, at least 64.
        num_months: Months from January 2024 that images are spread over, at least 1.
        letterboxed_fraction: Share of images that were padded with white to a square, 0..1.
        difficulty: Ranges of size and contrast; the defaults where absent.

    Raises:
        ValueError: If an argument is out of range.
        DataError, StorageError: If ``root`` is not empty, or cannot be written.
    """
    check_families(families)
    check_shares(defect_fraction=defect_fraction, letterboxed_fraction=letterboxed_fraction)
    check_counts(at_least=1, num_images=num_images, num_months=num_months)
    check_counts(at_least=2 * MIN_SIDE, image_size=image_size)  # a 1:4 image is half as wide
    labels = _draw_labels(seed=seed, num_images=num_images, defect_fraction=defect_fraction)
    with staged_folder(Path(root)) as partial:
        rows = []
        for index, label in enumerate(labels):
            entry = _draw_entry(
                seed=seed,
                index=index,
                families=families,
                image_size=image_size,
                num_months=num_months,
                letterboxed_fraction=letterboxed_fraction,
                difficulty=(difficulty or Difficulty()) if label else None,
            )
            _save(entry, seed=seed, index=index, images=partial / "images", difficulty=difficulty)
            rows.append((entry.path, label))
        _write_labels(partial / "labels.csv", rows=rows)
    logger.info("Archive of %d images from %d lines is at %s", num_images, len(families), root)


def pad_to_square(image: ByteArray) -> ByteArray:
    """Centre an image ``(H, W, 3)`` on a white square of its longer side.

    Example:
        >>> pad_to_square(np.zeros((2, 4, 3), dtype=np.uint8))[:, 0, 0].tolist()
        [255, 0, 0, 255]
    """
    height, width = image.shape[:2]
    side = max(height, width)
    padded = np.full((side, side, 3), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    padded[top : top + height, left : left + width] = image
    return padded


def _draw_labels(*, seed: int, num_images: int, defect_fraction: float) -> list[int]:
    """Draw which images are defective: the rounded share of them, anywhere."""
    defective = np.zeros(num_images, dtype=np.bool_)
    defective[: round(num_images * defect_fraction)] = True
    generator(seed, "archive", "labels").shuffle(defective)
    return [int(label) for label in defective]


def _draw_entry(
    *,
    seed: int,
    index: int,
    families: tuple[str, ...],
    image_size: int,
    num_months: int,
    letterboxed_fraction: float,
    difficulty: Difficulty | None,
) -> _Entry:
    """Draw line, month, aspect ratio, padding and, where a difficulty is given, the defect type."""
    rng = generator(seed, "archive", index, "choice")
    line = int(rng.integers(len(families)))
    year, month = divmod(int(rng.integers(num_months)), MONTHS)
    letterboxed = chance(rng, letterboxed_fraction)
    stretch = np.sqrt(log_uniform(rng, PADDED_RATIOS if letterboxed else ASPECT_RATIOS))
    sides = (round(image_size / stretch), round(image_size * stretch))
    return _Entry(
        path=f"line={line}/date={FIRST_YEAR + year}-{month + 1:02d}/part_{index:06d}.jpg",
        family=families[line],
        size=sides if chance(rng, 0.5) else sides[::-1],
        letterboxed=letterboxed,
        defect_type=draw_defect_type(rng, defect_types=DEFECT_TYPES, difficulty=difficulty) if difficulty else None,
    )


def _save(entry: _Entry, *, seed: int, index: int, images: Path, difficulty: Difficulty | None) -> None:
    """Render one entry and save it as JPEG."""
    sample = render(
        seed=seed,
        stream=("archive", index),
        family=entry.family,
        size=entry.size,
        defect_type=entry.defect_type,
        difficulty=difficulty,
    )
    path = images / entry.path
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pad_to_square(sample.image) if entry.letterboxed else sample.image
    Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)
    if (index + 1) % PROGRESS_EVERY == 0:
        logger.info("%d images written", index + 1)


def _write_labels(path: Path, *, rows: list[tuple[str, int]]) -> None:
    """Write path and label of every image, sorted by path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "label"), *sorted(rows)])
