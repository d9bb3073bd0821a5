"""Any local path or ``s3://`` URI through one door: read, write whole, look up, list, delete, probe.

A URI here is ``s3://bucket/key``, or a local path (``file://`` is understood). Writing is all or nothing: a reader sees
the old content or the new, never half of it. Functions block and may be called from any thread. What fails for a moment
is tried again: 20 s long, or for the seconds that the environment variable `STORAGE_PATIENCE_VARIABLE` says.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from feclip.data import _local_files, _object_store
from feclip.data._object_store import STORAGE_PATIENCE_VARIABLE
from feclip.data._storage_errors import StorageForbiddenError, StorageMissingError, StorageTooLargeError
from feclip.errors import StorageError

__all__ = [
    "MAX_READ_BYTES",
    "STORAGE_PATIENCE_VARIABLE",
    "FileEntry",
    "FolderEntry",
    "StorageForbiddenError",
    "StorageMissingError",
    "StorageTooLargeError",
    "absolute_uri",
    "check_writable",
    "delete",
    "exists",
    "is_dir",
    "is_local",
    "join_uri",
    "list_children",
    "list_files",
    "local_path",
    "read_bytes",
    "write_bytes",
]

MAX_READ_BYTES = 4 << 30
"""Largest file that is read where nothing smaller is asked for."""
_S3 = "s3://"
_FILE = "file://"


class FileEntry(NamedTuple):
    """One file of a listing."""

    uri: str
    size: int
    """Bytes."""
    etag: str | None
    """Entity tag of an object, without quotes; None for a local file."""


class FolderEntry(NamedTuple):
    """One folder of a listing of one level."""

    uri: str
    """As it can be listed; that of a prefix ends with a slash, since the name of a folder may be empty in S3."""


def is_local(uri: str) -> bool:
    """Tell whether a URI is a local path.

    Args:
        uri: Path or URI.

    Returns:
        True for paths and ``file://``, false for ``s3://``.

    Raises:
        StorageError: If the URI has another scheme, or holds a NUL character.

    Example:
        >>> is_local("/data/a.png"), is_local("s3://plant/a.png")
        (True, False)
    """
    if "\0" in uri or not uri:
        msg = f"{uri!r} is no path; write a local path or s3://bucket/key."
        raise StorageError(msg)
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.isalnum() and scheme not in {"s3", "file"}:
        msg = f"Storage of kind {scheme}:// is not supported; write a local path, file:// or s3://bucket/key."
        raise StorageError(msg)
    return not uri.startswith(_S3)


def absolute_uri(path_or_uri: str) -> str:
    """Make a local path absolute; leave an S3 URI as it is.

    Args:
        path_or_uri: Local path, ``file://`` or ``s3://`` URI.

    Returns:
        Absolute path without ``.`` and ``..``, or the S3 URI.

    Raises:
        StorageError: If the URI has another scheme, no bucket, or holds credentials.

    Example:
        >>> absolute_uri("/data/./run/../bundle"), absolute_uri("s3://plant/bundle")
        ('/data/bundle', 's3://plant/bundle')
    """
    if is_local(path_or_uri):
        try:
            return os.path.normpath(_path(path_or_uri).expanduser().absolute())
        except RuntimeError as error:  # ~ of a user that this machine does not know
            msg = f"{path_or_uri!r} begins with ~ and names no user of this machine; write the folder out."
            raise StorageError(msg) from error
    _object_store.split_uri(path_or_uri)
    return path_or_uri


def join_uri(base: str, *parts: str) -> str:
    """Append path parts to a path or URI.

    Args:
        base: Folder.
        *parts: Relative parts; each may itself hold slashes.

    Returns:
        The URI of what stands there.

    Raises:
        StorageError: If a part is absolute or leads out of the base by ``..``.

    Example:
        >>> join_uri("s3://plant/runs/", "first", "config.json")
        's3://plant/runs/first/config.json'
    """
    for part in parts:
        if part.startswith("/") or ".." in part.split("/") or "\0" in part:
            msg = f"{part!r} does not stay below {base}; write a relative path without '..'."
            raise StorageError(msg)
    pieces = [part.strip("/") for part in parts]
    return "/".join([base.rstrip("/") or "", *(piece for piece in pieces if piece)])


def local_path(uri: str) -> str:
    """Return the path that a local URI names.

    Args:
        uri: Local path, or ``file://`` URI.

    Raises:
        StorageError: If it names a file of another machine, or holds a NUL character.

    Example:
        >>> local_path("file:///data/a%20b.png")
        '/data/a b.png'
    """
    return str(_path(uri))


def read_bytes(uri: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
    """Read a file whole.

    Args:
        uri: Path or URI.
        max_bytes: Largest file that is read; a larger one is not touched.

    Returns:
        Its content.

    Raises:
        StorageMissingError: If it does not exist.
        StorageForbiddenError: If it may not be read, or is a device, a pipe or a socket.
        StorageTooLargeError: If it is larger.
        StorageError: If storage cannot be reached or keeps failing.
    """
    if is_local(uri):
        return _local_files.read_file(_path(uri), max_bytes=max_bytes)
    return _object_store.read_object(uri, max_bytes=max_bytes)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file whole or not at all, replacing what was there; missing folders are made.

    Args:
        uri: Path or URI.
        data: The content.

    Raises:
        StorageError: If it cannot be written there.
    """
    if is_local(uri):
        _local_files.write_file(_path(uri), data)
    else:
        _object_store.write_object(uri, data)


def exists(uri: str) -> bool:
    """Tell whether a file stands at exactly this place; a folder is no file.

    Args:
        uri: Path or URI.

    Returns:
        True for a file.

    Raises:
        StorageError: If storage cannot be asked.
    """
    if is_local(uri):
        return _path(uri).is_file()
    return _object_store.object_exists(uri)


def is_dir(uri: str) -> bool:
    """Tell whether files can stand below this place already: a local folder, or a prefix of at least one object.

    Args:
        uri: Path or URI.

    Returns:
        True for a folder, also an empty local one; object storage knows no empty folders.

    Raises:
        StorageError: If storage cannot be asked.
    """
    if is_local(uri):
        return _path(uri).is_dir()
    return next(_object_store.list_objects(uri.rstrip("/") + "/", page_size=1), None) is not None


def delete(uri: str) -> None:
    """Delete a file; an absent one is fine.

    Args:
        uri: Path or URI.

    Raises:
        StorageError: If it cannot be deleted.
    """
    if is_local(uri):
        _local_files.delete_file(_path(uri))
    else:
        _object_store.delete_object(uri)


def list_files(uri: str, *, within: str | None = None) -> Iterator[FileEntry]:
    """Walk through all files below a folder, at any depth, in the order of their names.

    The order is that of the relative paths as S3 sorts keys, the same for a local copy. Objects come page by page.

    Args:
        uri: Folder. A missing one holds nothing: object storage has no folders of its own.
        within: Folder that no link may lead out of; None follows every link.

    Yields:
        One entry for each file.

    Raises:
        StorageError: If the place is a file, links run in a circle or lead out, or storage cannot be listed.
    """
    if is_local(uri):
        for path, size in _local_files.walk(_path(uri), within=_real(within)):
            yield FileEntry(str(path), size, None)
        return
    bucket, _ = _object_store.split_uri(uri)
    empty = True
    for entry in _object_store.list_objects(uri if uri.endswith("/") else uri + "/"):
        empty = False
        if not entry.key.endswith("/"):  # a folder's marker, written by some browsers of object storage
            yield FileEntry(f"{_S3}{bucket}/{entry.key}", entry.size, entry.etag)
    if empty:
        _refuse_object(uri, bucket=bucket)


def _refuse_object(uri: str, *, bucket: str) -> None:
    if uri.rstrip("/") != f"{_S3}{bucket}" and _object_store.object_exists(uri.rstrip("/")):
        msg = f"Cannot list {uri}: it is an object where a folder is expected."
        raise StorageError(msg)


def list_children(uri: str, *, within: str | None = None) -> Iterator[FileEntry | FolderEntry]:
    """List one level of a folder; objects come page by page.

    Args:
        uri: Folder. A missing one holds nothing.
        within: As for `list_files`.

    Yields:
        One entry for each file and each folder directly there. A marker of the folder itself, which some browsers of
        object storage write, is no file.

    Raises:
        StorageError: If the place is a file, a link leads out, or storage cannot be listed.
    """
    if is_local(uri):
        for path, size in _local_files.children(_path(uri), within=_real(within)):
            yield FolderEntry(str(path)) if size is None else FileEntry(str(path), size, None)
        return
    bucket, _ = _object_store.split_uri(uri)
    empty = True
    for entry in _object_store.list_children(uri if uri.endswith("/") else uri + "/"):
        empty = False
        if isinstance(entry, str):
            yield FolderEntry(f"{_S3}{bucket}/{entry}")
        elif not entry.key.endswith("/"):
            yield FileEntry(f"{_S3}{bucket}/{entry.key}", entry.size, entry.etag)
    if empty:
        _refuse_object(uri, bucket=bucket)


def check_writable(uri: str) -> None:
    """Prove that files can be written below a folder by writing a small one and deleting it.

    Args:
        uri: Folder, which need not exist yet; a local one is made.

    Raises:
        StorageError: If the place or one above it is a file, or writing is refused or fails.
    """
    if not is_local(uri):
        _check_no_object_above(uri)
    probe = join_uri(uri, f".feclip-probe-{secrets.token_hex(8)}")
    write_bytes(probe, b"This file proves that the folder can be written; delete it.\n")
    delete(probe)


def _check_no_object_above(uri: str) -> None:
    """Refuse an output below an object: legal in S3, but no file system can hold a copy, and rclone's server hangs."""
    bucket, key = _object_store.split_uri(uri)
    parts = key.strip("/").split("/")
    for end in range(1, len(parts) + 1):
        above = f"{_S3}{bucket}/{'/'.join(parts[:end])}"
        try:
            blocked = above != f"{_S3}{bucket}/" and _object_store.object_exists(above)
        except StorageForbiddenError:
            return  # without the right to list, S3 answers 403 for absent keys too; the probe decides
        if blocked:
            msg = f"Cannot write {uri}: {above} is a file, and a file cannot hold others."
            raise StorageError(msg)


def _real(within: str | None) -> Path | None:
    return None if within is None else _path(within).resolve()


def _path(uri: str) -> Path:
    if not uri.startswith(_FILE):
        return Path(uri)
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        msg = f"{uri!r} is no file:// URI; write file:///path."
        raise StorageError(msg) from error
    path = unquote(parts.path, errors="surrogateescape")
    if parts.netloc not in {"", "localhost"} or "\0" in path:
        msg = f"{uri!r} names no file of this machine; write file:///path."
        raise StorageError(msg)
    return Path(path)
