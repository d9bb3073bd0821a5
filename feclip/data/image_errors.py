"""What can be wrong with one image of an archive: a kind for counting, and one line for people."""

from enum import StrEnum

from feclip.errors import DataError

__all__ = ["ImageError", "ImageErrorKind"]


class ImageErrorKind(StrEnum):
    """Why an image has no score. Each concerns that one image; storage that does not work is no kind."""

    absent = "absent"
    """Listed, but not there when it was read."""
    forbidden = "forbidden"
    """There, but these credentials or this user may not read it."""
    unreadable_name = "unreadable_name"
    """Nothing can be read under its name: a folder, a NUL character, a name too long."""
    empty = "empty"
    """Zero bytes."""
    not_an_image = "not_an_image"
    """Bytes of no known image format, whatever the name says."""
    truncated = "truncated"
    """The end of the file is missing."""
    damaged = "damaged"
    """Something within the file is wrong."""
    too_large = "too_large"
    """More pixels or bytes than are allowed."""
    unsupported = "unsupported"
    """Whole, but its pixel values have no known range."""
    unfit_mask = "unfit_mask"
    """The file that tells its valid pixels is missing, damaged, of another size, or excludes everything."""
    out_of_memory = "out_of_memory"
    """Decoding needs more memory than is allowed."""
    timed_out = "timed_out"
    """Decoding did not end in time."""
    crashed = "crashed"
    """The decoder died of it."""


class ImageError(DataError):
    """One image cannot be scored. The kind has a default so that the error survives a way between processes.

    Attributes:
        kind: Why.

    Example:
        >>> ImageError("Cannot decode a.png: the file is empty.", kind=ImageErrorKind.empty).kind.value
        'empty'
    """

    def __init__(self, message: str, *, kind: ImageErrorKind = ImageErrorKind.damaged) -> None:
        super().__init__(message)
        self.kind = kind
