"""The images of an archive, listed once in parts that run anywhere, and frozen as numbered Parquet files.

    parts = plan_parts(source)                          driver: folders or row groups, never images
    for block in list_part(part, source): ...           tasks: blocks of at most ROWS_PER_FILE images
    write_numbered(uri, block, first_row_id, columns)   tasks: one file of the frozen listing

Row ids are dense and count from zero, in the order of the parts and, within a part, of the names.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from feclip.config import ListingConfig
from feclip.data import FileEntry, FolderEntry, list_children, list_files, read_bytes, write_bytes
from feclip.errors import DataError
from feclip.score_table import SCORE_SCHEMA

__all__ = [
    "LISTING_SCHEMA",
    "MASK_COLUMN",
    "ROWS_PER_FILE",
    "Block",
    "ListedFile",
    "Part",
    "Source",
    "list_part",
    "plan_parts",
    "write_numbered",
]

ROWS_PER_FILE = 8192
"""Images in one file of the listing: about half a megabyte, which a slice reads whole."""
FOLDERS_PER_PART = 64
"""Folders that one task lists one after another."""
MIN_FOLDERS = 64
"""The tree is opened level by level until it shows so many folders, or ends."""
MASK_COLUMN = "valid_mask_uri"
LISTING_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field(MASK_COLUMN, pa.string()),
    ]
)
"""Columns of every listing; partitions of the path, and what else a manifest holds, follow as strings."""
_TAKEN = {*LISTING_SCHEMA.names, *SCORE_SCHEMA.names}
_MANIFEST_MASKS = (MASK_COLUMN, "valid_mask_path")
_DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # how Hive writes a null in a path


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the images are named: a folder or prefix, or a manifest."""

    archive: str | None
    """Folder or ``s3://`` prefix, absolute; with a manifest, what its relative paths start from."""
    manifest: str | None
    """Parquet or CSV file, absolute."""
    listing: ListingConfig = field(default_factory=ListingConfig)
    """Which objects of a folder are images; without effect on a manifest."""

    def identity(self) -> dict[str, Any]:
        """Return as JSON what makes another submission another archive: for a manifest also its content.

        Raises:
            StorageError: If the manifest cannot be read.
        """
        if self.manifest is None:
            return {"archive": self.archive, **{name: _plain(value) for name, value in asdict(self.listing).items()}}
        digest = hashlib.sha256(read_bytes(self.manifest)).hexdigest()
        return {"archive": self.archive, "manifest": self.manifest, "manifest_sha256": digest}


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one task lists."""

    folders: tuple[tuple[str, bool], ...] = ()
    """Folders, and whether their subfolders belong to the part too."""
    row_groups: tuple[int, ...] | None = None
    """Row groups of a Parquet manifest, zero-based; None for the whole of a manifest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Some images of a part, not numbered yet."""

    table: pa.Table
    """Columns of `LISTING_SCHEMA` but ``row_id``, and further ones, strings."""
    ignored: dict[str, int]
    """Objects left out, by the end of their names, in front of the last image of the block."""


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """One file of a frozen listing."""

    name: str
    first_row_id: int
    num_rows: int
    sha256: str


def plan_parts(source: Source) -> list[Part]:
    """Divide the work of listing.

    A folder's tree is opened level by level until it shows enough folders to be listed side by side: one prefix of
    object storage can only be listed from its start to its end.

    Raises:
        DataError: If a manifest is no table of images.
        StorageError: If storage cannot be listed or read.
    """
    if source.manifest is not None:
        data = read_bytes(source.manifest)
        if not _is_parquet(data):
            return [Part()]
        num_groups = _parquet(data, source.manifest).num_row_groups
        return [Part(row_groups=(index,)) for index in range(num_groups)] or [Part()]
    assert source.archive is not None
    level: list[tuple[str, bool]] = [(source.archive, True)]
    while len(level) < MIN_FOLDERS:
        opened = [folder for uri, deep in level for folder in (_open(uri) if deep else [(uri, False)])]
        if len(opened) == len(level):  # no folder holds another one
            break
        level = opened
    size = max(1, min(FOLDERS_PER_PART, -(-len(level) // MIN_FOLDERS)))
    return [Part(folders=tuple(level[start : start + size])) for start in range(0, len(level), size)]


def list_part(part: Part, source: Source) -> Iterator[Block]:
    """List the images of a part, page by page.

    Yields:
        Blocks of at most `ROWS_PER_FILE` images; the last one may hold none.

    Raises:
        DataError: If a manifest's row is not what it must be; the row is named by its number, from one.
        StorageError: If storage cannot be listed or read.
    """
    ignored: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    found = _manifest_rows(part, source) if source.manifest is not None else _folder_rows(part, source, ignored)
    for row in found:
        rows.append(row)
        if len(rows) == ROWS_PER_FILE:
            yield Block(table=_table(rows), ignored=dict(ignored))
            ignored.clear()
            rows = []
    yield Block(table=_table(rows), ignored=dict(ignored))


def write_numbered(folder: str, table: pa.Table, *, first_row_id: int, columns: Sequence[str]) -> ListedFile:
    """Write one file of the frozen listing.

    Args:
        folder: Where the listing's files lie.
        table: The images, not numbered.
        first_row_id: Number of the first one.
        columns: Further columns of the whole listing; null where the table has none.

    Returns:
        What identifies the file.

    Raises:
        StorageError: If it cannot be written.
    """
    rows = len(table)
    arrays = [pa.array(range(first_row_id, first_row_id + rows), pa.int64())]
    arrays += [table[name].combine_chunks() for name in LISTING_SCHEMA.names[1:]]
    known = set(table.column_names)
    arrays += [table[name].combine_chunks() if name in known else pa.nulls(rows, pa.string()) for name in columns]
    schema = pa.schema([*LISTING_SCHEMA, *(pa.field(name, pa.string()) for name in columns)])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays, schema=schema), sink)
    content = sink.getvalue().to_pybytes()
    name = f"rows-{first_row_id:012d}.parquet"
    write_bytes(f"{folder}/{name}", content)
    digest = hashlib.sha256(content).hexdigest()
    return ListedFile(name=name, first_row_id=first_row_id, num_rows=rows, sha256=digest)


def _open(uri: str) -> list[tuple[str, bool]]:
    """Return the folder without its subfolders, then each of these; the folder itself where it has none."""
    deeper = [(entry.uri, True) for entry in list_children(uri) if isinstance(entry, FolderEntry)]
    return [(uri, False), *deeper] if deeper else [(uri, False)]


def _folder_rows(part: Part, source: Source, ignored: Counter[str]) -> Iterator[dict[str, Any]]:
    assert source.archive is not None
    root = source.archive.rstrip("/") + "/"
    extensions = tuple(extension.lower() for extension in source.listing.extensions)
    for folder, deep in part.folders:
        entries: Iterable[FileEntry | FolderEntry] = list_files(folder) if deep else list_children(folder)
        for entry in entries:
            if isinstance(entry, FolderEntry):
                continue
            path = entry.uri.removeprefix(root)
            if not path.lower().endswith(extensions):
                ignored[PurePosixPath(path).suffix.lower() or "no extension"] += 1
            elif not _is_included(path, source.listing):
                ignored["left out by listing.include or listing.exclude"] += 1
            else:
                yield {
                    "uri": entry.uri,
                    "size": entry.size,
                    "etag": entry.etag,
                    MASK_COLUMN: None,
                    **_partitions(path),
                }


def _is_included(path: str, listing: ListingConfig) -> bool:
    included = listing.include is None or any(fnmatchcase(path, pattern) for pattern in listing.include)
    return included and not any(fnmatchcase(path, pattern) for pattern in listing.exclude or ())


def _partitions(path: str) -> dict[str, str | None]:
    pairs = [folder.partition("=") for folder in path.split("/")[:-1]]
    found = {_free_name(key): unquote(value) for key, equals, value in pairs if equals and key.isidentifier()}
    return {key: None if value == _DEFAULT_PARTITION else value for key, value in found.items()}


def _free_name(key: str) -> str:
    """Return a column name for a partition or a manifest's column that the score table does not use itself."""
    return f"source_{key}" if key in _TAKEN else key


def _manifest_rows(part: Part, source: Source) -> Iterator[dict[str, Any]]:
    assert source.manifest is not None
    data = read_bytes(source.manifest)
    root = (source.archive or source.manifest.rpartition("/")[0]).rstrip("/")
    first = 1
    if _is_parquet(data):
        file = _parquet(data, source.manifest)
        for group in range(min(part.row_groups or (0,))):
            first += file.metadata.row_group(group).num_rows
        names = file.schema_arrow.names
        rows: Iterator[dict[str, Any]] = (
            row for group in part.row_groups or () for row in file.read_row_group(group).to_pylist()
        )
    else:
        names, rows = _csv(data, source.manifest)
    if not {"uri", "path"} & set(names):
        msg = f"{source.manifest} needs a column 'uri' or 'path'; it has {', '.join(map(repr, names)) or 'none'}."
        raise DataError(msg)
    for number, row in enumerate(rows, start=first):
        yield _manifest_row(row, root=root, where=f"{source.manifest}, row {number}")


def _manifest_row(row: dict[str, Any], *, root: str, where: str) -> dict[str, Any]:
    name = row.pop("uri", None) or row.get("path")
    if not name:
        msg = f"{where}: there is no uri or path."
        raise DataError(msg)
    mask = next((row[column] for column in _MANIFEST_MASKS if row.get(column)), None)
    size = row.pop("size", None)
    try:
        num_bytes = None if size in {None, ""} else int(str(size))
    except ValueError as error:
        msg = f"{where}: size must be a number of bytes, got {size!r}."
        raise DataError(msg) from error
    etag = row.pop("etag", None)
    uri = _resolved(str(name), root=root)
    known: dict[str, Any] = {
        "uri": uri,
        "size": num_bytes,
        "etag": str(etag) if etag else None,
        MASK_COLUMN: _resolved(str(mask), root=root) if mask else None,
    }
    more = {key: value for key, value in row.items() if key not in {*_MANIFEST_MASKS, "path"}}
    texts = {_free_name(key): None if value in {None, ""} else str(value) for key, value in more.items()}
    return known | _partitions(uri.removeprefix(root + "/")) | texts


def _resolved(given: str, *, root: str) -> str:
    """Return an absolute name; one that no file can have stays as it is, for the row that says so."""
    return given if given.startswith("/") or "://" in given else f"{root}/{given}"


def _csv(data: bytes, uri: str) -> tuple[list[str], Iterator[dict[str, Any]]]:
    try:
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    except UnicodeDecodeError as error:
        msg = f"{uri} is neither Parquet nor CSV in UTF-8 (byte {error.start} is no text)."
        raise DataError(msg) from error
    names = [name.strip() for name in next(lines, [])]

    def rows() -> Iterator[dict[str, Any]]:
        try:
            for number, values in enumerate((line for line in lines if line), start=1):
                if len(values) != len(names):
                    msg = f"{uri}, row {number}: {len(values)} values where the heading has {len(names)} columns."
                    raise DataError(msg)
                yield dict(zip(names, values, strict=True))
        except csv.Error as error:
            msg = f"{uri} is no valid CSV: {error}."
            raise DataError(msg) from error

    return names, rows()


def _is_parquet(data: bytes) -> bool:
    return data[:4] == b"PAR1"


def _parquet(data: bytes, uri: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        msg = f"{uri} is a damaged or incomplete Parquet file."
        raise DataError(msg) from error


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    more = sorted(set().union(*rows) - set(LISTING_SCHEMA.names)) if rows else []
    fields = [*list(LISTING_SCHEMA)[1:], *(pa.field(name, pa.string()) for name in more)]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(fields))


def _plain(value: Any) -> Any:  # noqa: ANN401 - a field of ListingConfig and its JSON value
    return list(value) if isinstance(value, tuple) else value
