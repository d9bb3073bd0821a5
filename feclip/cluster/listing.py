"""Freeze the listing of an archive: list its parts in tasks, number what they found, write it in tasks."""

import logging
import time
from collections import Counter
from collections.abc import Iterator

import ray

from feclip.archive import (
    LISTING_FOLDER,
    Block,
    ListedFile,
    Part,
    Source,
    first_repeated,
    list_part,
    plan_parts,
    write_numbered,
)
from feclip.data import join_uri
from feclip.errors import DataError, FeclipError
from feclip.progress import Progress

__all__ = ["freeze_listing"]

logger = logging.getLogger(__name__)


def freeze_listing(source: Source, *, output: str) -> tuple[list[ListedFile], dict[str, int]]:
    """List an archive or a manifest and write the numbered rows below ``output``.

    The driver sees how many rows each block has and where it is kept, never an image.

    Returns:
        The files of the listing, and how many objects were left out, by the end of their names.

    Raises:
        DataError: If a manifest is not what it must be.
        StorageError: If storage cannot be listed, read or written.
    """
    started = time.monotonic()
    parts = plan_parts(source)
    task = ray.remote(num_cpus=1, num_returns="streaming")(_list_part)
    streams = [task.remote(part, source) for part in parts]
    blocks, ignored, columns = [], Counter[str](), set[str]()
    with Progress("Listing", len(parts), unit="parts") as progress:
        for stream in streams:  # all of them are being listed; this one's blocks are numbered next
            for head in stream:
                found = ray.get(head)
                if isinstance(found, FeclipError):
                    raise found
                num_rows, more, left_out = found
                table = next(stream)
                ignored.update(left_out)
                progress.advance(0, images=num_rows)
                if num_rows:
                    blocks.append((table, num_rows))
                    columns.update(more)
            progress.advance()
    if source.manifest is not None:
        _refuse_repeated([table for table, _ in blocks], manifest=source.manifest)
    writer = ray.remote(num_cpus=1)(_write_numbered)
    files, first_row_id = [], 0
    folder = join_uri(output, LISTING_FOLDER)
    for table, num_rows in blocks:
        files.append(writer.remote(folder, table, first_row_id=first_row_id, columns=sorted(columns)))
        first_row_id += num_rows
    written = []
    with Progress("Writing the listing", first_row_id, unit="images") as progress:
        for reference in files:
            file = ray.get(reference)
            if isinstance(file, FeclipError):
                raise file
            written.append(file)
            progress.advance(file.num_rows)
    logger.info(
        "Listed %d images in %d parts in %.1f s%s",
        first_row_id,
        len(parts),
        time.monotonic() - started,
        f"; left out: {', '.join(f'{count} {name}' for name, count in sorted(ignored.items()))}" if ignored else "",
    )
    return written, dict(ignored)


def _refuse_repeated(tables: list[object], *, manifest: str) -> None:
    """Refuse a manifest that names an image twice; all names meet in one task, of 1 GB for ten million."""
    repeated = ray.get(ray.remote(num_cpus=1)(first_repeated).remote(*tables))
    if repeated is not None:
        msg = f"{manifest} names {repeated} more than once; each image has one row."
        raise DataError(msg)


def _list_part(part: Part, source: Source) -> Iterator[object]:
    """Yield what the driver must know of a block, then the block, which it only passes on; or an error alone."""
    try:
        for block in list_part(part, source):
            yield _head(block)
            yield block.table
    except FeclipError as error:
        yield error


def _head(block: Block) -> tuple[int, list[str], dict[str, int]]:
    known = {"uri", "size", "etag", "valid_mask_uri"}
    return len(block.table), [name for name in block.table.column_names if name not in known], block.ignored


def _write_numbered(folder: str, table: object, *, first_row_id: int, columns: list[str]) -> ListedFile | FeclipError:
    try:
        return write_numbered(folder, table, first_row_id=first_row_id, columns=columns)
    except FeclipError as error:
        return error
