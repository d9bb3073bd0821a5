"""A config as plain values: by its dotted names, and by what differs from another."""

import dataclasses
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

__all__ = ["changed_fields", "flat_fields", "plain"]


def plain(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any config
    """Return a config as JSON values: nested dictionaries, lists, strings and numbers.

    Example:
        >>> from feclip.config import LossConfig
        >>> plain(LossConfig())["focal_alpha"]
        0.25
    """

    def value(item: Any) -> Any:  # noqa: ANN401 - a JSON value
        if isinstance(item, Mapping):
            return {key: value(inner) for key, inner in item.items()}
        if isinstance(item, tuple):
            return list(item)
        return str(item) if isinstance(item, StrEnum) else item

    return {key: value(inner) for key, inner in dataclasses.asdict(config).items()}


def flat_fields(values: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted name, value)`` for the leaves of a plain config.

    Example:
        >>> dict(flat_fields({"optim": {"epochs": 9}, "seed": 0}))
        {'optim.epochs': 9, 'seed': 0}
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat_fields(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return ``{dotted name: (old value, new value)}`` for the fields in which two plain configs differ.

    Example:
        >>> changed_fields({"optim": {"epochs": 2}}, {"optim": {"epochs": 3}})
        {'optim.epochs': (2, 3)}
    """
    before, after = dict(flat_fields(old)), dict(flat_fields(new))
    return {
        name: (before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }
