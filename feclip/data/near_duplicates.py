"""The same picture in another file: found by the distance of small grey copies, when no digest agrees any more.

A picture that was saved anew (as JPEG, as PNG, at another size) has another sha256 and other pixels. Its thumbnail
moves by less than 1.3 grey levels, while two photographs of aligned parts differ by more than two:
docs/adr/0018-leakage.md has the measurement that `SAME_PICTURE` comes from.

Shapes: N and M images, T side of a thumbnail in pixels.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

__all__ = ["SAME_PICTURE", "THUMBNAIL_BYTES", "find_known", "nearest_thumbnails", "thumbnail"]

SIDE = 24  # T
THUMBNAIL_BYTES = SIDE * SIDE
"""Bytes of a thumbnail, one for each of its pixels."""
SAME_PICTURE = 1.3
"""Largest root mean square difference of two thumbnails of one picture, grey levels of 0..255."""
SHARE_OF_CONTRAST = 0.3
"""The difference must also be below this share of the thumbnail's own standard deviation: two photographs of an even
surface hardly differ, and are still two."""
REASONS = ("sha256", "pixel_digest", "thumbnail")  # the surest first
_BLOCK = 2048  # thumbnails that are compared with all others at a time
_MIDDLE = 127.5

_Bytes = npt.NDArray[np.uint8]


def thumbnail(image: _Bytes) -> bytes:
    """Return a small grey copy of an image, whatever its size and aspect ratio.

    Args:
        image: Decoded, upright, shape ``(h, w, 3)``.

    Returns:
        ``T x T`` grey levels, row by row; each a weighted mean of its surroundings.
    """
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).tobytes()


def nearest_thumbnails(first: _Bytes, second: _Bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Find for each thumbnail the nearest one of another set.

    Args:
        first: Shape ``(N, T * T)``.
        second: Shape ``(M, T * T)``, M at least 1.

    Returns:
        Indices into ``second`` and root mean square differences in grey levels, both of shape ``(N,)``.
    """
    index = np.empty(len(first), np.int64)
    others = second.astype(np.float32) - np.float32(_MIDDLE)
    lengths = np.square(others).sum(axis=1)
    for start in range(0, len(first), _BLOCK):
        block = first[start : start + _BLOCK].astype(np.float32) - np.float32(_MIDDLE)
        index[start : start + _BLOCK] = (lengths - 2 * (block @ others.T)).argmin(axis=1)
    differences = first.astype(np.float64) - second[index]
    return index, np.sqrt(np.square(differences).mean(axis=1))


def find_known(images: pa.Table, known: pa.Table) -> pa.Table:
    """Find images that a bundle was made with: the same file, the same pixels, or the same picture saved anew.

    Args:
        images: Rows with ``uri``, ``sha256``, ``pixel_digest`` and ``thumbnail``, as `inspect_rows` fills them.
        known: The bundle's images: the same columns and ``role``; nulls match nothing.

    Returns:
        The rows of ``images`` that are known: ``uri``, ``other_uri``, ``role`` and ``reason`` (``sha256``,
        ``pixel_digest`` or ``thumbnail``).
    """
    matches: dict[int, tuple[int, str]] = {}
    for reason in REASONS[:2]:
        places = {digest: place for place, digest in enumerate(known[reason].to_pylist()) if digest is not None}
        for index, digest in enumerate(images[reason].to_pylist()):
            if digest in places:
                matches.setdefault(index, (places[digest], reason))
    for index, place in _same_pictures(images["thumbnail"], known["thumbnail"]):
        matches.setdefault(index, (place, REASONS[2]))
    columns: dict[str, list[str | None]] = {"uri": [], "other_uri": [], "role": [], "reason": []}
    if matches:
        uris, other_uris, roles = (
            table[name].to_pylist() for table, name in ((images, "uri"), (known, "uri"), (known, "role"))
        )
        for index, (place, reason) in sorted(matches.items()):
            for name, value in zip(columns, (uris[index], other_uris[place], roles[place], reason), strict=True):
                columns[name].append(value)
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _same_pictures(images: pa.ChunkedArray, known: pa.ChunkedArray) -> list[tuple[int, int]]:
    rows, first = _stacked(images)
    places, second = _stacked(known)
    if not len(rows) or not len(places):
        return []
    nearest, distances = nearest_thumbnails(first, second)
    limits = np.minimum(SAME_PICTURE, SHARE_OF_CONTRAST * first.std(axis=1))
    found = np.flatnonzero(distances <= limits)
    return [(int(rows[index]), int(places[nearest[index]])) for index in found]


def _stacked(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], _Bytes]:
    """Return which rows have a thumbnail, and these, shape ``(N, T * T)``."""
    rows = np.flatnonzero(np.asarray(column.is_valid()))
    data = b"".join(column.drop_null().to_pylist())
    return rows, np.frombuffer(data, np.uint8).reshape(len(rows), THUMBNAIL_BYTES)
