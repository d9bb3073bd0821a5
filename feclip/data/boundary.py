"""The folder that a manifest or a listing from a stranger must not lead out of."""

import functools
import os
from urllib.parse import unquote

from feclip.data.storage import is_local, local_path
from feclip.errors import DataError, StorageError

__all__ = ["Boundary"]


class Boundary:
    """A folder or prefix that names must stay in: by their text, and locally also by where links lead.

    Args:
        root: Absolute folder, or ``s3://`` prefix. Where it is itself a link, what counts is the folder behind it.
        binds_absolute: Whether absolute names must stay in it too, not only relative ones.

    Example:
        >>> Boundary("s3://plant/images").resolve("s3://plant/secret.png", where="labels.csv, row 1")
        Traceback (most recent call last):
            ...
        feclip.errors.DataError: labels.csv, row 1: s3://plant/secret.png lies outside of s3://plant/images.
    """

    def __init__(self, root: str, *, binds_absolute: bool = True) -> None:
        self._root = root.rstrip("/")
        self._binds_absolute = binds_absolute
        self._is_local = is_local(root)
        self._real_folder = functools.lru_cache(maxsize=1024)(os.path.realpath)  # images of a folder follow one another

    def resolve(self, given: str, *, where: str) -> str:
        """Return the absolute path or URI of a name in a manifest.

        Args:
            given: Path below the root, absolute path, or URI.
            where: What names it, for the message.

        Raises:
            DataError: If it leads out, or holds ``..`` or credentials, which are not repeated. A name that no file can
                have, since it holds a NUL character, leads nowhere and stays as it is.
        """
        _refuse_disguise(given, where=where)
        is_absolute = given.startswith("/") or "://" in given
        uri = given if is_absolute else f"{self._root}/{given}"
        if (self._binds_absolute or not is_absolute) and "\0" not in given:
            self._require(uri, where=where)
        return uri

    def _require(self, uri: str, *, where: str) -> None:
        try:
            inside = self._holds(uri)
        except StorageError as error:
            msg = f"{where}: {error}"
            raise DataError(msg) from error
        if not inside:
            msg = f"{where}: {uri} lies outside of {self._root or '/'}."
            raise DataError(msg)
        if self._is_local and not self._holds_target(_name(uri)):
            msg = f"{where}: {uri} is a link, or lies behind one, that leads out of {self._root or '/'}."
            raise DataError(msg)

    def _holds(self, uri: str) -> bool:
        if is_local(uri) != self._is_local:
            return False
        name = _name(uri)
        return name.startswith(f"{self._root}/") and ".." not in name.split("/")

    def _holds_target(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        is_link = os.path.islink(path)  # noqa: PTH114 - false, not an error, for a name that is too long
        real = os.path.realpath(path) if is_link else f"{self._real_folder(folder or '/')}/{name}"
        base = self._real_folder(self._root or "/").rstrip("/")
        return real.startswith(f"{base}/")


def _name(uri: str) -> str:
    """Return a path as it was given, and that of a file:// URI."""
    return local_path(uri) if uri.startswith("file://") else uri


def _refuse_disguise(given: str, *, where: str) -> None:
    """Refuse a name that is not what it seems: one that climbs, or carries keys."""
    scheme, separator, rest = given.partition("://")
    if separator and scheme.isalnum() and "@" in rest.partition("/")[0]:
        msg = f"{where}: a URI must not hold credentials; they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        raise DataError(msg)
    decoded = unquote(given) if scheme == "file" and separator else given
    if ".." in decoded.split("/"):
        msg = f"{where}: {given!r} must not hold '..'."
        raise DataError(msg)
