"""Look at every image of a manifest once, before anything is trained: digests, sizes, and what is wrong with each."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from feclip.data.dataset import read_image_mask, read_valid_mask
from feclip.data.decode import MAX_FILE_BYTES, decode_image, pixel_digest, sha256
from feclip.data.near_duplicates import THUMBNAIL_BYTES, thumbnail
from feclip.data.storage import StorageForbiddenError, StorageMissingError, StorageTooLargeError, read_bytes
from feclip.errors import DataError

__all__ = ["INSPECTION_SCHEMA", "inspect_rows"]

INSPECTION_SCHEMA = pa.schema(
    {
        "sha256": pa.string(),  # of the file
        "pixel_digest": pa.string(),  # of what it shows
        "mask_digest": pa.string(),  # of what its mask marks; null without a mask
        "width": pa.int32(),  # pixels, upright
        "height": pa.int32(),
        "thumbnail": pa.binary(THUMBNAIL_BYTES),  # small and grey, by which a copy saved anew is told
        "error": pa.string(),  # one line, or null
    }
)
"""Columns that an inspection fills; in a row with an error those that could not be found out are null."""


def inspect_rows(table: pa.Table, *, num_threads: int) -> pa.Table:
    """Read and decode each image and its masks once.

    Args:
        table: Manifest rows.
        num_threads: Threads that read and decode, at least 1.

    Returns:
        The table with the columns of `INSPECTION_SCHEMA`, replaced where they exist. A file that is absent,
        forbidden, damaged or does not fit its mask, label or recorded digest has its ``error`` set; none raises.

    Raises:
        StorageError: If storage itself keeps failing: that concerns no single file, and every further one would wait.
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix="feclip-inspect") as executor:
        futures = [executor.submit(_inspected, row) for row in table.to_pylist()]
        try:
            found = [future.result() for future in futures]
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    kept = table.drop_columns([name for name in INSPECTION_SCHEMA.names if name in table.column_names])
    columns = pa.Table.from_pylist(found, schema=INSPECTION_SCHEMA)
    for name in INSPECTION_SCHEMA.names:
        kept = kept.append_column(INSPECTION_SCHEMA.field(name), columns[name])
    return kept


def _inspected(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        data = read_bytes(row["uri"], max_bytes=MAX_FILE_BYTES)
        found["sha256"] = sha256(data)
        if row["sha256"] is not None and row["sha256"].lower() != found["sha256"]:
            found["error"] = f"{row['uri']} is not the file that the manifest names: its sha256 differs."
            return found
        image = decode_image(data, uri=row["uri"])
        found |= {"pixel_digest": pixel_digest(image), "height": image.shape[0], "width": image.shape[1]}
        found["thumbnail"] = thumbnail(image)
        if row["mask_uri"] is not None:
            mask = read_image_mask(row["mask_uri"], image_uri=row["uri"], image_shape=image.shape, label=row["label"])
            found["mask_digest"] = pixel_digest(mask)
        if row["valid_mask_uri"] is not None:
            read_valid_mask(row["valid_mask_uri"], image_uri=row["uri"], image_shape=image.shape)
    except (DataError, StorageMissingError, StorageForbiddenError, StorageTooLargeError) as error:
        found["error"] = str(error)
    return found
