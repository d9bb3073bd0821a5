"""Whose run an output is: the config and the images that it began with, so that only the same run goes on.

<output>/_run/run.json         the config; written last, so that a command with a mistake claims nothing
<output>/_run/images.parquet   the images that train or select, with their digests
<output>/_run/guard.parquet    the images of the old domain, where a parent is tuned
"""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from feclip import __version__
from feclip.bundle import CONFIG_FILE, read_bundle
from feclip.config import SPEED_FIELDS, FinetuneConfig, changed_fields, plain
from feclip.data import (
    MAX_JSON_BYTES,
    encode_parquet,
    exists,
    join_uri,
    parse_json,
    parse_parquet,
    read_bytes,
    write_bytes,
)
from feclip.errors import RunError

__all__ = ["RUN_FOLDER", "Claim", "read_images", "read_run_images", "require_same_images", "write_images"]

SCHEMA = 2
RUN_FOLDER = "_run"
CLAIM_FILE = "run.json"
IMAGES_FILE = "images.parquet"
GUARD_FILE = "guard.parquet"
EPOCHS_FIELD = "optim.epochs"
FREE_FIELDS = (*SPEED_FIELDS, "guard.fail_if_worse")
"""Fields that may change where a run goes on: they train no other model."""
IDENTITY_COLUMNS = ["uri", "split", "sha256", "mask_digest"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A run's hold on its output."""

    config: FinetuneConfig
    """The config that was submitted now."""
    parent_id: str | None = None
    """``model_id`` of the parent; None without one."""
    begun: bool
    """Whether an earlier submission of the same run stands in the output."""

    @classmethod
    def of(cls, config: FinetuneConfig, *, parent_id: str | None = None) -> "Claim":
        """Read who holds ``config.output`` and check that it is this run or nobody.

        Args:
            config: The run.
            parent_id: ``model_id`` of its parent.

        Raises:
            RunError: If the output belongs to a run with another config (each difference is named) or another parent,
                was trained for more epochs already, or holds a bundle that no run of ours left there.
        """
        where = join_uri(config.output, RUN_FOLDER, CLAIM_FILE)
        if not exists(where):
            if exists(join_uri(config.output, CONFIG_FILE)):
                msg = f"{config.output} holds a bundle of another origin; choose another output."
                raise RunError(msg)
            return cls(config=config, parent_id=parent_id, begun=False)
        claimed, claimed_id = _read(where)
        changes = changed_fields(claimed, plain(config))
        before, now = changes.pop(EPOCHS_FIELD, (0, 0))
        changes = {name: change for name, change in changes.items() if name not in FREE_FIELDS}
        if changes:
            listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changes.items())
            msg = f"{config.output} belongs to a run with another config: {listed}. Choose another output."
            raise RunError(msg)
        if now < before:
            msg = f"{config.output} is a run of {before} epochs; ask for {EPOCHS_FIELD} of at least that, got {now}."
            raise RunError(msg)
        if claimed_id != parent_id:
            msg = (
                f"{config.output} was tuned from model {str(claimed_id)[:12]!r}, but the parent {config.parent} is "
                f"model {str(parent_id)[:12]!r} now; restore it or choose another output."
            )
            raise RunError(msg)
        return cls(config=config, parent_id=parent_id, begun=True)

    @property
    def finished(self) -> bool:
        """Whether the bundle of this very config is there already."""
        if not self.begun or not exists(join_uri(self.config.output, CONFIG_FILE)):
            return False
        bundle = read_bundle(self.config.output)
        return bool(bundle.training["optim"]["epochs"] == self.config.optim.epochs)

    def take(self, images: pa.Table, *, guard: pa.Table | None = None) -> None:
        """Write the claim, or check that the images are those that the run began with.

        Args:
            images: Those that train or select.
            guard: Those of the old domain; None where there are none.

        Raises:
            RunError: If an image was added, removed or changed since.
        """
        for name, table in ((IMAGES_FILE, images), (GUARD_FILE, guard)):
            where = join_uri(self.config.output, RUN_FOLDER, name)
            if table is not None and table.num_rows and exists(where):
                require_same_images(read_images(where), table)
            elif table is not None:
                write_images(where, table)
        record = {"schema": SCHEMA, "feclip_version": __version__, "config": plain(self.config)}
        record |= {} if self.parent_id is None else {"parent_id": self.parent_id}
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        write_bytes(join_uri(self.config.output, RUN_FOLDER, CLAIM_FILE), text.encode())


def read_run_images(output: str) -> pa.Table:
    """Return the images of the run that holds ``output``."""
    return read_images(join_uri(output, RUN_FOLDER, IMAGES_FILE))


def read_images(uri: str) -> pa.Table:
    """Return the images of a run from their Parquet file.

    Raises:
        RunError: If it is damaged, or lacks what tells the images apart.
        StorageError: If it cannot be read.
    """
    try:
        images = parse_parquet(read_bytes(uri))
        images.select(IDENTITY_COLUMNS)
    except (ValueError, KeyError) as error:
        msg = f"{uri} does not hold the images of a run ({error}); choose another output."
        raise RunError(msg) from error
    return images


def write_images(uri: str, images: pa.Table) -> None:
    """Write the images of a run as a Parquet file, whole or not at all."""
    write_bytes(uri, encode_parquet(images))


def _read(where: str) -> tuple[dict[str, Any], str | None]:
    """Return the config of a claim, and the ``model_id`` of its parent."""
    try:
        record = parse_json(read_bytes(where, max_bytes=MAX_JSON_BYTES))
        claimed, schema, parent_id = record["config"], record["schema"], record.get("parent_id")
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        msg = f"{where} is no record of a run ({error!r}); choose another output."
        raise RunError(msg) from error
    if schema != SCHEMA or not isinstance(claimed, dict):
        msg = f"{where} is of schema {schema!r}, this feclip reads {SCHEMA}; choose another output."
        raise RunError(msg)
    return claimed, parent_id


def require_same_images(before: pa.Table, now: pa.Table) -> None:
    """Check that a run goes on with the images it began with.

    Raises:
        RunError: If an image was added, removed, changed, or has another split or mask.
    """

    def digests(table: pa.Table) -> dict[str, tuple[str, ...]]:
        columns = table.select(IDENTITY_COLUMNS).to_pydict()
        return {uri: tuple(found) for uri, *found in zip(*columns.values(), strict=True)}

    old, new = digests(before), digests(now)
    changed = sorted(uri for uri in old.keys() | new.keys() if old.get(uri) != new.get(uri))
    if changed:
        msg = (
            f"{len(changed)} images differ from those the run began with, first {changed[0]}; restore them or choose "
            "another output."
        )
        raise RunError(msg)
