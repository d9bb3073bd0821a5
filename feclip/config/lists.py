"""Lists as users write them: ``a,b`` on the command line and in files (an unquoted ``[a,b]`` is a shell glob)."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from jsonargparse.typing import register_type

from feclip.calibration import Percentiles

__all__ = ["Indices", "Names", "Shares", "read_list", "write_list"]

_Item = TypeVar("_Item")


class Names(tuple[str, ...]):
    """Names, written ``a,b`` on the command line and in files (an unquoted ``[a,b]`` is a shell glob)."""

    __slots__ = ()


class Indices(tuple[int, ...]):
    """Zero-based indices, written ``5,11``."""

    __slots__ = ()


class Shares(tuple[float, ...]):
    """Fractions of a whole, written ``0.6,0.2,0.2``."""

    __slots__ = ()


def read_list(kind: Callable[[Iterable[Any]], tuple[_Item, ...]], item: Callable[[Any], _Item]) -> Callable[[Any], Any]:
    """Return what reads a list: from a text, or from the values of a file.

    Args:
        kind: Type of the list.
        item: Type of its items.
    """

    def read(value: str | float | Iterable[Any]) -> tuple[_Item, ...]:
        parts: Iterable[Any]
        if isinstance(value, str):
            parts = [part.strip() for part in value.strip().removeprefix("[").removesuffix("]").split(",")]
        elif isinstance(value, Iterable):
            parts = value
        else:
            parts = [value]
        if any(part == "" for part in parts):
            msg = f"expected values separated by commas, like a,b; got {value!r}"
            raise ValueError(msg)
        return kind(item(part) for part in parts)

    return read


def write_list(value: Iterable[Any]) -> str:
    """Return a list as it is written on the command line."""
    return ",".join(str(part) for part in value)


register_type(Names, serializer=write_list, deserializer=read_list(Names, str))
register_type(Indices, serializer=write_list, deserializer=read_list(Indices, int))
register_type(Shares, serializer=write_list, deserializer=read_list(Shares, float))
register_type(Percentiles, serializer=write_list, deserializer=read_list(Percentiles, str))
