"""The score table: one row for each image of an archive, with its scores or its error.

Rows out are objects in: a slice is written only when it holds each of its images once. The token map and the valid
pixels of every image are kept, so that statistics, and with them thresholds, rules and pictures, can be made anew
without the image and without the model.

Shapes: N images, S side of the model input in pixels, H_t x W_t token grid, which is square.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feclip.data import unpack_valid_pixels
from feclip.errors import DataError, RunError

__all__ = [
    "ANOMALOUS_LABELS",
    "SCORE_SCHEMA",
    "build_score_table",
    "pack_token_map",
    "recompute_statistics",
    "unpack_token_maps",
    "unpack_valid_regions",
]

SCORE_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),  # number in the listing, from zero, without gaps
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64()),  # bytes, by the listing
        pa.field("etag", pa.string()),  # by the listing; null for local files
        pa.field("sha256", pa.string()),  # of the bytes that were read; null where none were
        pa.field("model_id", pa.string(), nullable=False),
        pa.field("width", pa.int32()),  # source pixels, upright
        pa.field("height", pa.int32()),
        pa.field("image_logit", pa.float32()),
        pa.field("image_score", pa.float32()),  # sigmoid of the logit, for people
        pa.field("map_max", pa.float32()),  # logit
        pa.field("map_topk_mean", pa.float32()),  # logit
        pa.field("token_map", pa.binary()),  # logits, float16 little-endian, row by row; NaN on padding
        pa.field("valid_box", pa.list_(pa.int16(), 4)),  # top, left, height, width on the model input, pixels
        pa.field("valid_mask", pa.binary()),  # the box's bits where not all of it is valid, else null
        pa.field("error", pa.string()),  # one line; every score is null then
        pa.field("error_kind", pa.string()),  # an ImageErrorKind
    ]
)
"""Columns of every score table; the path's partitions follow as columns of their own, strings."""

ANOMALOUS_LABELS = ("1", "1.0", "true")
"""How a manifest's column ``label``, a text in the table, says in lower case that an image is anomalous."""

_LISTED = ("row_id", "uri", "size", "etag")
_SCORED = ("image_logit", "image_score", "map_max", "map_topk_mean", "token_map")
_FROM_IMAGE = ("width", "height", "valid_box")  # there whenever the scores are
_ROW = ("row_id", "sha256", "valid_mask", "error", "error_kind", *_SCORED, *_FROM_IMAGE)  # what build_score_table takes
_TOKEN = np.dtype("<f2")
_BATCH_SIZE = 16  # maps at a time, which bounds the memory and changes nothing


def build_score_table(listing: pa.Table, *, rows: Sequence[Mapping[str, Any]], model_id: str) -> pa.Table:
    """Build the score table of one slice, and prove that it holds each image of the slice once.

    Args:
        listing: The slice: ``row_id``, ``uri``, ``size``, ``etag``, and the path's partitions as further columns.
        rows: One mapping for each image, in any order: ``row_id`` and either the columns of its `Scores` and its
            `FetchedImage`, or ``error`` and ``error_kind``. What is not named is null.
        model_id: The bundle's.

    Returns:
        Table of `SCORE_SCHEMA` and the partitions, in the order of the listing.

    Raises:
        RunError: If the rows are not exactly those of the listing, or one has neither scores nor an error, or both.

    Example:
        >>> listing = pa.table({"row_id": [7], "uri": ["a.png"], "size": [0], "etag": [None], "line": ["3"]})
        >>> row = {"row_id": 7, "error": "Cannot decode a.png: the file is empty.", "error_kind": "empty"}
        >>> build_score_table(listing, rows=[row], model_id="abc").select(["row_id", "error_kind", "line"]).to_pylist()
        [{'row_id': 7, 'error_kind': 'empty', 'line': '3'}]
    """
    listed = listing["row_id"].to_pylist()
    by_id = {row["row_id"]: row for row in rows}
    missing, unknown = sorted(set(listed) - set(by_id)), sorted(set(by_id) - set(listed))
    if missing or unknown or len(by_id) != len(rows) or len(set(listed)) != len(listed):
        msg = (
            f"A slice of {len(listed)} images got {len(rows)} rows (missing {missing[:3]}, unknown {unknown[:3]}, "
            f"{len(rows) - len(by_id)} twice); it is not written, so submit the job again."
        )
        raise RunError(msg)
    ordered = [by_id[row_id] for row_id in listed]
    for row in ordered:
        _check_row(row)
    columns = []
    for field in SCORE_SCHEMA:
        if field.name in _LISTED:
            column = listing[field.name].combine_chunks().cast(field.type)
        elif field.name == "model_id":
            column = pa.array([model_id] * len(ordered), field.type)
        else:
            column = pa.array([row.get(field.name) for row in ordered], field.type)
        columns.append(column)
    partitions = [name for name in listing.column_names if name not in SCORE_SCHEMA.names]
    schema = pa.schema([*SCORE_SCHEMA, *(pa.field(name, pa.string()) for name in partitions)])
    return pa.table([*columns, *(listing[name].cast(pa.string()) for name in partitions)], schema=schema)


def pack_token_map(token_map: npt.NDArray[np.float16]) -> bytes:
    """Return a token map as the table stores it.

    Args:
        token_map: Logits, shape ``(H_t, W_t)``.

    Returns:
        float16, little-endian, row by row.
    """
    return token_map.astype(_TOKEN).tobytes()


def unpack_token_maps(table: pa.Table) -> npt.NDArray[np.float16]:
    """Return the token maps of the rows of a score table that have scores.

    Args:
        table: Score table, or a part of one.

    Returns:
        Logits, shape ``(N, H_t, W_t)``, NaN on padding; rows with errors are left out.

    Raises:
        DataError: If they are not all of one square size.
    """
    stored = [value for value in table["token_map"].to_pylist() if value is not None]
    side = math.isqrt(len(stored[0]) // _TOKEN.itemsize) if stored else 0
    if any(len(value) != side * side * _TOKEN.itemsize for value in stored):
        msg = "the token maps of the score table are not all of one square size; score the images again."
        raise DataError(msg)
    return np.frombuffer(b"".join(stored), _TOKEN).astype(np.float16).reshape(len(stored), side, side)


def unpack_valid_regions(table: pa.Table, *, image_size: int) -> npt.NDArray[np.bool_]:
    """Return the valid pixels of the rows of a score table that have scores.

    Args:
        table: Score table, or a part of one.
        image_size: Side S of the model input, pixels.

    Returns:
        Shape ``(N, S, S)``; rows with errors are left out.

    Raises:
        DataError: If a box does not lie on the input, or its bits are not its own.
    """
    stored = zip(table["valid_box"].to_pylist(), table["valid_mask"].to_pylist(), strict=True)
    try:
        found = [
            unpack_valid_pixels(tuple(box), bits, image_size=image_size) for box, bits in stored if box is not None
        ]
    except (TypeError, ValueError) as error:
        msg = f"the score table holds valid pixels that cannot be: {error}"
        raise DataError(msg) from error
    return np.stack(found) if found else np.zeros((0, image_size, image_size), np.bool_)


def recompute_statistics(
    table: pa.Table, *, image_size: int, topk_fraction: float = 0.01, smoothing_sigma: float = 0.0
) -> pa.Table:
    """Compute the map statistics of a score table anew, from its token maps; no image and no model is needed.

    With the options that it was scored with, the result equals the stored columns to the last bit.

    Args:
        table: Score table, or a part of one.
        image_size: Side S of the model input, pixels.
        topk_fraction: As for the `Scorer`.
        smoothing_sigma: As for the `Scorer`.

    Returns:
        Columns ``map_max`` and ``map_topk_mean``, one row for each of the table's; null where there is an error.

    Raises:
        ValueError: If an option is out of range.
        DataError: If maps and valid pixels are not there for the same rows, or not what they must be.
    """
    import torch  # noqa: PLC0415 - see docs/adr/0020

    from feclip.model import map_statistics  # noqa: PLC0415 - see docs/adr/0020

    columns: dict[str, list[float | None]] = {"map_max": [], "map_topk_mean": []}
    for start in range(0, len(table), _BATCH_SIZE):
        part = table.slice(start, _BATCH_SIZE)
        scored = part["token_map"].is_valid().to_pylist()
        if scored != part["valid_box"].is_valid().to_pylist():
            msg = "the score table has token maps without valid pixels, or the other way round; score the images again."
            raise DataError(msg)
        found = dict.fromkeys(columns, iter(()))
        if any(scored):
            statistics = map_statistics(
                torch.from_numpy(unpack_token_maps(part)),
                torch.from_numpy(unpack_valid_regions(part, image_size=image_size)),
                topk_fraction=topk_fraction,
                smoothing_sigma=smoothing_sigma,
            )
            found = {name: iter(values.tolist()) for name, values in statistics._asdict().items()}
        for name, values in columns.items():
            values.extend(next(found[name]) if has else None for has in scored)
    return pa.table({name: pa.array(values, SCORE_SCHEMA.field(name).type) for name, values in columns.items()})


def _check_row(row: Mapping[str, Any]) -> None:
    present = {name for name, value in row.items() if value is not None}
    failed = present >= {"error", "error_kind"} and not present & {*_SCORED, *_FROM_IMAGE}
    scored = present >= {*_SCORED, *_FROM_IMAGE} and not present & {"error", "error_kind"}
    if not (failed or scored) or not set(row) <= set(_ROW):
        msg = f"Row {row['row_id']} must hold either scores or an error, and nothing else; it holds {sorted(present)}."
        raise RunError(msg)
