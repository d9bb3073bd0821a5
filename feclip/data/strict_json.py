"""JSON from files that anyone may have written: one kind of error, whatever stands in them."""

import json
from typing import Any, NoReturn, TypeGuard

__all__ = ["MAX_JSON_BYTES", "is_count", "is_number", "parse_json"]

MAX_JSON_BYTES = 64 << 20
"""Largest record that is read; the claim on an archive of a hundred million images has 3 MB."""


def parse_json(content: bytes | bytearray) -> Any:  # noqa: ANN401 - any JSON value
    """Parse JSON in UTF-8 as RFC 8259 has it.

    Stricter than the standard library, whose extensions hide mistakes: a name that stands twice in one object, ``NaN``
    and ``Infinity``, numbers beyond a float and half of a surrogate pair are refused.

    Args:
        content: The file.

    Returns:
        Dictionaries, lists, strings, numbers, booleans and None.

    Raises:
        ValueError: If it is no such JSON, or nested too deeply; in one line.

    Example:
        >>> parse_json(b'{"a": [1, 2.5]}')
        {'a': [1, 2.5]}
        >>> parse_json(b'{"a": 1, "a": 2}')
        Traceback (most recent call last):
            ...
        ValueError: 'a' stands twice in one object
    """
    try:
        text = content.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_no_repeats, parse_constant=_refuse, parse_float=_finite, parse_int=_bounded
        )
        if "\\u" in text:  # an escape can name what no UTF-8 holds, and whoever writes it on would fail
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        msg = "it is nested too deeply"
        raise ValueError(msg) from None
    except UnicodeError as error:
        msg = (
            f"it is no text in UTF-8 ({error.reason if isinstance(error, UnicodeDecodeError) else 'half a surrogate'})"
        )
        raise ValueError(msg) from None
    return value


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        msg = f"{repeated[:100]!r} stands twice in one object"
        raise ValueError(msg)
    return found


def _refuse(constant: str) -> NoReturn:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        msg = f"the number {text[:30]} is out of range"
        raise ValueError(msg)
    return number


def _bounded(text: str) -> int:
    _finite(text)  # so that every number can be compared with a float
    return int(text)


def is_count(value: object) -> TypeGuard[int]:
    """Tell whether a JSON value is a whole number of at least 0; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a JSON value is a number; true and false are none. `parse_json` lets finite ones through alone."""
    return isinstance(value, int | float) and not isinstance(value, bool)
