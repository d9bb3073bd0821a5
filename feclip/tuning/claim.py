"""Whose sweep an output is: the config, the space and the images it began with, so that only the same sweep goes on.

<output>/_sweep/sweep.json       config and space; written last, so that a command with a mistake claims nothing
<output>/_sweep/images.parquet   the images that train and judge every trial, with their digests; no other split's
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from feclip import __version__
from feclip.config import SPEED_FIELDS, TuneConfig, changed_fields, parse_fields, plain
from feclip.data import MAX_JSON_BYTES, exists, join_uri, parse_json, read_bytes, write_bytes
from feclip.errors import RunError
from feclip.training import read_images, require_same_images, write_images
from feclip.tuning.record import SWEEP_FOLDER
from feclip.tuning.space import SearchSpace, parse_space

__all__ = ["SweepClaim", "read_sweep_images", "resumed_config"]

SCHEMA = 2
CLAIM_FILE = "sweep.json"
IMAGES_FILE = "images.parquet"
FREE_FIELDS = (
    "num_trials", "refit", "resume", "space", "tune.max_concurrent", "tune.cpus_per_trial", "tune.gpus_per_trial",
    *SPEED_FIELDS,
)  # fmt: skip
FREE_GROUP = "cluster."  # where a sweep runs changes a trial by rounding alone


@dataclass(frozen=True, kw_only=True)
class SweepClaim:
    """A sweep's hold on its output."""

    config: TuneConfig
    """What was submitted now."""
    space: SearchSpace
    """What is searched."""

    @classmethod
    def of(cls, config: TuneConfig, *, space: SearchSpace) -> Self:
        """Read who holds ``config.output`` and check that it is this sweep or nobody.

        Raises:
            RunError: If the output belongs to a sweep with another config or space; each difference is named.
        """
        where = join_uri(config.output, SWEEP_FOLDER, CLAIM_FILE)
        if exists(where):
            before, before_space = _read(where)
            changes = {
                name: change
                for name, change in changed_fields(plain(before), plain(config)).items()
                if name not in FREE_FIELDS and not name.startswith(FREE_GROUP)
            }
            changes |= {
                f"space: {name}": change
                for name, change in changed_fields(_by_field(before_space), _by_field(space)).items()
            }
            _refuse(changes, output=config.output)
            assert config.num_trials is not None
            assert before.num_trials is not None
            if config.num_trials < before.num_trials:
                msg = (
                    f"{config.output} is a sweep of {before.num_trials} trials; ask for num_trials of at least that, "
                    f"got {config.num_trials}."
                )
                raise RunError(msg)
        return cls(config=config, space=space)

    def take(self, images: pa.Table) -> None:
        """Write the claim, or check that the images are those that the sweep began with.

        Raises:
            RunError: If an image was added, removed or changed since.
        """
        where = join_uri(self.config.output, SWEEP_FOLDER, IMAGES_FILE)
        if exists(where):
            require_same_images(read_images(where), images)
        else:
            write_images(where, images)
        record = {
            "schema": SCHEMA,
            "feclip_version": __version__,
            "config": plain(dataclasses.replace(self.config, resume=False)),
            "space": {"name": self.space.name, "fields": self.space.plain()},
        }
        text = json.dumps(record, indent=1) + "\n"
        write_bytes(join_uri(self.config.output, SWEEP_FOLDER, CLAIM_FILE), text.encode())


def resumed_config(config: TuneConfig) -> tuple[TuneConfig, SearchSpace]:
    """Return the config and the space of the sweep in ``config.output``, for a config that says ``resume``.

    What was given beside ``output`` and ``resume`` is what differs from its default: more trials, another cluster and
    a refit are taken, everything else must be what the sweep began with.

    Raises:
        RunError: If there is no sweep, or something else was given; each difference is named.
    """
    where = join_uri(config.output, SWEEP_FOLDER, CLAIM_FILE)
    if not exists(where):
        msg = f"{config.output} holds no sweep to resume: {SWEEP_FOLDER}/{CLAIM_FILE} is missing there."
        raise RunError(msg)
    recorded, space = _read(where)
    began = plain(recorded)
    given = {
        name: value
        for name, (_, value) in changed_fields(plain(TuneConfig(output="-", resume=True)), plain(config)).items()
        if name not in {"output", "resume", "space"}
    }
    free = {name: value for name, value in given.items() if name in FREE_FIELDS or name.startswith(FREE_GROUP)}
    recorded_fields = changed_fields({}, began)
    changes = {
        name: (recorded_fields.get(name, (None, None))[1], value)
        for name, value in given.items()
        if name not in free and recorded_fields.get(name, (None, None))[1] != value
    }
    _refuse(changes, output=config.output)
    for name, value in free.items():
        inner = began
        *groups, last = name.split(".")
        for group in groups:
            inner = inner[group]
        inner[last] = value
    began["output"] = config.output  # it may have been moved as a whole
    return _config(began, where=where), space


def read_sweep_images(output: str) -> pa.Table:
    """Return the images that train and judge the trials of the sweep in ``output``."""
    return read_images(join_uri(output, SWEEP_FOLDER, IMAGES_FILE))


def _read(where: str) -> tuple[TuneConfig, SearchSpace]:
    try:
        record = parse_json(read_bytes(where, max_bytes=MAX_JSON_BYTES))
        schema, config, space = record["schema"], record["config"], record["space"]
        name, fields = space["name"], space["fields"]
    except (ValueError, TypeError, KeyError) as error:
        msg = f"{where} is no record of a sweep ({error!r}); choose another output."
        raise RunError(msg) from error
    if schema != SCHEMA:
        msg = f"{where} is of schema {schema!r}, this feclip reads {SCHEMA}; choose another output."
        raise RunError(msg)
    if not isinstance(config, dict) or not isinstance(name, str):
        msg = f"{where} is no record of a sweep; choose another output."
        raise RunError(msg)
    return _config(config, where=where), parse_space(fields, name=name, where=where)


def _config(values: Mapping[str, Any], *, where: str) -> TuneConfig:
    try:
        return parse_fields(TuneConfig, values)
    except ValueError as error:
        msg = f"{where}: {error}"
        raise RunError(msg) from error


def _by_field(space: SearchSpace) -> dict[str, str]:
    return {name: str(said) for name, said in space.plain().items()}


def _refuse(changes: Mapping[str, tuple[Any, Any]], *, output: str) -> None:
    if changes:
        listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changes.items())
        msg = f"{output} belongs to a sweep with another config: {listed}. Choose another output."
        raise RunError(msg)
