"""YAML from files that anyone may have written: plain values, each said once, no references, one kind of error."""

from collections.abc import Mapping
from typing import Any

import yaml

__all__ = ["EndlessYamlError", "is_endless", "load_yaml", "require_plain_yaml"]

MAX_CHARACTERS = 1 << 20
"""Longest text that is read; a config of ours has some thousand."""
MAX_DEPTH = 32
"""Deepest nesting of lists and mappings; a config of ours has three."""


class EndlessYamlError(yaml.YAMLError):  # type: ignore[misc] # PyYAML has no types
    """A text that would take more memory or stack than there is, were it read."""


def require_plain_yaml(text: str) -> None:
    """Refuse what a config never needs: references, by which a few lines become gigabytes, and endless nesting.

    Raises:
        yaml.YAMLError: If the text is no YAML, or a key stands twice in one mapping, of which YAML would keep the last.
        EndlessYamlError: If it is too long, nested too deeply, or holds a reference (``*name``).
    """
    _refuse_endless(text)
    _refuse_repeats(yaml.compose(text, Loader=yaml.SafeLoader))


def is_endless(value: object) -> bool:
    """Tell whether a text in plain values would be endless, were it read as YAML.

    jsonargparse reads the text of a field that takes no text as YAML, with a parser that a deep nesting crashes, and
    then repeats what it read in its message, which references make longer than any memory.
    """
    if isinstance(value, str):
        return len(value) > MAX_DEPTH and _is_endless_text(value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    try:
        return any(map(is_endless, inner))
    except RecursionError:
        return True


def _is_endless_text(text: str) -> bool:
    try:
        _refuse_endless(text)
    except EndlessYamlError:
        return True
    except yaml.YAMLError:  # then jsonargparse cannot read it either
        return False
    return False


def _refuse_endless(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        msg = f"{len(text)} characters are more than the {MAX_CHARACTERS} that are read"
        raise EndlessYamlError(msg)
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            msg = f"*{event.anchor} is a reference; write out what it stands for"
            raise EndlessYamlError(msg)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            msg = f"it is nested more than {MAX_DEPTH} deep"
            raise EndlessYamlError(msg)


def _refuse_repeats(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            msg = f"{', '.join(repeated)} stands there twice"
            raise yaml.YAMLError(msg)
        for _, value in node.value:
            _refuse_repeats(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeats(value)


def load_yaml(content: bytes) -> Any:  # noqa: ANN401 - any YAML value
    """Return the values of a YAML text in UTF-8.

    Raises:
        yaml.YAMLError: If it is no such text, or `require_plain_yaml` refuses it.

    Example:
        >>> load_yaml(b"seed: 1")
        {'seed': 1}
    """
    try:
        text = content.decode("utf-8-sig")
        require_plain_yaml(text)
        return yaml.safe_load(text)
    except (
        AttributeError,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:  # SafeLoader's constructors let these through
        msg = f"a value cannot be read ({error})"
        raise yaml.YAMLError(msg) from error
