"""Checks of values where they are born, each with the field's name in its message."""

import re
import sys
from enum import StrEnum

__all__ = ["holds_credentials", "require", "require_member", "require_seed", "require_texts", "require_uris"]

SEED_BITS = 32  # torch takes 64, and ranks and trials get seeds that are made from this one
_CREDENTIALS = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s\"']*@", re.IGNORECASE)


def require(name: str, value: float, *, rule: str, holds: bool) -> None:
    """Refuse a number that breaks its rule, is not finite, or is a whole number that no float comes near."""
    finite = abs(value) <= sys.float_info.max  # false for NaN too
    if not holds or not finite:
        msg = f"{name} must be {rule}, got {value}."
        raise ValueError(msg)


def require_member(name: str, value: object, kind: type[StrEnum]) -> None:
    """Refuse what is none of the words of a choice."""
    if value not in list(kind):
        msg = f"{name} must be one of {', '.join(kind)}, got {value!r}."
        raise ValueError(msg)


def require_seed(name: str, value: int) -> None:
    """Refuse what is no seed."""
    require(name, value, rule=f"at least 0 and below 2**{SEED_BITS}", holds=0 <= value < 1 << SEED_BITS)


def require_texts(**texts: str) -> None:
    """Refuse empty paths, each under the name of its field, and what `require_uris` refuses."""
    for name, text in texts.items():
        if not text.strip():
            msg = f"{name} must not be empty: a path or an s3:// URI."
            raise ValueError(msg)
    require_uris("", **texts)


def require_uris(group: str, **uris: str | None) -> None:
    """Refuse paths and URIs that hold credentials or a NUL character; what is refused is not repeated.

    Args:
        group: What stands before the names in messages, with its dot.
        **uris: Paths and URIs by the names of their fields.
    """
    for name, uri in uris.items():
        if uri is not None and holds_credentials(uri):
            msg = (
                f"{group}{name} must not hold credentials; they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
            raise ValueError(msg)
        if uri is not None and "\0" in uri:
            msg = f"{group}{name} must not hold a NUL character."
            raise ValueError(msg)


def holds_credentials(text: str) -> bool:
    """Tell whether a URI in a text carries credentials, as ``scheme://key:secret@place`` does.

    Example:
        >>> holds_credentials("s3://key:secret@plant/a"), holds_credentials("s3://plant/a@b")
        (True, False)
    """
    return _CREDENTIALS.search(text) is not None
