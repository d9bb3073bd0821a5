"""Manifests of archives: tables of images, read row by row, that may be far larger than those of labelled images.

Row numbers in messages count data rows from one; a CSV's heading is not counted.
"""

import csv
import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feclip.data import DAMAGED_PARQUET, PARQUET_BATCH_ROWS, Boundary, read_bytes
from feclip.errors import DataError

__all__ = ["ManifestRow", "count_row_groups", "read_rows"]

_OWN = ("uri", "path", "size", "etag", "valid_mask_uri", "valid_mask_path")
_MAX_SIZE = 2**63 - 1  # bytes; what the listing's column holds


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One image of a manifest."""

    uri: str
    """Absolute; one that no storage has stays as it is, for the row that says so."""
    size: int | None
    """Bytes."""
    etag: str | None
    valid_mask_uri: str | None
    further: dict[str, str | None]
    """Other columns."""


def count_row_groups(uri: str) -> int:
    """Return the row groups of a Parquet manifest, 0 for a CSV.

    Raises:
        DataError: If it is damaged.
        StorageError: If it cannot be read.
    """
    data = read_bytes(uri)
    return _parquet(data, uri).num_row_groups if _is_parquet(data) else 0


def read_rows(
    uri: str, *, root: str, row_groups: Sequence[int] | None, bounded: bool = False, sha256: str | None = None
) -> Iterator[ManifestRow]:
    """Read a manifest, or some row groups of a Parquet one.

    Args:
        uri: Parquet or CSV file, told apart by their content.
        root: Folder that relative paths start from, which they cannot leave, by no link either.
        bounded: Whether absolute paths must lie in the root too.
        row_groups: Zero-based row groups; None for the whole of a CSV, or a Parquet file without rows.
        sha256: Digest that the file must have; None for any.

    Yields:
        The rows, in the file's order.

    Raises:
        DataError: If the file or a row is not what it must be; the row is named by its number.
        StorageError: If the file cannot be read.
    """
    data = read_bytes(uri)
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        msg = f"{uri} was changed while it was read; submit the job again."
        raise DataError(msg)
    if _is_parquet(data):
        names, rows = _parquet_rows(data, uri, row_groups=row_groups or ())
    else:
        names, rows = _csv_rows(data, uri)
    if not {"uri", "path"} & set(names):
        msg = f"{uri} needs a column 'uri' or 'path'; it has {', '.join(map(repr, names)) or 'none'}."
        raise DataError(msg)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        msg = f"{uri}: column {repeated[0]!r} stands twice."
        raise DataError(msg)
    boundary = Boundary(root, binds_absolute=bounded)
    for number, row in rows:
        yield _checked(row, boundary=boundary, where=f"{uri}, row {number}")


def _checked(row: Mapping[str, Any], *, boundary: Boundary, where: str) -> ManifestRow:
    texts = {name: _text(value, name=name, where=where) for name, value in row.items()}
    given = texts.get("uri") or texts.get("path")
    if given is None:
        msg = f"{where}: there is no uri or path."
        raise DataError(msg)
    mask = texts.get("valid_mask_uri") or texts.get("valid_mask_path")
    size = texts.get("size")
    if size is not None and not (size.isascii() and size.isdigit() and int(size) <= _MAX_SIZE):
        msg = f"{where}: size must be a number of bytes, got {size!r}."
        raise DataError(msg)
    return ManifestRow(
        uri=boundary.resolve(given, where=where),
        size=None if size is None else int(size),
        etag=texts.get("etag"),
        valid_mask_uri=None if mask is None else boundary.resolve(mask, where=where),
        further={name: value for name, value in texts.items() if name not in _OWN},
    )


def _text(value: object, *, name: str, where: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bytes | list | dict) or (name in {"uri", "path"} and not isinstance(value, str)):
        msg = f"{where}: {name} must be text, got {type(value).__name__}."
        raise DataError(msg)
    return str(value)


def _csv_rows(data: bytes, uri: str) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    try:
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    except UnicodeDecodeError as error:
        msg = f"{uri} is neither Parquet nor CSV in UTF-8 (byte {error.start} is no text)."
        raise DataError(msg) from error
    numbered = _numbered_lines(lines, uri)
    names = [name.strip() for name in next(numbered, (0, []))[1]]

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, values in numbered:
            if len(values) != len(names):
                msg = f"{uri}, row {number}: {len(values)} values where the heading has {len(names)} columns."
                raise DataError(msg)
            yield number, dict(zip(names, values, strict=True))

    return names, rows()


def _numbered_lines(lines: Iterator[list[str]], uri: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the heading as row 0, then the rows that are not blank."""
    number = 0
    while True:
        try:
            values = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"row {number}" if number else "its heading"
            msg = f"{uri} is no valid CSV: {where}: {error}."
            raise DataError(msg) from error
        if values:
            yield number, values
            number += 1


def _parquet_rows(
    data: bytes, uri: str, *, row_groups: Sequence[int]
) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    file = _parquet(data, uri)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        starts = [0, *itertools.accumulate(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))]
        for group in row_groups:
            number = starts[group]
            for row in _group_rows(file, group, uri=uri):
                number += 1
                yield number, row
            if number != starts[group + 1]:  # pages of a kind that pyarrow does not know are passed over in silence
                raise DataError(_damaged(uri, group))

    return file.schema_arrow.names, rows()


def _group_rows(file: pq.ParquetFile, group: int, *, uri: str) -> Iterator[dict[str, Any]]:
    batches = file.iter_batches(PARQUET_BATCH_ROWS, row_groups=[group])
    while True:
        try:
            found = next(batches).to_pylist()
        except StopIteration:
            return
        except DAMAGED_PARQUET as error:
            raise DataError(_damaged(uri, group)) from error
        yield from found


def _damaged(uri: str, group: int) -> str:
    return f"{uri} is damaged in its row group {group} (zero-based)."


def _is_parquet(data: bytes) -> bool:
    return data[:4] == b"PAR1"


def _parquet(data: bytes, uri: str) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        file.schema_arrow  # noqa: B018 - read here, where its damage is told
    except DAMAGED_PARQUET as error:
        msg = f"{uri} is a damaged or incomplete Parquet file."
        raise DataError(msg) from error
    return file
