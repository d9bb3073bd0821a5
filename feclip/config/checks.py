"""Checks of values where they are born, each with the field's name in its message."""

import math
from enum import StrEnum

__all__ = ["require", "require_member", "require_texts"]


def require(name: str, value: float, *, rule: str, holds: bool) -> None:
    """Refuse a number that breaks its rule or is not finite."""
    if not holds or not math.isfinite(value):
        msg = f"{name} must be {rule}, got {value}."
        raise ValueError(msg)


def require_member(name: str, value: object, kind: type[StrEnum]) -> None:
    """Refuse what is none of the words of a choice."""
    if value not in list(kind):
        msg = f"{name} must be one of {', '.join(kind)}, got {value!r}."
        raise ValueError(msg)


def require_texts(**texts: str) -> None:
    """Refuse empty paths, each under the name of its field."""
    for name, text in texts.items():
        if not text.strip():
            msg = f"{name} must not be empty: a path or an s3:// URI."
            raise ValueError(msg)
