"""Write a bundle: each file appears whole or not at all, and config.json last."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feclip import __version__
from feclip.bundle.bundle import Bundle
from feclip.bundle.layout import (
    ADAPTERS_FILE,
    BANK_ROLE,
    CALIBRATION_FILE,
    CONFIG_FILE,
    IMAGE_COLUMNS,
    IMAGES_FILE,
    LINEAGE_FILE,
    MAX_FILE_BYTES,
    METRICS_FILE,
    model_id_of,
)
from feclip.bundle.lineage import Lineage
from feclip.bundle.memory_bank import BANK_FILE, BANK_RECORD_FILE, StoredBank
from feclip.bundle.reading import read_record
from feclip.bundle.record import INPUT_FIELDS, PATCH_FIELD, SCHEMA, encode_json, recorded_prompts, sealed
from feclip.calibration import Calibration
from feclip.config import FinetuneConfig, Resize, plain
from feclip.data import encode_parquet, join_uri, read_bytes, write_bytes
from feclip.errors import BundleError

if TYPE_CHECKING:  # a process that needs no model does without torch: docs/adr/0020
    from feclip.model import FeClipModel

__all__ = ["write_banked", "write_bundle", "write_calibrated", "write_tuned"]


def write_bundle(
    uri: str,
    *,
    model: "FeClipModel",
    config: FinetuneConfig,
    images: pa.Table,
    metrics: list[dict[str, float]],
    lineage: Lineage | None = None,
) -> str:
    """Write a bundle and return its ``model_id``.

    Each file appears whole or not at all, and ``config.json`` last.

    Args:
        uri: Folder or ``s3://`` prefix.
        model: The trained model.
        config: The run's config: every model field, how images become inputs, how it was trained.
        images: Images that trained or selected it, with the `IMAGE_COLUMNS`; one that is absent becomes null.
        metrics: One record per epoch.
        lineage: Its parent, if it was tuned from one.

    Raises:
        StorageError: If a file cannot be written.
    """
    from safetensors.torch import save  # noqa: PLC0415 - see docs/adr/0020

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.trainable_state_dict().items()}
    files = {
        ADAPTERS_FILE: save(tensors),
        IMAGES_FILE: encode_parquet(_with_image_columns(images)),
        METRICS_FILE: encode_json({"epochs": metrics}),
    }
    if lineage is not None:
        files[LINEAGE_FILE] = encode_json(lineage.to_json())
    training = plain(config)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "feclip_version": __version__,
        "backbone_digest": model.backbone_digest,
        "model": training.pop("model"),
        "tap_blocks": list(model.tap_blocks),
        "prompts": recorded_prompts(config.model),
        "input": _input(config, patch_size=model.patch_size),
        "training": training,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    record["model_id"] = model_id_of(record, tensors)
    for name, content in files.items():
        write_bytes(join_uri(uri, name), content)
    write_bytes(join_uri(uri, CONFIG_FILE), encode_json(sealed(record)))
    return str(record["model_id"])


def write_calibrated(uri: str, *, bundle: Bundle, calibration: Calibration, images: pa.Table) -> None:
    """Write a bundle again, with thresholds; each file appears whole or not at all, and ``config.json`` last.

    Args:
        uri: Folder or ``s3://`` prefix, another than the bundle's own.
        bundle: The bundle that was calibrated.
        calibration: Its thresholds.
        images: Images that calibrated it: ``uri``, ``sha256``, and further columns that the bundle's images have.

    Raises:
        BundleError: If the calibration is of another model.
        StorageError: If a file cannot be read or written.
    """
    if calibration.model_id != bundle.model_id:
        msg = f"{bundle.uri} is model {bundle.model_id[:12]}, the calibration is of {calibration.model_id[:12]}."
        raise BundleError(msg)
    added = {CALIBRATION_FILE: encode_json(calibration.to_json())}
    _write_with(uri, bundle=bundle, added=added, images=_with_images(bundle.images, images, role="calibrated"))


def write_banked(uri: str, *, bundle: Bundle, bank: StoredBank, images: pa.Table) -> str:
    """Write a bundle again, with a memory bank and without thresholds, as `write_calibrated` does.

    Args:
        uri: Folder or ``s3://`` prefix, another than the bundle's own.
        bundle: The bundle, which has no memory bank.
        bank: Its memory bank.
        images: The bank's images: ``uri``, ``sha256``, and further columns that the bundle's images have.

    Returns:
        The ``model_id`` of what was written.

    Raises:
        BundleError: If the bundle was replaced.
        StorageError: If a file cannot be read or written.
    """
    from safetensors.torch import save  # noqa: PLC0415 - see docs/adr/0020

    assert bundle.memory_bank is None
    assert bank.parent_model_id == bundle.model_id
    added = {BANK_FILE: save(bank.rows), BANK_RECORD_FILE: encode_json(bank.record())}
    images = _with_images(bundle.images, images, role=BANK_ROLE)
    return _write_with(uri, bundle=bundle, added=added, images=images, bank=bank)


def write_tuned(uri: str, *, tuned: Bundle, lineage: Lineage, images: pa.Table) -> None:
    """Write a tuned bundle again, with its lineage; each file appears whole or not at all, ``config.json`` last.

    Args:
        uri: Folder or ``s3://`` prefix, another than the bundle's own.
        tuned: The bundle as training wrote it.
        lineage: Its parent, and how it compares with it.
        images: Every image that made it or its parent, with the `IMAGE_COLUMNS`.

    Raises:
        BundleError: If the bundle was replaced meanwhile.
        StorageError: If a file cannot be read or written.
    """
    _write_with(uri, bundle=tuned, added={LINEAGE_FILE: encode_json(lineage.to_json())}, images=images)


def _write_with(
    uri: str,
    *,
    bundle: Bundle,
    added: Mapping[str, bytes],
    images: pa.Table,
    bank: StoredBank | None = None,
) -> str:
    """Write a bundle again with further files and with these images; return its ``model_id``."""
    record, _ = read_record(bundle.uri)
    kept = [name for name in record["files"] if name not in (IMAGES_FILE, CALIBRATION_FILE)]
    files = {name: read_bytes(join_uri(bundle.uri, name), max_bytes=MAX_FILE_BYTES) for name in kept}
    if record["model_id"] != bundle.model_id or any(
        record["files"][name] != hashlib.sha256(content).hexdigest() for name, content in files.items()
    ):
        msg = f"{bundle.uri} was replaced in the meantime; submit the same command again."
        raise BundleError(msg)
    files |= {IMAGES_FILE: encode_parquet(images), **added}
    record["schema"] = SCHEMA
    record["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if bank is not None:
        record["model_id"] = model_id_of(record, bundle.adapters, bank=bank)
    for name, content in files.items():
        write_bytes(join_uri(uri, name), content)
    write_bytes(join_uri(uri, CONFIG_FILE), encode_json(sealed(record)))
    return str(record["model_id"])


def _input(config: FinetuneConfig, *, patch_size: int) -> dict[str, Any]:
    """Return the record of how images become inputs."""
    data = plain(config.data)
    fields = {name: data[name] for name in INPUT_FIELDS}
    return fields | ({PATCH_FIELD: patch_size} if config.data.resize is Resize.rectangle else {})


def _with_images(known: pa.Table, images: pa.Table, *, role: str) -> pa.Table:
    """Return a bundle's images and further ones, which have a role; columns that these lack become null."""
    schema = pa.schema([field.with_nullable(True) for field in known.schema])
    given = {name: images[name] for name in images.column_names if name in schema.names}
    given["role"] = pa.array([role] * len(images), pa.string())
    columns = [
        given[field.name].cast(field.type) if field.name in given else pa.nulls(len(images), field.type)
        for field in schema
    ]
    return pa.concat_tables([known.cast(schema), pa.table(columns, schema=schema)])


def _with_image_columns(images: pa.Table) -> pa.Table:
    """Return the images with those of `IMAGE_COLUMNS` that they lack, null."""
    for field in IMAGE_COLUMNS:
        if field.name not in images.column_names:
            images = images.append_column(field, pa.nulls(len(images), field.type))
    return images
