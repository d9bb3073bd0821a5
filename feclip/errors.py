"""Errors that a user can cause and mend: each is one line saying what, where, and what would be right.

Jobs print them without a traceback and exit non-zero; anything else is a defect of ours and keeps its traceback.
"""

__all__ = ["BundleError", "ConfigError", "DataError", "FeclipError", "RunError", "StorageError", "folded", "one_line"]


class FeclipError(Exception):
    """Base of every error whose message is written for the user; it becomes one line by `one_line`."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    r"""Escape what would break a line or move a terminal: names that others gave may hold any character.

    Args:
        text: A message.

    Returns:
        The same, with control characters, line separators and lone surrogates written as escapes.

    Example:
        >>> print(one_line("Cannot read a\nb  c.png"))
        Cannot read a\nb  c.png
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def folded(text: str) -> str:
    r"""Return a message of a library, laid out over lines, as one.

    Example:
        >>> folded("no field\n    named  x")
        'no field named x'
    """
    return " ".join(text.split())


class ConfigError(FeclipError, ValueError):
    """A config field holds a value that its backbone, its data or its cluster cannot take."""


class DataError(FeclipError, ValueError):
    """An image, mask, folder layout or manifest is not what it must be."""


class StorageError(FeclipError, OSError):
    """A path or an object store cannot be reached, read or written."""


class BundleError(FeclipError, ValueError):
    """A bundle is missing, incomplete, of another schema, or does not fit its backbone."""


class RunError(FeclipError, RuntimeError):
    """A run cannot start, go on or finish as configured."""
