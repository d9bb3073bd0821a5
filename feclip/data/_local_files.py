"""Files of a local or mounted file system: read, write whole or not at all, delete, walk."""

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from feclip.data._object_store import retrying
from feclip.data._storage_errors import StorageMissingError, local_error
from feclip.errors import StorageError

_T = TypeVar("_T")


def read_file(path: Path) -> bytes:
    """Read a file whole.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        StorageError: If it is absent, forbidden or no file.
    """
    return _attempt(path.read_bytes, path=path, action="read")


def write_file(path: Path, data: bytes) -> None:
    """Write beside, flush to the disk, then rename; missing folders are made.

    Args:
        path: The file to make or replace.
        data: The content.

    Raises:
        StorageError: If the place cannot be written.
    """
    _attempt(lambda: _replace(path, data), path=path, action="write")


def delete_file(path: Path) -> None:
    """Delete a file; an absent one is fine.

    Args:
        path: The file.

    Raises:
        StorageError: If it cannot be deleted.
    """
    _attempt(lambda: path.unlink(missing_ok=True), path=path, action="delete")


def children(folder: Path) -> Iterator[tuple[Path, int | None]]:
    """Walk through one level of a folder, in the order of names.

    Args:
        folder: The folder; an absent one holds nothing.

    Yields:
        Path and size in bytes of each file, 0 where a link leads nowhere; None for the size of a folder.

    Raises:
        StorageError: If the folder is a file or cannot be listed.
    """
    _refuse_file(folder)
    if folder.exists():
        for child in _attempt(lambda: sorted(folder.iterdir()), path=folder, action="list"):
            yield child, None if child.is_dir() else _size(child)


def walk(folder: Path, *, ancestors: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[Path, int]]:
    """Walk through all files below a folder, in the order in which S3 sorts the same relative paths.

    Args:
        folder: Where to begin; an absent one holds nothing.
        ancestors: Device and inode of the folders above, to notice links that run in a circle.

    Yields:
        Path and size in bytes of each file, 0 where a link leads nowhere.

    Raises:
        StorageError: If the folder is a file, cannot be listed, or links back to one above it.
    """
    _refuse_file(folder)
    if not ancestors and not folder.exists():
        return
    try:
        status = folder.stat()
        found = {f"{child.name}/" if child.is_dir() else child.name: child for child in folder.iterdir()}
    except OSError as error:
        raise local_error(error, path=folder, action="list") from error
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        msg = f"Cannot list {folder}: it links back to a folder above it."
        raise StorageError(msg)
    for name in sorted(found):
        if name.endswith("/"):
            yield from walk(found[name], ancestors=ancestors | {identity})
        else:
            yield found[name], _size(found[name])


def _refuse_file(folder: Path) -> None:
    if folder.is_file():
        msg = f"Cannot list {folder}: it is a file where a folder is expected."
        raise StorageError(msg)


def _size(path: Path) -> int:
    """Return the bytes of a file; a link that leads nowhere has none, and reading it says so."""
    try:
        return _attempt(path.stat, path=path, action="list").st_size
    except StorageMissingError:
        return 0


def _attempt(function: Callable[[], _T], *, path: Path, action: str) -> _T:
    try:
        return retrying()(function)
    except OSError as error:
        raise local_error(error, path=path, action=action) from error


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)
