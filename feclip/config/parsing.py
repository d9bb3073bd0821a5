"""From plain values, as a bundle, a record or a YAML file holds them, to a checked config."""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, get_loader, set_loader, set_parsing_settings
from jsonargparse._common import parsing_settings  # there is no other way to put settings back
from jsonargparse._loaders_dumpers import get_loader_exceptions
from yaml import YAMLError

from feclip.config.checks import holds_credentials
from feclip.config.strict_yaml import is_endless, require_plain_yaml
from feclip.errors import folded

__all__ = ["ENDLESS_TEXT", "UNFIT_VALUES", "parse_fields", "strict_parsing", "unfit_reason"]

MAX_MESSAGE = 300  # characters of a parser's message; it repeats the value and the type at length
UNFIT_VALUES = (ArgumentError, AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
"""What jsonargparse raises for values that are no config."""

ENDLESS_TEXT = "a text must not be nested deeply or hold references (*name), as YAML has them"

_LOCK = threading.RLock()
_Config = TypeVar("_Config")


@contextmanager
def strict_parsing() -> Iterator[None]:
    """Make parsers strict within a ``with`` block, for values from strangers; those of others are as before after it.

    No value may name something to import: jsonargparse would import the module of a ``class_path`` before it looks
    whether the field takes a class. YAML is read as `require_plain_yaml` allows it. What jsonargparse knows of this it
    keeps for the whole process, in which a program that calls us may have parsers of its own.
    """
    with _LOCK:
        settings, loader, exceptions = dict(parsing_settings), get_loader("yaml"), get_loader_exceptions("yaml")
        set_parsing_settings(import_path_denylist=["*"], docstring_parse_attribute_docstrings=True)
        set_loader("yaml", functools.partial(_load, loader), exceptions=(YAMLError,))
        try:
            yield
        finally:
            parsing_settings.clear()
            parsing_settings.update(settings)
            set_loader("yaml", loader, exceptions=exceptions)


def _load(loader: Callable[[str], Any], text: str) -> Any:  # noqa: ANN401 - any YAML value
    require_plain_yaml(text)
    if holds_credentials(text):
        msg = "a URI must not hold credentials; they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise YAMLError(msg)
    try:
        values = loader(text)
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        msg = f"a value cannot be read ({error})"
        raise YAMLError(msg) from error
    if is_endless(values):
        raise YAMLError(ENDLESS_TEXT)
    return values


def parse_fields(config_class: type[_Config], values: Mapping[str, Any]) -> _Config:
    """Return the config whose fields have these values, each read as a flag's or a file's would be.

    Args:
        config_class: One of the dataclasses of :mod:`feclip.config`.
        values: Fields by name, nested as they are; those that are absent have their defaults.

    Raises:
        ValueError: If a name is no field, or a value is not what its field takes; in one line.
    """
    if is_endless(values):
        raise ValueError(ENDLESS_TEXT)
    try:
        with strict_parsing():
            parser = ArgumentParser(exit_on_error=False)
            parser.add_class_arguments(config_class)
            return config_class(**vars(parser.instantiate(parser.parse_object(dict(values)))))
    except UNFIT_VALUES as error:
        raise ValueError(unfit_reason(error)[:MAX_MESSAGE]) from error


def unfit_reason(error: Exception) -> str:
    """Say in one line why values are no config.

    Args:
        error: One of `UNFIT_VALUES`.
    """
    if isinstance(error, ImportError):  # which jsonargparse's refusal to import is too
        return "a field holds plain values, and no class_path that names something to import."
    return folded(str(error)) or type(error).__name__
