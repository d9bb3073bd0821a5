"""Manifests: one checked table of labelled images, from Parquet, from CSV at the door, or from a folder layout.

Row numbers in messages count data rows from one; a CSV's heading is not counted.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from feclip.data.boundary import Boundary
from feclip.data.parquet import DAMAGED_PARQUET, PARQUET_BATCH_ROWS
from feclip.data.storage import absolute_uri, is_local, read_bytes
from feclip.errors import DataError, StorageError

__all__ = ["MANIFEST_SCHEMA", "build_manifest", "group_values", "read_manifest"]

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),  # absolute
        pa.field("path", pa.string(), nullable=False),  # relative to the root: the image's name wherever the root lies
        pa.field("label", pa.int8()),  # 0 normal, 1 anomalous
        pa.field("mask_uri", pa.string()),
        pa.field("has_mask", pa.bool_(), nullable=False),  # whether the gt mask is known, be it empty
        pa.field("valid_mask_uri", pa.string()),  # true where there is image, for valid_region=mask_uri
        pa.field("category", pa.string()),
        pa.field("defect_type", pa.string()),
        pa.field("group", pa.string()),  # a part, lot or sequence that no split divides
        pa.field("subset", pa.string()),  # train or test, in layouts that have these folders
        pa.field("split", pa.string()),
        pa.field("sha256", pa.string()),
    ]
)
"""Columns that every manifest has; unknown values are null. Further columns and the path's partitions are strings."""

MAX_ROWS = 5_000_000
"""Most images of a labelled manifest, of which each becomes a row in the memory of the driver."""
MAX_MANIFEST_BYTES = 2 << 30
_URI_COLUMNS = {"uri": "path", "mask_uri": "mask_path", "valid_mask_uri": "valid_mask_path"}  # column: other name
_COMPUTED = {*_URI_COLUMNS, *_URI_COLUMNS.values(), "has_mask"}  # no partition of a path may bear these names
_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # how Hive writes a null in a path


def read_manifest(uri: str, *, root: str | None = None) -> pa.Table:
    """Read a manifest.

    Needs a column ``uri`` or ``path``; may have ``label``, ``mask_uri`` (or ``mask_path``), ``valid_mask_uri`` (or
    ``valid_mask_path``), ``category``, ``defect_type``, ``group``, ``subset``, ``split``, ``sha256`` and any others.
    Path parts of the form ``key=value`` become columns. Where only image labels are given, ``has_mask`` is false in
    every row; a normal image's mask is known to be empty where its category has masks at all.

    Args:
        uri: Parquet or CSV file, told apart by their content.
        root: Folder of relative paths, which no absolute one may lie outside of then; None for the manifest's own
            folder, and absolute paths that lie anywhere.

    Returns:
        Table of `MANIFEST_SCHEMA` and further columns, in the file's order.

    Raises:
        DataError: If the file or a row is not what it must be; the row is named by its number.
        StorageError: If the file cannot be read.
    """
    uri = absolute_uri(uri)
    data = read_bytes(uri, max_bytes=MAX_MANIFEST_BYTES)
    rows = _parquet_rows(data, uri=uri) if data[:4] == b"PAR1" else _csv_rows(data, uri=uri)
    folder = uri.rpartition("/")[0] or "/"
    return build_manifest(rows, root=folder if root is None else root, source=uri, bounded=root is not None)


def build_manifest(rows: Sequence[Mapping[str, Any]], *, root: str, source: str, bounded: bool = True) -> pa.Table:
    """Check rows and make them a manifest.

    Args:
        rows: One mapping for each image, column to value; None and empty text are unknown.
        root: Folder of relative paths, which they cannot leave, by no link either.
        source: Where the rows come from, for messages.
        bounded: Whether absolute paths must lie in the root too.

    Returns:
        Table of `MANIFEST_SCHEMA` and further columns, in the order of the rows.

    Raises:
        DataError: If there are no rows, or one of them is not what it must be.

    Example:
        >>> rows = [{"path": "line=1/a.png", "label": "1"}, {"path": "line=2/b.png", "label": 0}]
        >>> table = build_manifest(rows, root="s3://plant/images", source="labels.csv")
        >>> table.select(["uri", "label", "line"]).to_pylist()[0]
        {'uri': 's3://plant/images/line=1/a.png', 'label': 1, 'line': '1'}
    """
    if not rows:
        msg = f"{source} holds no images."
        raise DataError(msg)
    root = absolute_uri(root)
    boundary = Boundary(root, binds_absolute=bounded)
    checked = [
        _checked_row(row, root=root, boundary=boundary, where=f"{source}, row {number}")
        for number, row in enumerate(rows, start=1)
    ]
    _check_unique(checked, source=source)
    with_masks = {row["category"] for row in checked if row["mask_uri"] is not None}
    for row in checked:
        row["has_mask"] = row["mask_uri"] is not None or (row["label"] == 0 and row["category"] in with_masks)
    extra = sorted(set().union(*checked) - set(MANIFEST_SCHEMA.names))
    schema = pa.schema([*MANIFEST_SCHEMA, *(pa.field(name, pa.string()) for name in extra)])
    return pa.Table.from_pylist(checked, schema=schema)


def _csv_rows(data: bytes, *, uri: str) -> list[dict[str, Any]]:
    try:
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        names = [name.strip() for name in next(lines, [])]
        _check_heading(names, uri=uri)
        rows = []
        for number, values in enumerate((line for line in lines if line), start=1):
            if len(values) != len(names):
                msg = f"{uri}, row {number}: {len(values)} values where the heading has {len(names)} columns."
                raise DataError(msg)
            rows.append({name: value.strip() for name, value in zip(names, values, strict=True)})
    except UnicodeDecodeError as error:
        msg = f"{uri} is neither Parquet nor CSV in UTF-8 (byte {error.start} is no text)."
        raise DataError(msg) from error
    except csv.Error as error:
        msg = f"{uri} is no valid CSV: {error}."
        raise DataError(msg) from error
    return rows


def _parquet_rows(data: bytes, *, uri: str) -> list[dict[str, Any]]:
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        names, num_rows = file.schema_arrow.names, file.metadata.num_rows
    except DAMAGED_PARQUET as error:
        raise DataError(_damaged(uri)) from error
    _check_heading(names, uri=uri)
    if num_rows > MAX_ROWS:
        msg = f"{uri} holds {num_rows} rows; a labelled manifest has at most {MAX_ROWS}."
        raise DataError(msg)
    try:
        rows = [row for batch in file.iter_batches(PARQUET_BATCH_ROWS) for row in batch.to_pylist()]
    except DAMAGED_PARQUET as error:
        raise DataError(_damaged(uri)) from error
    if len(rows) != num_rows:  # pages of a kind that pyarrow does not know are passed over in silence
        raise DataError(_damaged(uri))
    return rows


def _damaged(uri: str) -> str:
    return f"{uri} is a damaged or incomplete Parquet file."


def _check_heading(names: Sequence[str], *, uri: str) -> None:
    if not {"uri", "path"} & set(names):
        msg = f"{uri} needs a column 'uri' or 'path'; it has {', '.join(map(repr, names)) or 'none'}."
        raise DataError(msg)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        msg = f"{uri}: {'column ' + repr(twice[0]) + ' stands twice' if twice else 'a column has no name'}."
        raise DataError(msg)


def _resolved(given: str | None, *, boundary: Boundary, where: str) -> str | None:
    if given is None:
        return None
    if "\0" in given:
        msg = f"{where}: {given!r} must not hold a NUL character."
        raise DataError(msg)
    uri = boundary.resolve(given, where=where)
    try:
        absolute = absolute_uri(uri)
        absolute.encode()
    except StorageError as error:
        msg = f"{where}: {error}"
        raise DataError(msg) from error
    except UnicodeEncodeError as error:
        msg = f"{where}: the name of {given!r} is no UTF-8; rename the file."
        raise DataError(msg) from error
    return absolute


def _checked_row(row: Mapping[str, Any], *, root: str, boundary: Boundary, where: str) -> dict[str, Any]:
    known = {name: _text(value, name=name, where=where) for name, value in row.items()}
    path = known.pop("path", None)
    checked: dict[str, Any] = dict.fromkeys(MANIFEST_SCHEMA.names)
    for column, other_name in _URI_COLUMNS.items():
        given = known.pop(column, None) or (path if column == "uri" else known.pop(other_name, None))
        checked[column] = _resolved(given, boundary=boundary, where=where)
        known.pop(other_name, None)
    if checked["uri"] is None:
        msg = f"{where}: there is no uri or path."
        raise DataError(msg)
    named = path is not None and not path.startswith("/") and "://" not in path
    checked["path"] = path if named else _relative(checked["uri"], root=root)
    for key, value in _partitions(checked["path"]).items():
        if key in _COMPUTED:
            msg = f"{where}: a folder {key}=... cannot become a column, that name is taken; rename it."
            raise DataError(msg)
        if value is not None and (known.get(key) or checked.get(key) or value) != value:
            msg = f"{where}: the path says {key}={value}, the column {key} says {known.get(key) or checked.get(key)!r}."
            raise DataError(msg)
        known[key] = value
    known.pop("has_mask", None)
    checked |= known
    checked["label"] = _label(known.get("label"), where=where)
    return checked


def _text(value: object, *, name: str, where: str) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes | list | dict):
        msg = f"{where}: {name} must be text, got {type(value).__name__}."
        raise DataError(msg)
    return str(value) or None


def _label(value: str | None, *, where: str) -> int | None:
    if value is None:
        return None
    label = _LABELS.get(value.strip().lower())
    if label is None:
        msg = f"{where}: label must be 0 (normal) or 1 (anomalous), got {value!r}."
        raise DataError(msg)
    return label


def _relative(uri: str, *, root: str) -> str:
    """Name an image without its root; one that lies elsewhere keeps its whole path."""
    inside = uri.removeprefix(root.rstrip("/") + "/")
    return inside if inside != uri else (uri.lstrip("/") if is_local(uri) else uri.removeprefix("s3://"))


def _partitions(path: str) -> dict[str, str | None]:
    folders = path.split("/")[:-1]
    pairs = [folder.partition("=") for folder in folders]
    found = {key: unquote(value) for key, equals, value in pairs if equals and key.isidentifier()}
    return {key: None if value == _DEFAULT_PARTITION else value for key, value in found.items()}


def _check_unique(rows: Iterable[Mapping[str, Any]], *, source: str) -> None:
    for column in ("uri", "path"):
        seen: dict[str, int] = {}
        for number, row in enumerate(rows, start=1):
            first = seen.setdefault(row[column], number)
            if first != number:
                msg = f"{source}, row {number}: {row[column]} stands in row {first} already; each image has one row."
                raise DataError(msg)


def group_values(table: pa.Table, column: str) -> list[str | None]:
    """Return as texts what a column says of the group of each labelled image.

    Args:
        table: Rows of a manifest.
        column: What ``model.noun_column`` names.

    Raises:
        DataError: If there is no such column.
    """
    if column not in table.column_names:
        msg = f"The labelled images have no column {column!r}, by which model.nouns names nouns; they have "
        raise DataError(msg + ", ".join(table.column_names) + ".")
    return [None if value is None else str(value) for value in table[column].to_pylist()]
