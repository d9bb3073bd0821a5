"""Read a bundle that anyone may have written: strictly, without loading its backbone."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from safetensors import SafetensorError

from feclip.bundle.bundle import Bundle
from feclip.bundle.layout import (
    ADAPTERS_FILE,
    CALIBRATION_FILE,
    CONFIG_FILE,
    IMAGE_COLUMNS,
    IMAGES_FILE,
    LINEAGE_FILE,
    MAX_FILE_BYTES,
    METRICS_FILE,
    OPTIONAL_FILES,
    model_id_of,
)
from feclip.bundle.lineage import Lineage, read_lineage
from feclip.bundle.memory_bank import BANK_FILE, BANK_RECORD_FILE, StoredBank, read_bank
from feclip.bundle.record import (
    INPUT_FIELDS,
    LATER_MODEL_FIELDS,
    PATCH_FIELD,
    check_record,
    parse_object,
    read_epochs,
)
from feclip.calibration import Calibration, read_calibration
from feclip.config import ModelConfig
from feclip.data import MAX_JSON_BYTES, exists, join_uri, parse_parquet, read_bytes
from feclip.errors import BundleError

if TYPE_CHECKING:  # a process that needs no model does without torch: docs/adr/0020
    import torch

__all__ = ["read_bundle", "read_record"]


def read_bundle(uri: str) -> Bundle:
    """Read and check a bundle without loading its backbone.

    Raises:
        BundleError: If there is none, a field is missing, unknown or out of range, or a file is not the one that
            config.json names.
        StorageError: If the storage cannot be read.
    """
    where = join_uri(uri, CONFIG_FILE)
    record, model = read_record(uri)
    files = {name: _checked(join_uri(uri, name), sha256=digest) for name, digest in record["files"].items()}
    adapters = _read_adapters(files[ADAPTERS_FILE], where=join_uri(uri, ADAPTERS_FILE))
    bank = _bank(files, uri=uri, num_taps=len(record["tap_blocks"]))
    if record["model_id"] != model_id_of(record, adapters, bank=bank):
        msg = f"{where}: model_id is not the digest of what the bundle holds; write the bundle again."
        raise BundleError(msg)
    metrics = join_uri(uri, METRICS_FILE)
    return Bundle(
        uri=uri,
        model=model,
        input={name: record["input"][name] for name in INPUT_FIELDS},
        patch_size=record["input"].get(PATCH_FIELD),
        model_id=record["model_id"],
        backbone_digest=record["backbone_digest"],
        adapters=adapters,
        images=_read_images(files[IMAGES_FILE], where=join_uri(uri, IMAGES_FILE)),
        metrics=read_epochs(parse_object(files[METRICS_FILE], where=metrics), where=metrics),
        training=record["training"],
        calibration=_calibration(files.get(CALIBRATION_FILE), uri=uri, model_id=record["model_id"]),
        memory_bank=bank,
        lineage=_lineage(files.get(LINEAGE_FILE), where=join_uri(uri, LINEAGE_FILE)),
    )


def read_record(uri: str) -> tuple[dict[str, Any], ModelConfig]:
    """Return what config.json holds, checked, and the config of the model."""
    where = join_uri(uri, CONFIG_FILE)
    if not exists(where):
        msg = f"{uri} holds no bundle: {CONFIG_FILE} is missing there."
        raise BundleError(msg)
    record = parse_object(read_bytes(where, max_bytes=MAX_JSON_BYTES), where=where)
    files = (ADAPTERS_FILE, IMAGES_FILE, METRICS_FILE)
    model = check_record(record, files=files, optional_files=OPTIONAL_FILES, where=where)
    return record | {"model": dict(LATER_MODEL_FIELDS) | record["model"]}, model


def _bank(files: Mapping[str, bytes], *, uri: str, num_taps: int) -> StoredBank | None:
    named = [name for name in (BANK_FILE, BANK_RECORD_FILE) if name in files]
    if not named:
        return None
    if len(named) == 1:
        msg = f"{uri} has {named[0]} but not both files of a memory bank; calibrate again."
        raise BundleError(msg)
    record = parse_object(files[BANK_RECORD_FILE], where=join_uri(uri, BANK_RECORD_FILE))
    return read_bank(record, files[BANK_FILE], num_taps=num_taps, where=uri)


def _read_adapters(content: bytes, *, where: str) -> dict[str, "torch.Tensor"]:
    import torch  # noqa: PLC0415 - see docs/adr/0020
    from safetensors.torch import load  # noqa: PLC0415 - see docs/adr/0020

    try:
        adapters = load(content)
    except (SafetensorError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        msg = f"{where} is a damaged file: {' '.join(str(error).split())}"
        raise BundleError(msg) from error
    for name, tensor in adapters.items():
        if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
            msg = f"{where}: {name[:100]} must be of finite float32 numbers; train it again."
            raise BundleError(msg)
    return adapters


def _read_images(content: bytes, *, where: str) -> pa.Table:
    try:
        images = parse_parquet(content)
    except ValueError as error:
        msg = f"{where}: {error}; write the bundle again."
        raise BundleError(msg) from error
    for field in IMAGE_COLUMNS:
        if images.column_names.count(field.name) != 1 or images.schema.field(field.name).type != field.type:
            msg = f"{where} has no column {field.name} of type {field.type}; write the bundle again."
            raise BundleError(msg)
    return images


def _calibration(content: bytes | None, *, uri: str, model_id: str) -> Calibration | None:
    if content is None:
        return None
    where = join_uri(uri, CALIBRATION_FILE)
    calibration = read_calibration(parse_object(content, where=where), where=where)
    if calibration.model_id != model_id:
        msg = f"{where} is of model {calibration.model_id[:12]}, the bundle of {model_id[:12]}; calibrate again."
        raise BundleError(msg)
    return calibration


def _lineage(content: bytes | None, *, where: str) -> Lineage | None:
    return None if content is None else read_lineage(parse_object(content, where=where), where=where)


def _checked(uri: str, *, sha256: str) -> bytes:
    if not exists(uri):
        msg = f"{uri} is missing, so the bundle is incomplete; write it again."
        raise BundleError(msg)
    content = read_bytes(uri, max_bytes=MAX_FILE_BYTES)
    if hashlib.sha256(content).hexdigest() != sha256:
        msg = f"{uri} is not the file that {CONFIG_FILE} names (sha256 differs); write the bundle again."
        raise BundleError(msg)
    return content
