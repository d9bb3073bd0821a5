"""One image of an archive: read, decoded, or told what is wrong with it.

Two kinds of failure are kept apart. What concerns one file (absent, forbidden, of an impossible name, not decodable) is
a result, and becomes a row with an error. Storage that does not work concerns them all, and is raised: the images stay
open, for a later try.
"""

import errno
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError

from feclip.data.decode import MAX_FILE_BYTES, sha256
from feclip.data.gpu_decode import UndecodedJpeg, undecoded_jpeg
from feclip.data.guarded_decode import GuardedDecoder
from feclip.data.image_errors import ImageError, ImageErrorKind
from feclip.data.prepare import PreparedImage
from feclip.data.storage import (
    StorageForbiddenError,
    StorageMissingError,
    StorageTooLargeError,
    absolute_uri,
    read_bytes,
)
from feclip.errors import StorageError

__all__ = ["FetchedImage", "decode_fetched", "fetch_and_decode"]

_NAMELESS_ERRORS = (IsADirectoryError, NotADirectoryError)  # such a name leads to no file and never will


@dataclass(frozen=True, kw_only=True, eq=False)
class FetchedImage:
    """What came of one image of an archive: the image, or its error."""

    sha256: str | None
    """Of the file; None where it was not read."""
    image: PreparedImage | UndecodedJpeg | None
    """None where there is an error."""
    error: ImageError | None
    """None where there is an image."""

    def columns(self) -> dict[str, Any]:
        """Return the columns of a score table that are known before the model has seen the image."""
        if self.image is None:
            assert self.error is not None
            return {"sha256": self.sha256, "error": str(self.error), "error_kind": self.error.kind.value}
        return {
            "sha256": self.sha256,
            "width": self.image.width,
            "height": self.image.height,
            "valid_box": list(self.image.valid_box),
            "valid_mask": self.image.valid_mask,
        }


def fetch_and_decode(
    uri: str,
    *,
    decoder: GuardedDecoder,
    size: int | None = None,
    valid_mask_uri: str | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    leaves_jpegs: bool = False,
) -> FetchedImage:
    """Read one image of an archive and decode it; may be called from several threads, which read at the same time.

    Args:
        uri: Path or URI.
        decoder: Where it is decoded.
        size: Bytes by the listing, so that a huge file is refused unread; None where that is not known.
        valid_mask_uri: The file that tells its valid pixels, if the decoder's options want one.
        max_file_bytes: Largest file that is decoded, bytes.
        leaves_jpegs: Whether a plain JPEG is left as it is, for a `GpuDecoder`.

    Returns:
        The image, or what is wrong with this file: absent, forbidden, of an impossible name, not decodable.

    Raises:
        StorageError: If storage fails, also when asked again: that says nothing about the file, which stays open.
        RunError: If no child can be started.
    """
    digest = None
    try:
        with decoder.stopwatch.time("fetch"):
            data = _read_file(uri, size=size, max_file_bytes=max_file_bytes)
        digest = sha256(data)
        jpeg = undecoded_jpeg(data, options=decoder.options) if leaves_jpegs else None
        if jpeg is not None:
            return FetchedImage(sha256=digest, image=jpeg, error=None)
        mask = None
        if decoder.options.valid_region == "mask_uri" and valid_mask_uri is not None:
            with decoder.stopwatch.time("fetch"):
                mask = _read_mask(valid_mask_uri, max_file_bytes=max_file_bytes)
    except ImageError as error:
        return FetchedImage(sha256=digest, image=None, error=error)
    return decode_fetched(data, uri=uri, digest=digest, decoder=decoder, valid_mask=mask, valid_mask_uri=valid_mask_uri)


def decode_fetched(
    data: bytes,
    *,
    uri: str,
    digest: str,
    decoder: GuardedDecoder,
    valid_mask: bytes | None = None,
    valid_mask_uri: str | None = None,
) -> FetchedImage:
    """Decode one image of an archive that was read.

    Args:
        data: The file's bytes.
        uri: Path or URI, for messages.
        digest: SHA-256 of the file.
        decoder: Where it is decoded.
        valid_mask: Bytes of the file that tells its valid pixels.
        valid_mask_uri: Where these came from, for messages.

    Returns:
        The image, or what is wrong with it.

    Raises:
        RunError: If no child can be started.
    """
    try:
        image = decoder.decode(data, uri=uri, valid_mask=valid_mask, valid_mask_uri=valid_mask_uri)
    except ImageError as error:
        return FetchedImage(sha256=digest, image=None, error=error)
    return FetchedImage(sha256=digest, image=image, error=None)


def _read_file(uri: str, *, size: int | None, max_file_bytes: int) -> bytes:
    _check_bytes(uri, num_bytes=size or 0, max_file_bytes=max_file_bytes)
    try:
        if "\0" in uri or not uri:
            msg = f"Cannot read {uri!r}: a name must not be empty or hold a NUL character."
            raise ImageError(msg, kind=ImageErrorKind.unreadable_name)
        _check_name(uri)
        return read_bytes(uri, max_bytes=max_file_bytes)
    except StorageTooLargeError as error:
        raise ImageError(str(error), kind=ImageErrorKind.too_large) from error
    except StorageMissingError as error:
        raise ImageError(str(error), kind=ImageErrorKind.absent) from error
    except StorageForbiddenError as error:
        raise ImageError(str(error), kind=ImageErrorKind.forbidden) from error
    except StorageError as error:
        if _is_about_the_name(error.__cause__):
            raise ImageError(str(error), kind=ImageErrorKind.unreadable_name) from error
        raise


def _check_name(uri: str) -> None:
    try:
        absolute_uri(uri)
    except StorageError as error:  # another scheme, no bucket, credentials in the URI: so it will be for ever
        raise ImageError(str(error), kind=ImageErrorKind.unreadable_name) from error


def _read_mask(uri: str, *, max_file_bytes: int) -> bytes:
    try:
        data = _read_file(uri, size=None, max_file_bytes=max_file_bytes)
    except ImageError as error:
        raise ImageError(str(error), kind=ImageErrorKind.unfit_mask) from error
    if not data:
        msg = f"Cannot decode {uri}: the file is empty."
        raise ImageError(msg, kind=ImageErrorKind.unfit_mask)
    return data


def _check_bytes(uri: str, *, num_bytes: int, max_file_bytes: int) -> None:
    if num_bytes > max_file_bytes:
        msg = f"Cannot decode {uri}: {num_bytes} bytes are more than the {max_file_bytes} that are allowed."
        raise ImageError(msg, kind=ImageErrorKind.too_large)


def _is_about_the_name(cause: BaseException | None) -> bool:
    """Tell whether a read failed since its name can lead to no file; another try, or another user, changes nothing."""
    if isinstance(cause, ClientError):
        return bool(cause.response.get("Error", {}).get("Code") == "KeyTooLongError")
    if isinstance(cause, OSError):
        return isinstance(cause, _NAMELESS_ERRORS) or cause.errno == errno.ENAMETOOLONG
    return isinstance(cause, ParamValidationError)
