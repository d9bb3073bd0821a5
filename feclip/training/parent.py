"""The parent of a tuned bundle: what a run takes from it, and what its images may still do."""

import dataclasses
import logging
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feclip.bundle import IMAGE_COLUMNS, INPUT_FIELDS, Bundle, read_bundle
from feclip.config import DataConfig, FinetuneConfig, ModelConfig, parse_fields
from feclip.data import find_known
from feclip.errors import ConfigError, DataError, RunError

__all__ = ["all_images", "claimed_parent", "inherited", "require_unseen", "trained_images"]

logger = logging.getLogger(__name__)

TRAINED, CALIBRATED = "trained", "calibrated"


def inherited(config: FinetuneConfig, parent: Bundle) -> FinetuneConfig:
    """Return a run's config with the model of its parent, and with its way from images to inputs.

    A field that has its default counts as not given.

    Raises:
        ConfigError: If a field was given another value than the parent's; each is named.
        DataError: If the parent has a memory bank, whose tokens are those of its own adapters.
    """
    if parent.memory_bank is not None:
        msg = (
            f"The parent {parent.uri} has a memory bank, whose tokens would no longer be those of the tuned adapters: "
            "tune the bundle that the bank was added to, and make the bank anew."
        )
        raise DataError(msg)
    usual = ModelConfig(backbone=config.model.backbone).settled()
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    changes = _given_otherwise("model", config.model, parent.model, usual=usual, names=names)
    data = parse_fields(DataConfig, parent.input)
    changes += _given_otherwise("data", config.data, data, usual=DataConfig(), names=INPUT_FIELDS)
    if changes:
        msg = f"The model and its inputs are those of the parent {parent.uri}: {'; '.join(changes)}. Leave them out."
        raise ConfigError(msg)
    own = {name: getattr(data, name) for name in INPUT_FIELDS}
    return dataclasses.replace(config, model=parent.model, data=dataclasses.replace(config.data, **own))


def _given_otherwise(group: str, given: Any, own: Any, *, usual: Any, names: Any) -> list[str]:  # noqa: ANN401 - configs
    return [
        f"{group}.{name} is {getattr(own, name)!s} there, given {getattr(given, name)!s}"
        for name in names
        if getattr(given, name) not in (getattr(own, name), getattr(usual, name))
    ]


def claimed_parent(config: FinetuneConfig, *, model_id: str | None) -> Bundle | None:
    """Return the parent that a run was claimed with; None for a run without one.

    Raises:
        BundleError: If it cannot be read.
        RunError: If another bundle stands in its place.
    """
    if config.parent is None:
        return None
    parent = read_bundle(config.parent)
    if parent.model_id != model_id:
        msg = f"The parent {config.parent} was replaced while it was tuned; submit the same command again."
        raise RunError(msg)
    return parent


def trained_images(parent: Bundle) -> pa.Table:
    """Return the images that trained a parent, or one of its own parents; `IMAGE_COLUMNS`."""
    return parent.images.filter(pc.field("role") == TRAINED).select(IMAGE_COLUMNS.names).cast(IMAGE_COLUMNS)


def require_unseen(images: pa.Table, parent: Bundle) -> None:
    """Refuse held-out images that trained the parent: the epoch is chosen on them, and the parent is a choice.

    Args:
        images: Held-out rows, inspected.
        parent: The bundle that is tuned.

    Raises:
        DataError: If there are any; in one line.
    """
    known = find_known(images, trained_images(parent))
    if known.num_rows:
        first = known.slice(0, 1).to_pylist()[0]
        msg = (
            f"{known.num_rows} of {images.num_rows} held-out images trained the parent {parent.uri}, first "
            f"{first['uri']}; hold out others: give the manifest a column split."
        )
        raise DataError(msg)


def all_images(parent: Bundle, *tables: pa.Table) -> pa.Table:
    """Return the images of a tuned bundle: those of its parent, and its own.

    Normals that calibrated the parent are left out: its thresholds do not pass on, and its weights never saw them.

    Args:
        parent: The bundle that was tuned.
        *tables: Inspected rows with their ``role``.
    """
    inherited_rows = parent.images.filter(pc.field("role") != CALIBRATED).select(IMAGE_COLUMNS.names)
    parts = [inherited_rows, *tables]
    return pa.concat_tables([part.cast(_nullable(part.schema)) for part in parts], promote_options="default")


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True).remove_metadata() for field in schema])
