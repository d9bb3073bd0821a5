"""A search space: config fields and the distributions their values come from, read strictly from YAML.

    model.ffe_window_size: {int: [2, 5]}                        whole numbers, both ends included
    model.num_taps: {int: [1, 8], bounded_by: blocks}           the upper end is at most the backbone's blocks
    model.fusion_weight: {loguniform: [0.01, 1.0]}              even in the logarithm
    loss.focal_gamma: {uniform: [0.0, 4.0]}
    model.padding: {choice: [ignore, masked, attention]}        one of these; lists are text: "3,4,5"

Nothing is clipped in silence: an end that the backbone lowers was asked to be lowered, and is logged.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Self

from yaml import YAMLError

from feclip.building import check_model
from feclip.config import FinetuneConfig, load_yaml
from feclip.data import read_bytes
from feclip.errors import ConfigError
from feclip.tuning.fields import require_searchable, with_values

__all__ = ["Dimension", "Kind", "SearchSpace", "fitted_space", "parse_space", "read_space"]

logger = logging.getLogger(__name__)

BOUND_KEY = "bounded_by"
BLOCKS = "blocks"
BOUNDED_FIELD = "model.num_taps"  # the one field that counts blocks
NUM_ENDS = 2

Value = bool | int | float | str


class Kind(StrEnum):
    """How values are drawn."""

    uniform = "uniform"
    loguniform = "loguniform"
    int = "int"
    choice = "choice"


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One searched field."""

    field: str
    """Dotted config field."""
    kind: Kind
    """How its values are drawn."""
    values: tuple[Value, ...]
    """The two ends, both included; or the choices."""
    bounded: bool = False
    """Whether the upper end is at most the number of the backbone's blocks."""

    def plain(self) -> dict[str, Any]:
        """Return what the YAML file says of the field."""
        return {str(self.kind): list(self.values)} | ({BOUND_KEY: BLOCKS} if self.bounded else {})


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The fields that a sweep searches."""

    name: str
    """Name of its file, without folder and ending."""
    dimensions: tuple[Dimension, ...]
    """One per field, in the order of the file."""

    def plain(self) -> dict[str, Any]:
        """Return the content of the YAML file, as it would be written."""
        return {dimension.field: dimension.plain() for dimension in self.dimensions}

    @property
    def fields(self) -> tuple[str, ...]:
        """Dotted names of the searched fields."""
        return tuple(dimension.field for dimension in self.dimensions)

    def bounded_by(self, num_blocks: int, *, where: str) -> Self:
        """Return the space with upper ends lowered to ``num_blocks`` where the file asks for it; each is logged.

        Raises:
            ConfigError: If a lower end is above it too.
        """
        bounded = []
        for dimension in self.dimensions:
            low, high = (dimension.values[0], dimension.values[-1]) if dimension.bounded else (0, 0)
            assert isinstance(low, int)
            assert isinstance(high, int)
            if low > num_blocks:
                msg = f"{where}: {dimension.field} starts at {low}, but the backbone has {num_blocks} blocks."
                raise ConfigError(msg)
            if high > num_blocks:
                logger.info("%s goes to %d, since the backbone has so many blocks.", dimension.field, num_blocks)
                dimension = dataclasses.replace(dimension, values=(low, num_blocks))  # noqa: PLW2901 - one of a list
            bounded.append(dimension)
        return dataclasses.replace(self, dimensions=tuple(bounded))


def read_space(uri: str) -> SearchSpace:
    """Read a search space.

    Args:
        uri: Path or URI of a YAML file.

    Raises:
        ConfigError: If it is no YAML, a key is no field that may be searched, or a distribution is not what it must be.
        StorageError: If it cannot be read.
    """
    try:
        content = load_yaml(read_bytes(uri))
    except YAMLError as error:
        msg = f"{uri} is no search space: {' '.join(str(error).split())}."
        raise ConfigError(msg) from error
    return parse_space(content, name=PurePosixPath(uri).stem, where=uri)


def parse_space(content: object, *, name: str, where: str) -> SearchSpace:
    """Return the search space that a YAML file or a sweep's record holds.

    Args:
        content: ``{dotted field: {distribution: values}}``.
        name: Name of the space.
        where: Where it stands, for messages.

    Raises:
        ConfigError: As :func:`read_space`.

    Example:
        >>> parse_space({"loss.focal_gamma": {"uniform": [0, 4]}}, name="example", where="-").fields
        ('loss.focal_gamma',)
    """
    if not isinstance(content, Mapping) or not content:
        msg = f"{where} must hold fields and distributions, like model.fusion_weight: {{loguniform: [0.01, 1.0]}}."
        raise ConfigError(msg)
    return SearchSpace(
        name=name, dimensions=tuple(_dimension(str(field), said, where=where) for field, said in content.items())
    )


def fitted_space(space: SearchSpace, config: FinetuneConfig, *, where: str) -> SearchSpace:
    """Return the space as the backbone bounds it, after building the config at every end and with every choice.

    Args:
        space: The space.
        config: What the trials vary.
        where: Where the space stands, for messages.

    Raises:
        ConfigError: If a value is none that its field or the backbone can take, or a field would have no effect.
    """
    if BOUNDED_FIELD in space.fields and (config.model.tap_blocks is not None or "model.tap_blocks" in space.fields):
        msg = f"{where}: model.num_taps has no effect beside model.tap_blocks; leave one of them out."
        raise ConfigError(msg)
    space = space.bounded_by(check_model(config.model), where=where)
    for dimension in space.dimensions:
        for value in dimension.values:
            try:
                check_model(with_values(config, {dimension.field: value}).model)
            except ConfigError as error:
                msg = f"{where}: {dimension.field} cannot be {value!r}: {error}"
                raise ConfigError(msg) from error
    return space


def _dimension(field: str, said: object, *, where: str) -> Dimension:
    require_searchable(field, where=where)
    kinds = [key for key in said if key in list(Kind)] if isinstance(said, Mapping) else []
    if not isinstance(said, Mapping) or len(kinds) != 1 or set(said) - {*kinds, BOUND_KEY}:
        msg = (
            f"{where}: {field} must name one distribution of {', '.join(Kind)}, like {{uniform: [0, 1]}}; got {said!r}."
        )
        raise ConfigError(msg)
    kind, values = Kind(kinds[0]), said[kinds[0]]
    if not isinstance(values, list):
        msg = f"{where}: {field}: {kind} takes a list in brackets, got {values!r}."
        raise ConfigError(msg)
    if BOUND_KEY in said and (said[BOUND_KEY] != BLOCKS or field != BOUNDED_FIELD or kind is not Kind.int):
        msg = f"{where}: {field}: {BOUND_KEY} is known as '{BLOCKS}' for an int of {BOUNDED_FIELD} only."
        raise ConfigError(msg)
    read = _choices(values, at=f"{where}: {field}") if kind is Kind.choice else _ends(kind, values, f"{where}: {field}")
    return Dimension(field=field, kind=kind, values=read, bounded=BOUND_KEY in said)


def _choices(values: list[object], *, at: str) -> tuple[Value, ...]:
    scalars = tuple(value for value in values if isinstance(value, bool | int | float | str))
    if not values or len(scalars) < len(values):
        msg = f"{at}: choice takes numbers, words, true or false, and lists as text ('3,4,5'); got {values!r}."
        raise ConfigError(msg)
    if len({(type(value), value) for value in scalars}) < len(scalars):
        msg = f"{at}: choice names a value twice: {values!r}."
        raise ConfigError(msg)
    return scalars


def _ends(kind: Kind, values: list[object], at: str) -> tuple[Value, ...]:
    ends = tuple(_number(value, kind=kind, at=at) for value in values)
    if len(ends) != NUM_ENDS or not ends[0] < ends[1]:
        msg = f"{at}: {kind} takes two ends, the lower first, like [1, 4]; got {values!r}."
        raise ConfigError(msg)
    if kind is Kind.loguniform and ends[0] <= 0:
        msg = f"{at}: loguniform needs a lower end above 0, got {values!r}."
        raise ConfigError(msg)
    return ends


def _number(value: object, *, kind: Kind, at: str) -> int | float:
    """Return an end; YAML takes 1e-3 for text, so text that reads as a number is one."""
    if kind is Kind.int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        msg = f"{at}: int takes whole numbers, got {value!r}."
        raise ConfigError(msg)
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        msg = f"{at}: {kind} takes finite numbers, got {value!r}."
        raise ConfigError(msg)
    return number
