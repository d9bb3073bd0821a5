"""The leakage guard: an image that a bundle was made with does not judge it, whatever file it comes in.

look(rows, [bundle.images, ...])    tasks: read and decode each image once, compare it with what each bundle knows
require_unknown(matches, ...)       driver: stop, or mark
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from feclip.data import find_known, inspect_rows
from feclip.errors import DataError

__all__ = ["Look", "data_digest", "look", "require_sound", "require_unknown"]

logger = logging.getLogger(__name__)

SHOWN_ERRORS = 3  # one line names so many files; all of them are counted
_HOW = {
    "sha256": "is the file {}",
    "pixel_digest": "shows the very pixels of {}",
    "thumbnail": "is the picture of {}, saved anew",
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at some images found."""

    images: pa.Table
    """Their rows with the columns of `INSPECTION_SCHEMA`, without thumbnails."""
    known: tuple[pa.Table, ...]
    """For each bundle, which of them it was made with, as `find_known` tells."""


def look(rows: pa.Table, known: Sequence[pa.Table], *, num_threads: int) -> Look:
    """Read and decode each image and its mask once, and compare it with what some bundles were made with.

    Args:
        rows: Manifest rows.
        known: The images of each bundle.
        num_threads: Threads that read and decode.

    Raises:
        StorageError: If storage keeps failing.
    """
    checked = inspect_rows(rows, num_threads=num_threads)
    return Look(
        images=checked.drop_columns(["thumbnail"]), known=tuple(find_known(checked, images) for images in known)
    )


def require_sound(images: pa.Table) -> None:
    """Refuse images that cannot be read, or do not fit their mask: numbers on the others would be of another set.

    Raises:
        DataError: If there are any; names the first ones and counts all.
    """
    errors = [error for error in images["error"].to_pylist() if error]
    if errors:
        shown = "; ".join(errors[:SHOWN_ERRORS])
        rest = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        msg = f"{len(errors)} of {images.num_rows} images cannot be judged on: {shown}{rest}"
        raise DataError(msg)


def require_unknown(images: pa.Table, known: pa.Table, *, bundle: str, allowed: bool) -> pa.Table:
    """Refuse images that the bundle was made with, or tell which they are.

    Args:
        images: Those that judge the bundle.
        known: What `look` found for this bundle, perhaps among more images.
        bundle: Its URI, for messages.
        allowed: Whether they may stay.

    Returns:
        The rows of ``known`` that are among the images; none unless they are allowed.

    Raises:
        DataError: If there are any and they may not stay.
    """
    judging = set(images["uri"].to_pylist())
    found = known.filter(pa.array([uri in judging for uri in known["uri"].to_pylist()], pa.bool_()))
    if not found.num_rows:
        return found
    first = found.slice(0, 1).to_pylist()[0]
    told = (
        f"{found.num_rows} of {images.num_rows} images trained, selected or calibrated {bundle}: {first['uri']} "
        f"{_HOW[first['reason']].format(first['other_uri'])} ({first['role']})"
        + (f", and {found.num_rows - 1} more" if found.num_rows > 1 else "")
    )
    if not allowed:
        msg = (
            f"{told}. Judge it on other images, on split report if it trained under protocol b on these, or set "
            "allow_trained_images, which marks every number."
        )
        raise DataError(msg)
    logger.warning("%s; every number is marked.", told)
    return found


def data_digest(images: pa.Table) -> str:
    """Return a digest of what judges: each image's content, name, label and category, and what its mask marks.

    Args:
        images: Rows of `Look.images`, in any order.

    Returns:
        16 hexadecimal digits.
    """
    names = ("path", "sha256", "label", "category", "has_mask", "mask_digest")
    rows = sorted([str(value) for value in row] for row in zip(*(images[n].to_pylist() for n in names), strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
