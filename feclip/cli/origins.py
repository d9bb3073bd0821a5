"""Which file a value came from, for messages about it."""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from feclip.config import is_endless

__all__ = ["origin_of"]

_CONFIG = "--config"


def origin_of(message: str, argv: Sequence[str]) -> str | None:
    """Return the file and line that set the field of which a message speaks.

    Args:
        message: What is wrong.
        argv: The command line; later flags and files override earlier ones.

    Returns:
        ``file:line``, the line counted from one; None where no file has to do with it.
    """
    places: dict[str, str | None] = {}
    for flag, value in _flags(argv):
        if flag != _CONFIG:
            places[flag.removeprefix("--")] = None
            continue
        try:
            found = dict(_fields(value))
        except yaml.MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
            return f"{value}{line}"
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        places |= {name: f"{value}:{line}" for name, line in found.items()}
    named = [place for name, place in places.items() if place is not None and _is_named(name, message)]
    return named[0] if named else None


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in itertools.pairwise([*argv, ""]):
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            yield flag, value if equals else following


def _fields(path: str) -> Iterator[tuple[str, int]]:
    """Yield the dotted name and the line, from one, of each leaf of a YAML file."""
    text = Path(path).read_text(encoding="utf-8")
    pending = [] if is_endless(text) else [("", yaml.compose(text, Loader=yaml.SafeLoader))]
    while pending:
        prefix, node = pending.pop(0)
        if isinstance(node, yaml.MappingNode):
            pending += [(f"{prefix}.{key.value}".lstrip("."), value) for key, value in node.value]
        elif node is not None:
            yield prefix, node.start_mark.line + 1


def _is_named(name: str, message: str) -> bool:
    """Tell whether a message names a field, dotted or as the parser does: ``Group 'optim' ... option 'epoch'``."""
    if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", message):
        return True
    return all(re.search(rf"['\"]{re.escape(part)}['\"]", message) for part in name.split("."))
