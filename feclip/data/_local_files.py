"""Files of a local or mounted file system: read, write whole or not at all, delete, walk."""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from feclip.data._object_store import retrying
from feclip.data._storage_errors import (
    StorageForbiddenError,
    StorageMissingError,
    local_error,
    too_large,
)
from feclip.errors import StorageError

_T = TypeVar("_T")


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """Read a file whole.

    Args:
        path: The file.
        max_bytes: Largest file that is read.

    Returns:
        Its content.

    Raises:
        StorageError: If it is absent, forbidden, too large or no file.
    """
    return _attempt(lambda: _read(path, max_bytes=max_bytes), path=path, action="read")


def _read(path: Path, *, max_bytes: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its writer
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _no_file(path) from error
        raise
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise _no_file(path)
        if status.st_size > max_bytes:
            raise too_large(path, num_bytes=status.st_size, max_bytes=max_bytes)
        return file.read()


def _no_file(path: Path) -> StorageForbiddenError:
    return StorageForbiddenError(f"Cannot read {path}: it is a device, a pipe or a socket where a file is expected.")


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


def children(folder: Path, *, within: Path | None = None) -> Iterator[tuple[Path, int | None]]:
    """Walk through one level of a folder, in the order of names.

    Args:
        folder: The folder; an absent one holds nothing.
        within: Folder, itself no link, that no link may lead out of; None follows every link.

    Yields:
        Path and size in bytes of each file, 0 where a link leads nowhere; None for the size of a folder.

    Raises:
        StorageError: If the folder is a file or cannot be listed, or a link leads out.
    """
    _refuse_file(folder)
    if folder.exists():
        for child in _attempt(lambda: sorted(folder.iterdir()), path=folder, action="list"):
            _refuse_way_out(child, within=within)
            yield child, None if child.is_dir() else _size(child)


def walk(
    folder: Path, *, within: Path | None = None, ancestors: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[Path, int]]:
    """Walk through all files below a folder, in the order in which S3 sorts the same relative paths.

    Args:
        folder: Where to begin; an absent one holds nothing.
        within: As for `children`.
        ancestors: Device and inode of the folders above, to notice links that run in a circle.

    Yields:
        Path and size in bytes of each file, 0 where a link leads nowhere.

    Raises:
        StorageError: If the folder is a file, cannot be listed, or links back to one above it, or a link leads out.
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
        _refuse_way_out(found[name], within=within)
        if name.endswith("/"):
            yield from walk(found[name], within=within, ancestors=ancestors | {identity})
        else:
            yield found[name], _size(found[name])


def _refuse_way_out(path: Path, *, within: Path | None) -> None:
    if within is not None and path.is_symlink() and not path.resolve().is_relative_to(within):
        msg = (
            f"Cannot list {path}: it is a link that leads out of {within}; copy what it leads to, or list that folder."
        )
        raise StorageError(msg)


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
    except StorageError:
        raise
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
