"""Which config fields a sweep may search, and a config with some of them set by their dotted names."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from feclip.config import (
    SPEED_FIELDS,
    FinetuneConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    flat_fields,
    parse_fields,
    plain,
)
from feclip.errors import ConfigError

__all__ = ["SEARCHABLE_FIELDS", "require_searchable", "with_values"]

SEARCHED_GROUPS = {"model": ModelConfig, "loss": LossConfig, "optim": OptimConfig}
KEPT_FIELDS = {
    "model.backbone": "the number of blocks and the weights hang on it, so give each backbone a sweep of its own",
    "model.pretrained": "the weights belong to the backbone, so give each its own sweep",
    "model.init_seed": "a seed is no choice",
    "optim.epochs": "trials are compared after the same number of epochs",
    "optim.patience": "it ends the tuning of a parent, and a trial has none",
    **dict.fromkeys(SPEED_FIELDS, "it changes no trial beyond rounding"),
}
SEARCHABLE_FIELDS = tuple(
    name
    for group, config_class in SEARCHED_GROUPS.items()
    for name in (f"{group}.{field.name}" for field in dataclasses.fields(config_class))
    if name not in KEPT_FIELDS
)


def require_searchable(name: str, *, where: str) -> None:
    """Check that a sweep may search the field ``name``.

    Args:
        name: Dotted name.
        where: File that names it, for the message.

    Raises:
        ConfigError: If there is no such field, or a sweep must leave it alone.
    """
    if name in SEARCHABLE_FIELDS:
        return
    if name in KEPT_FIELDS:
        msg = f"{where}: {name} cannot be searched: {KEPT_FIELDS[name]}."
        raise ConfigError(msg)
    known = dict(flat_fields(plain(FinetuneConfig(output="-", optim=OptimConfig(epochs=0)))))
    if name in known:
        msg = f"{where}: {name} cannot be searched: trials share the data, the seed and the cluster, or differ in more."
        raise ConfigError(msg)
    close = difflib.get_close_matches(name, SEARCHABLE_FIELDS, n=2)
    hint = f"did you mean {' or '.join(close)}?" if close else "see jobs/finetune.py --print_config=comments."
    msg = f"{where}: {name} is no config field; {hint}"
    raise ConfigError(msg)


def with_values(config: FinetuneConfig, values: Mapping[str, Any]) -> FinetuneConfig:
    """Return ``config`` with fields set by their dotted names; each value is read as a flag's or a file's would be.

    Raises:
        ConfigError: If a name is no field, or a value is not what its field takes.

    Example:
        >>> config = FinetuneConfig(output="/runs/first", optim=OptimConfig(epochs=0))
        >>> with_values(config, {"model.tap_blocks": "2,5", "loss.dice_weight": 2}).model.tap_blocks
        (2, 5)
    """
    nested = plain(config)
    known = dict(flat_fields(nested))
    for name, value in values.items():
        if name not in known:
            msg = f"{name} is no config field."
            raise ConfigError(msg)
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner[group]
        inner[last] = value
    try:
        return parse_fields(FinetuneConfig, nested)
    except ValueError as error:
        msg = f"{', '.join(f'{name} = {value!r}' for name, value in values.items())}: {error}"
        raise ConfigError(msg) from error
