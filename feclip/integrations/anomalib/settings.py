"""What a user gives `FeClip`, as the configs of the library; refused where the bridge does not do it."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from feclip.bundle import Bundle, read_bundle
from feclip.config import DataConfig, JpegDecoding, ModelConfig, OptimConfig, PrefixCache, Resize, parse_fields
from feclip.data import InputOptions, absolute_uri, local_path
from feclip.errors import ConfigError, DataError

__all__ = ["bank_group", "config_of", "input_options", "model_config", "optim_config", "read_given", "with_root"]

logger = logging.getLogger(__name__)

_Config = TypeVar("_Config")


def read_given(bundle: str | PurePath | None, *, model: object, data: object, group: str | None) -> Bundle | None:
    """Return the bundle for images of one group, None where there is none.

    Raises:
        BundleError: If there is no such bundle.
        ConfigError: If there are also fields that the bundle says, or it has nouns of groups and no group is given.
    """
    if bundle is None:
        return None
    if model is not None or data is not None:
        msg = "A bundle says its model and how images become inputs: give the bundle, or model and data."
        raise ConfigError(msg)
    return read_bundle(absolute_uri(str(bundle))).of_group(group, field="group")


def config_of(kind: type[_Config], values: _Config | Mapping[str, Any] | None) -> _Config:
    """Return a config as it is, or from plain values as a checkpoint has them.

    Raises:
        ConfigError: If a name is no field, or a value is not what its field takes.
    """
    if values is None:
        return kind()
    if not isinstance(values, Mapping):
        return values
    try:
        return parse_fields(kind, values)
    except ValueError as error:
        msg = f"{kind.__name__}: {error}"
        raise ConfigError(msg) from error


def model_config(given: ModelConfig | Mapping[str, Any] | None) -> ModelConfig:
    """Return what the model is.

    Raises:
        ConfigError: If groups of images are to have nouns of their own, or a value is not what its field takes.
    """
    config = config_of(ModelConfig, given)
    if config.nouns is not None:
        msg = "model.nouns names nouns of several groups, and anomalib trains on images of one: give model.noun."
        raise ConfigError(msg)
    return config.settled()


def optim_config(given: OptimConfig | Mapping[str, Any] | None, *, precision: str | None, trains: bool) -> OptimConfig:
    """Return the optimiser's settings.

    Args:
        given: What the user gave.
        precision: Number format of the trunk, where it was given apart.
        trains: Whether a model trains of which nothing was said.

    Raises:
        ConfigError: If they ask for what the bridge has not, or a value is not what its field takes.
    """
    usual = None if trains else {"epochs": 0}
    config = config_of(OptimConfig, usual if given is None else given)
    if config.prefix_cache is not PrefixCache.none:
        msg = f"optim.prefix_cache={config.prefix_cache} works in feclip's own training alone; take none here."
        raise ConfigError(msg)
    if config.patience is not None:
        msg = "optim.patience belongs to jobs/finetune.py with a parent; take Lightning's EarlyStopping here."
        raise ConfigError(msg)
    if precision is None:
        return config
    return config_of(OptimConfig, dataclasses.asdict(config) | {"precision": precision})


def bank_group(bundle: Bundle | None, group: str | None, *, trains: bool) -> int:
    """Return the zero-based group of a bundle's memory bank; 0 where it has no groups, or there is no bank.

    Args:
        bundle: The bundle.
        group: Name of the group.
        trains: Whether the adapters will change.

    Raises:
        ConfigError: If they will, and the bank would be of others.
        DataError: If the bank has no such group.
    """
    bank = None if bundle is None else bundle.memory_bank
    if bank is None or bundle is None:
        return 0
    if trains:
        msg = f"{bundle.uri} has a memory bank of its adapters' tokens: train the bundle that it was made of."
        raise ConfigError(msg)
    if bank.group_column is None:
        return 0
    if group not in bank.groups:
        known = ", ".join(map(repr, bank.groups))
        msg = f"the memory bank of {bundle.uri} has no {bank.group_column} {group!r}, only {known}; give one as group."
        raise DataError(msg)
    return list(bank.groups).index(group)


def input_options(model: ModelConfig, data: DataConfig) -> InputOptions:
    """Return how images become inputs.

    Raises:
        ConfigError: If they would be of many shapes, which anomalib does not stack.
    """
    assert model.image_size is not None  # settled
    if data.resize is Resize.rectangle:
        msg = (
            "data.resize=rectangle makes inputs of many shapes, and anomalib stacks one; take letterbox or squash here."
        )
        raise ConfigError(msg)
    if data.jpeg_decoding is JpegDecoding.scaled:
        logger.warning(
            "The bundle decodes large JPEGs at a fraction of their size, anomalib decodes them whole: scores differ a "
            "little from those of a scoring job."
        )
    return InputOptions(
        image_size=model.image_size,
        resize=str(data.resize),
        padding_color=data.padding_color,
        valid_region=str(data.valid_region),
    )


def with_root(data: DataConfig, *, uris: Sequence[str]) -> DataConfig:
    """Return where the images lie that trained, for a bundle; their common folder, where nobody said it."""
    if data.root is not None or not uris:
        return data
    return dataclasses.replace(data, root=os.path.commonpath([os.path.dirname(local_path(uri)) for uri in uris]))  # noqa: PTH120 - of many
