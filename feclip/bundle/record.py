"""What config.json of a bundle must be: read strictly, since anyone may have written it.

Every field is there, no other, each of its type and in its range, and ``record_sha256`` is the digest of all others: a
changed character is an error even where it changes no score.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from feclip import __version__
from feclip.config import FinetuneConfig, ModelConfig, Resize, parse_fields
from feclip.data import InputOptions, is_count, is_number, parse_json
from feclip.errors import BundleError

__all__ = [
    "INPUT_FIELDS",
    "LATER_MODEL_FIELDS",
    "PATCH_FIELD",
    "SCHEMA",
    "check_record",
    "encode_json",
    "parse_object",
    "read_epochs",
    "recorded_prompts",
    "sealed",
]

SCHEMA = 5
UNSEALED_SCHEMA = 3
"""The first schema that is read; it differs from 4 by the digest of the record, which it lacks."""
LATER_MODEL_FIELDS: Mapping[str, Any] = MappingProxyType(
    {"prompts": "paper", "nouns": None, "noun_column": "category", "learned_vectors": 0}
)
"""Fields of the model that came with schema 5, and what they are in bundles before."""
RECORD_DIGEST = "record_sha256"
CONFIG_KEYS = (
    "backbone_digest",
    "feclip_version",
    "files",
    "input",
    "model",
    "model_id",
    "prompts",
    RECORD_DIGEST,
    "schema",
    "tap_blocks",
    "training",
)
INPUT_FIELDS = ("resize", "padding_color", "valid_region", "jpeg_decoding")  # fields of DataConfig that change a score
PATCH_FIELD = "patch_size"
"""Beside them where images become rectangles of whole patches, pixels."""
MAX_TEXT = 4096  # characters
MAX_EPOCHS = 1_000_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


def encode_json(value: object) -> bytes:
    """Return a record as the bytes of its file; equal values have equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the digest of its other fields."""
    fields = {key: value for key, value in record.items() if key != RECORD_DIGEST}
    return fields | {RECORD_DIGEST: hashlib.sha256(encode_json(fields)).hexdigest()}


def parse_object(content: bytes, *, where: str) -> dict[str, Any]:
    """Return the JSON object that a file of a bundle holds.

    Raises:
        BundleError: If it holds none.
    """
    try:
        parsed = parse_json(content)
    except ValueError as error:
        msg = f"{where} is no JSON: {error}"
        raise BundleError(msg) from error
    if not isinstance(parsed, dict):
        msg = f"{where} must hold a JSON object, got {type(parsed).__name__}."
        raise BundleError(msg)
    return parsed


def check_record(
    record: Mapping[str, Any], *, files: tuple[str, ...], optional_files: tuple[str, ...], where: str
) -> ModelConfig:
    """Check the record of a bundle, and return the config of its model.

    Args:
        record: As `parse_object` returned it.
        files: Files that it must name.
        optional_files: Files that it may name.
        where: What errors call it.

    Raises:
        BundleError: If a field is missing, unknown, of another type or out of range, or was changed.
    """
    schema = record.get("schema")
    if isinstance(schema, bool) or schema not in range(UNSEALED_SCHEMA, SCHEMA + 1):
        msg = f"{where} has schema {schema!r}; this feclip {__version__} reads schema {SCHEMA}: train it again."
        raise BundleError(msg)
    require_keys(record, [key for key in CONFIG_KEYS if key != RECORD_DIGEST or schema != UNSEALED_SCHEMA], where=where)
    if schema != UNSEALED_SCHEMA and record[RECORD_DIGEST] != sealed(record)[RECORD_DIGEST]:
        msg = f"{where} was changed: {RECORD_DIGEST} is not the digest of its other fields; write the bundle again."
        raise BundleError(msg)
    named = record["files"]
    optional = tuple(name for name in optional_files if isinstance(named, Mapping) and name in named)
    require_keys(named, (*files, *optional), where=f"{where}: files")
    for name in ("backbone_digest", "model_id"):
        _require(isinstance(record[name], str) and _DIGEST.fullmatch(record[name]), f"{where}: {name}", "a sha256")
    for name, digest in named.items():
        _require(isinstance(digest, str) and _DIGEST.fullmatch(digest), f"{where}: files.{name}", "a sha256")
    taps = record["tap_blocks"]
    _require(
        isinstance(taps, list) and taps and all(map(_is_index, taps)) and taps == sorted(set(taps)),
        f"{where}: tap_blocks",
        "ascending zero-based blocks",
    )
    _require(_is_text(record["feclip_version"]), f"{where}: feclip_version", "a text")
    later = () if schema == SCHEMA else LATER_MODEL_FIELDS
    model = _check_configs(record["model"], record["training"], later=later, where=where)
    _check_input(record["input"], image_size=model.image_size, where=f"{where}: input")
    if record["prompts"] != recorded_prompts(model):
        msg = f"{where}: prompts are not those of model.noun and model.prompts in this feclip; train it again."
        raise BundleError(msg)
    return model


def recorded_prompts(model: ModelConfig) -> list[Any]:
    """Return the sentences of ``model.noun`` as a bundle records them: a text or a list of texts for each state."""
    from feclip.model import build_prompts  # noqa: PLC0415 - see docs/adr/0020

    if model.learned_vectors:
        return [f"({model.learned_vectors} learned vectors) {state}{model.noun}" for state in ("", "damaged ")]
    states = build_prompts(model.noun, str(model.prompts))
    return [sentences[0] if len(sentences) == 1 else list(sentences) for sentences in states]


def read_epochs(record: Mapping[str, Any], *, where: str) -> list[dict[str, float]]:
    """Return what training measured, from the content of metrics.json.

    Raises:
        BundleError: If it is no list of numbers by name.
    """
    require_keys(record, ("epochs",), where=where)
    epochs = record["epochs"]
    _require(isinstance(epochs, list) and len(epochs) <= MAX_EPOCHS, f"{where}: epochs", "a list")
    for number, epoch in enumerate(epochs, start=1):
        is_record = isinstance(epoch, dict) and all(map(is_number, epoch.values()))
        _require(is_record, f"{where}: record {number} of epochs", "finite numbers by name")
    found: list[dict[str, float]] = epochs
    return found


def require_keys(found: object, expected: Sequence[str], *, where: str) -> None:
    """Refuse what is no JSON object of exactly these fields.

    Raises:
        BundleError: If a field is missing or unknown.
    """
    if not isinstance(found, Mapping):
        msg = f"{where} must be a JSON object, got {type(found).__name__}."
        raise BundleError(msg)
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        msg = f"{where}: missing fields {missing}, unknown fields {[name[:MAX_TEXT] for name in unknown]}."
        raise BundleError(msg)


def _check_input(found: object, *, image_size: int | None, where: str) -> None:
    is_rectangle = isinstance(found, Mapping) and found.get("resize") == Resize.rectangle
    require_keys(found, (*INPUT_FIELDS, PATCH_FIELD) if is_rectangle else INPUT_FIELDS, where=where)
    assert isinstance(found, Mapping)
    patch_size = found.get(PATCH_FIELD, 1)
    _require(_is_index(patch_size) and patch_size, f"{where}: {PATCH_FIELD}", "a number of pixels")
    try:
        InputOptions(image_size=image_size or patch_size, **found)
    except (AttributeError, TypeError, ValueError) as error:
        msg = f"{where}: {error}"
        raise BundleError(msg) from error


def _check_configs(model: object, training: object, *, later: Collection[str], where: str) -> ModelConfig:
    """Read the configs as flags are read; the training's is not kept, since what it says of old runs stays as it is."""
    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in later]
    require_keys(model, names, where=f"{where}: model")
    assert isinstance(model, Mapping)
    if not isinstance(training, Mapping):
        msg = f"{where}: training must be a JSON object, got {type(training).__name__}."
        raise BundleError(msg)
    try:
        config = parse_fields(ModelConfig, model)
        parse_fields(FinetuneConfig, {**training, "model": dict(model)})
    except ValueError as error:
        msg = f"{where}: {error}"
        raise BundleError(msg) from error
    return config


def _require(holds: object, name: str, rule: str) -> None:
    if not holds:
        msg = f"{name} must be {rule}."
        raise BundleError(msg)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


def _is_index(value: object) -> bool:
    return is_count(value) and value < MAX_TEXT
