"""The images of an archive, listed once in parts that run anywhere, and frozen as numbered Parquet files.

    parts = plan_parts(source)                          driver: folders or row groups, never images
    for block in list_part(part, source): ...           tasks: blocks of at most ROWS_PER_FILE images
    write_numbered(uri, block, first_row_id, columns)   tasks: one file of the frozen listing

Row ids are dense and count from zero, in the order of the parts and, within a part, of the names.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Self
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from feclip.archive.manifest import count_row_groups, read_rows
from feclip.config import ListingConfig
from feclip.data import FileEntry, FolderEntry, encode_parquet, list_children, list_files, read_bytes, write_bytes
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
    "first_repeated",
    "list_part",
    "partitions",
    "plan_parts",
    "write_numbered",
]

ROWS_PER_FILE = 8192
"""Images in one file of the listing: about half a megabyte, which a slice reads whole."""
FOLDERS_PER_PART = 64
"""Folders that one task lists one after another."""
MAX_MANIFEST_PARTS = 16
"""Parts of a Parquet manifest."""
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
_DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # how Hive writes a null in a path


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the images are named: a folder or prefix, or a manifest."""

    archive: str | None
    """Folder or ``s3://`` prefix, absolute; with a manifest, what its relative paths start from and none of its
    paths may lie outside of. No link leads out of it."""
    manifest: str | None
    """Parquet or CSV file, absolute."""
    listing: ListingConfig = field(default_factory=ListingConfig)
    """Which objects of a folder are images; without effect on a manifest."""
    manifest_sha256: str | None = None
    """Of the manifest, which every part must find; None where it is not known yet."""

    def identified(self) -> Self:
        """Return the source with the digest of its manifest, if it is one.

        Raises:
            StorageError: If the manifest cannot be read.
        """
        if self.manifest is None:
            return self
        return replace(self, manifest_sha256=hashlib.sha256(read_bytes(self.manifest)).hexdigest())

    def identity(self) -> dict[str, Any]:
        """Return as JSON what makes another submission another archive: for a manifest also its content.

        Raises:
            StorageError: If the manifest cannot be read.
        """
        if self.manifest is None:
            return {"archive": self.archive, **{name: _plain(value) for name, value in asdict(self.listing).items()}}
        digest = self.manifest_sha256 or self.identified().manifest_sha256
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
        groups = range(count_row_groups(source.manifest))
        size = max(1, -(-len(groups) // MAX_MANIFEST_PARTS))  # each part reads the file
        return [Part(row_groups=tuple(groups[start : start + size])) for start in groups[::size]] or [Part()]
    assert source.archive is not None
    level: list[tuple[str, bool]] = [(source.archive, True)]
    while len(level) < MIN_FOLDERS:
        opened = [
            folder for uri, deep in level for folder in (_open(uri, within=source.archive) if deep else [(uri, False)])
        ]
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
    for row in _manifest_rows(part, source) if source.manifest is not None else _folder_rows(part, source, ignored):
        rows.append(row)
        if len(rows) == ROWS_PER_FILE:
            yield Block(table=_table(rows), ignored=dict(ignored))
            ignored.clear()
            rows = []
    yield Block(table=_table(rows), ignored=dict(ignored))


def first_repeated(*tables: pa.Table) -> str | None:
    """Return a name that stands in more than one row of a manifest's blocks, if any."""
    names = pa.chunked_array([chunk for table in tables for chunk in table["uri"].chunks], pa.string())
    counts = pc.value_counts(names)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    return str(repeated.field("values")[0].as_py()) if len(repeated) else None


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
    content = encode_parquet(pa.table(arrays, schema=schema))
    digest = hashlib.sha256(content).hexdigest()
    name = f"rows-{first_row_id:012d}-{digest[:16]}.parquet"  # two runs that begin at once do not meet
    write_bytes(f"{folder}/{name}", content)
    return ListedFile(name=name, first_row_id=first_row_id, num_rows=rows, sha256=digest)


def _open(uri: str, *, within: str) -> list[tuple[str, bool]]:
    """Return the folder without its subfolders, then each of these; the folder itself where it has none."""
    deeper = [(entry.uri, True) for entry in list_children(uri, within=within) if isinstance(entry, FolderEntry)]
    return [(uri, False), *deeper] if deeper else [(uri, False)]


def _manifest_rows(part: Part, source: Source) -> Iterator[dict[str, Any]]:
    assert source.manifest is not None
    root = (source.archive or source.manifest.rpartition("/")[0]).rstrip("/")
    rows = read_rows(
        source.manifest,
        root=root,
        row_groups=part.row_groups,
        bounded=source.archive is not None,
        sha256=source.manifest_sha256,
    )
    for found in rows:
        known = {"uri": found.uri, "size": found.size, "etag": found.etag, MASK_COLUMN: found.valid_mask_uri}
        further = {**partitions(found.uri.removeprefix(root + "/")), **_renamed(found.further, where=source.manifest)}
        yield known | further


def _renamed(columns: dict[str, str | None], *, where: str) -> dict[str, str | None]:
    renamed = {_free_name(name): value for name, value in columns.items()}
    if len(renamed) < len(columns):
        taken = next(name for name in columns if name in _TAKEN and _free_name(name) in columns)
        msg = f"{where}: columns {taken!r} and {_free_name(taken)!r} would be one; rename one of them."
        raise DataError(msg)
    return renamed


def _folder_rows(part: Part, source: Source, ignored: Counter[str]) -> Iterator[dict[str, Any]]:
    assert source.archive is not None
    root = source.archive.rstrip("/") + "/"
    extensions = tuple(extension.lower() for extension in source.listing.extensions)
    for folder, deep in part.folders:
        entries: Iterable[FileEntry | FolderEntry] = (
            list_files(folder, within=source.archive) if deep else list_children(folder, within=source.archive)
        )
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
                    "uri": _writable(entry.uri),
                    "size": entry.size,
                    "etag": entry.etag,
                    MASK_COLUMN: None,
                    **partitions(path),
                }


def _writable(uri: str) -> str:
    """Return a name that a table can hold: that of a local file which is no UTF-8 becomes a file:// URI."""
    return uri if uri.isascii() or _is_utf8(uri) else f"file://{quote(os.fsencode(uri))}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_included(path: str, listing: ListingConfig) -> bool:
    included = listing.include is None or any(fnmatchcase(path, pattern) for pattern in listing.include)
    return included and not any(fnmatchcase(path, pattern) for pattern in listing.exclude or ())


def partitions(path: str) -> dict[str, str | None]:
    """Return what the ``key=value`` folders of a path say, by the column that a score table has it in.

    Example:
        >>> partitions("line=3/date=2024-01/a.png")
        {'line': '3', 'date': '2024-01'}
    """
    pairs = [folder.partition("=") for folder in path.split("/")[:-1]]
    found = {_free_name(key): _text(unquote(value)) for key, equals, value in pairs if equals and key.isidentifier()}
    return {key: None if value == _DEFAULT_PARTITION else value for key, value in found.items()}


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def _free_name(key: str) -> str:
    """Return a column name for a partition or a manifest's column that the score table does not use itself."""
    return f"source_{key}" if key in _TAKEN else key


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    more = sorted(set().union(*rows) - set(LISTING_SCHEMA.names)) if rows else []
    fields = [*list(LISTING_SCHEMA)[1:], *(pa.field(name, pa.string()) for name in more)]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(fields))


def _plain(value: Any) -> Any:  # noqa: ANN401 - a field of ListingConfig and its JSON value
    return list(value) if isinstance(value, tuple) else value
