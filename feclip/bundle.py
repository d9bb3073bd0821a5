"""The bundle: what training leaves behind and everything later reads. A folder, local or in object storage.

    config.json           every model field, how images become inputs, digests, versions; written last
    adapters.safetensors  trained tensors only (adapters, patch head); the frozen CLIP is never copied
    images.parquet        every image that trained, selected or calibrated it: role, split, sha256, digest of the
                          decoded pixels, thumbnail
    metrics.json          what training measured, by epoch
    calibration.json      thresholds and normalisation; absent until calibrated
    memory_bank.*         tokens of normal images and how they were chosen; absent without a memory bank
    lineage.json          the parent that it was tuned from, and how it compares with it; absent without a parent

config.json names the sha256 of the others and goes last, so a folder without it is no bundle, and a folder in
which old and new files are mixed is refused. Nothing here is pickled.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from feclip import __version__
from feclip.bundle_bank import BANK_FILE, BANK_RECORD_FILE, StoredBank, read_bank
from feclip.bundle_record import INPUT_FIELDS, SCHEMA, check_record, encode_json, parse_object, read_epochs, sealed
from feclip.calibration import Calibration, StatisticOptions, read_calibration
from feclip.config import FinetuneConfig, ModelConfig, plain
from feclip.data import (
    MAX_JSON_BYTES,
    THUMBNAIL_BYTES,
    InputOptions,
    exists,
    join_uri,
    parse_parquet,
    read_bytes,
    write_bytes,
)
from feclip.errors import BundleError
from feclip.lineage import Lineage, read_lineage

if TYPE_CHECKING:  # a process that needs no model does without torch: docs/adr/0020
    import torch

    from feclip.model import FeClipModel

__all__ = [
    "BANK_ROLE",
    "EVALUATIONS_FOLDER",
    "EVALUATION_METRICS_FILE",
    "EVALUATION_SCORES_FOLDER",
    "IMAGE_COLUMNS",
    "Bundle",
    "InputOverride",
    "StoredBank",
    "read_bundle",
    "write_banked",
    "write_bundle",
    "write_calibrated",
    "write_tuned",
]

CONFIG_FILE = "config.json"
ADAPTERS_FILE = "adapters.safetensors"
IMAGES_FILE = "images.parquet"
METRICS_FILE = "metrics.json"
CALIBRATION_FILE = "calibration.json"
LINEAGE_FILE = "lineage.json"
OPTIONAL_FILES = (CALIBRATION_FILE, BANK_FILE, BANK_RECORD_FILE, LINEAGE_FILE)
EVALUATIONS_FOLDER = "evaluations"
"""Below a bundle: where its evaluations stand unless they are told another place."""
EVALUATION_METRICS_FILE = "metrics.parquet"
EVALUATION_SCORES_FOLDER = "scored"
"""Below an evaluation: a scoring run for each of its bundles."""
IMAGE_COLUMNS = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("role", pa.string()),  # trained, selected, calibrated, guarded
        pa.field("sha256", pa.string()),  # of the file
        pa.field("pixel_digest", pa.string()),  # of what it shows; null where it was not decoded for this
        pa.field("thumbnail", pa.binary(THUMBNAIL_BYTES)),  # the same
    ]
)
"""Columns that images.parquet must have, by which `jobs/evaluate.py` knows an image again; further ones may follow."""
BANK_ROLE = "memory_bank"
"""Role of the images of the memory bank."""
MAX_FILE_BYTES = 2 << 30
"""Largest adapters.safetensors or images.parquet that is read."""
POSITIONAL_EMBEDDING = "positional_embedding"  # interpolated while loading, where the input has another size
UNSCORED_MODEL_FIELDS = ("pretrained", "init_seed", "num_taps")  # said by the backbone's digest and by tap_blocks


USUAL_STATISTICS = StatisticOptions(topk_fraction=0.01, smoothing_sigma=0.0)
"""Where a bundle has no thresholds that were fitted on others."""


@dataclass(frozen=True, kw_only=True)
class InputOverride:
    """Another way to bring images to the model than the one it was trained with, as a protocol may ask."""

    image_size: int
    """Side of the model input, pixels; a multiple of the patch."""
    resize: str
    """``letterbox`` or ``squash``."""
    valid_region: str = "letterbox"
    """As in `InputOptions`."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was read and checked; the backbone is loaded by :meth:`build`."""

    uri: str
    """Where it lies."""
    model: ModelConfig
    """Every model field."""
    input: dict[str, str]
    """How images become inputs: resize, padding_color, valid_region, jpeg_decoding."""
    model_id: str
    """Digest of everything that changes a score."""
    backbone_digest: str
    """Digest of the backbone's weights."""
    adapters: dict[str, "torch.Tensor"]
    """Trained tensors by parameter name."""
    images: pa.Table
    """Images that trained, selected or calibrated it; `IMAGE_COLUMNS` and further ones."""
    metrics: list[dict[str, float]]
    """What training measured, one record per epoch."""
    training: dict[str, Any]
    """The config of the run that wrote it."""
    calibration: Calibration | None = None
    """Thresholds and normalisation; None until calibrated."""
    memory_bank: StoredBank | None = None
    """Tokens of normal images whose distances join the scores; None where there are none."""
    lineage: Lineage | None = None
    """The parent that it was tuned from, and how it compares with it; None without a parent."""
    trained_image_size: int | None = None
    """Side that the backbone's digest was taken at, where ``model`` has another by `with_input`; else None."""

    @property
    def input_options(self) -> InputOptions:
        """How its images become inputs, for a `GuardedDecoder`."""
        assert self.model.image_size is not None  # settled when the config was made
        return InputOptions(image_size=self.model.image_size, **self.input)

    @property
    def statistic_options(self) -> StatisticOptions:
        """What the statistics of its maps are computed with: those of its thresholds, where it has some."""
        return USUAL_STATISTICS if self.calibration is None else self.calibration.statistic_options

    def with_input(self, override: InputOverride) -> "Bundle":
        """Return the bundle as another model: the same tensors, on images that are brought to it in another way.

        Scores differ, so the result has a ``model_id`` of its own, and no thresholds. What changes nothing returns
        the bundle as it is.

        Raises:
            BundleError: If the bundle has a memory bank, which is of images as they came to the model before.
        """
        given = {"resize": override.resize, "valid_region": override.valid_region}
        if override.image_size == self.model.image_size and self.input == self.input | given:
            return self
        if self.memory_bank is not None:
            msg = (
                f"{self.uri} has a memory bank of images that were brought to the model in another way; evaluate it as "
                "it was trained, or the bundle that it was made of."
            )
            raise BundleError(msg)
        identity = {"bundle": self.model_id, "image_size": override.image_size, "input": self.input | given}
        return dataclasses.replace(
            self,
            model=dataclasses.replace(self.model, image_size=override.image_size),
            input=self.input | given,
            model_id=hashlib.sha256(encode_json(identity)).hexdigest(),
            calibration=None,
            trained_image_size=self.trained_image_size or self.model.image_size,
        )

    def build(self, *, pretrained: str | None = None) -> "FeClipModel":
        """Load the backbone and put the trained tensors on it.

        The backbone's digest covers its positional embedding as it is at the size of training. At another size the
        backbone is loaded twice, and all else in it must agree.

        Args:
            pretrained: Weight file or tag to load instead of the recorded one; its digest must be the recorded one.

        Raises:
            BundleError: If the backbone's digest or a tensor does not fit.
            ConfigError: If the backbone's weights cannot be had.
        """
        from feclip.building import build_model  # noqa: PLC0415 - see docs/adr/0020

        config = self.model if pretrained is None else dataclasses.replace(self.model, pretrained=pretrained)
        trained_at = self.trained_image_size or config.image_size
        model = build_model(dataclasses.replace(config, image_size=trained_at), seed=0)
        if model.backbone_digest != self.backbone_digest:
            msg = (
                f"{self.uri} was trained on a backbone with digest {self.backbone_digest}, but {config.backbone} with "
                f"{config.pretrained!r} has {model.backbone_digest}; give the weights it was trained on."
            )
            raise BundleError(msg)
        if trained_at != config.image_size:
            trunk, model = _trunk_digest(model), build_model(config, seed=0)
            if _trunk_digest(model) != trunk:
                msg = (
                    f"{self.uri}: {config.backbone} with {config.pretrained!r} has other weights at "
                    f"{config.image_size} px than at {trained_at} px; evaluate it at the size of its training."
                )
                raise BundleError(msg)
        try:
            model.load_trainable_state_dict(self.adapters)
        except ValueError as error:
            msg = f"{join_uri(self.uri, ADAPTERS_FILE)}: {error}"
            raise BundleError(msg) from error
        if self.memory_bank is not None:
            model.memory_bank = self.memory_bank.build()
            width = model.visual.transformer.width
            if any(rows.shape[1] != width for rows in self.memory_bank.rows.values()):
                msg = f"{join_uri(self.uri, BANK_FILE)} holds no tokens of width {width}; calibrate again."
                raise BundleError(msg)
        return model.eval()


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

    from feclip.model import build_prompts  # noqa: PLC0415 - see docs/adr/0020

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.trainable_state_dict().items()}
    files = {
        ADAPTERS_FILE: save(tensors),
        IMAGES_FILE: _parquet(_with_image_columns(images)),
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
        "prompts": list(build_prompts(config.model.noun)),
        "input": {name: training["data"][name] for name in INPUT_FIELDS},
        "training": training,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    record["model_id"] = _model_id(record, tensors)
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
    record, _ = _read_record(bundle.uri)
    kept = [name for name in record["files"] if name not in (IMAGES_FILE, CALIBRATION_FILE)]
    files = {name: read_bytes(join_uri(bundle.uri, name), max_bytes=MAX_FILE_BYTES) for name in kept}
    if record["model_id"] != bundle.model_id or any(
        record["files"][name] != hashlib.sha256(content).hexdigest() for name, content in files.items()
    ):
        msg = f"{bundle.uri} was replaced in the meantime; submit the same command again."
        raise BundleError(msg)
    files |= {IMAGES_FILE: _parquet(images), **added}
    record["schema"] = SCHEMA
    record["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if bank is not None:
        record["model_id"] = _model_id(record, bundle.adapters, bank=bank)
    for name, content in files.items():
        write_bytes(join_uri(uri, name), content)
    write_bytes(join_uri(uri, CONFIG_FILE), encode_json(sealed(record)))
    return str(record["model_id"])


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


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_bundle(uri: str) -> Bundle:
    """Read and check a bundle without loading its backbone.

    Raises:
        BundleError: If there is none, a field is missing, unknown or out of range, or a file is not the one that
            config.json names.
        StorageError: If the storage cannot be read.
    """
    where = join_uri(uri, CONFIG_FILE)
    record, model = _read_record(uri)
    files = {name: _checked(join_uri(uri, name), sha256=digest) for name, digest in record["files"].items()}
    adapters = _read_adapters(files[ADAPTERS_FILE], where=join_uri(uri, ADAPTERS_FILE))
    bank = _bank(files, uri=uri, num_taps=len(record["tap_blocks"]))
    if record["model_id"] != _model_id(record, adapters, bank=bank):
        msg = f"{where}: model_id is not the digest of what the bundle holds; write the bundle again."
        raise BundleError(msg)
    metrics = join_uri(uri, METRICS_FILE)
    return Bundle(
        uri=uri,
        model=model,
        input=record["input"],
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


def _bank(files: Mapping[str, bytes], *, uri: str, num_taps: int) -> StoredBank | None:
    named = [name for name in (BANK_FILE, BANK_RECORD_FILE) if name in files]
    if not named:
        return None
    if len(named) == 1:
        msg = f"{uri} has {named[0]} but not both files of a memory bank; calibrate again."
        raise BundleError(msg)
    record = parse_object(files[BANK_RECORD_FILE], where=join_uri(uri, BANK_RECORD_FILE))
    return read_bank(record, files[BANK_FILE], num_taps=num_taps, where=uri)


def _read_record(uri: str) -> tuple[dict[str, Any], ModelConfig]:
    """Return what config.json holds, checked, and the config of the model."""
    where = join_uri(uri, CONFIG_FILE)
    if not exists(where):
        msg = f"{uri} holds no bundle: {CONFIG_FILE} is missing there."
        raise BundleError(msg)
    record = parse_object(read_bytes(where, max_bytes=MAX_JSON_BYTES), where=where)
    files = (ADAPTERS_FILE, IMAGES_FILE, METRICS_FILE)
    return record, check_record(record, files=files, optional_files=OPTIONAL_FILES, where=where)


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


def _trunk_digest(model: "FeClipModel") -> str:
    """Return the digest of a backbone without what depends on the size of its input."""
    from feclip.model import tensor_digest  # noqa: PLC0415 - see docs/adr/0020

    state = {name: tensor for name, tensor in model.visual.state_dict().items() if name != POSITIONAL_EMBEDDING}
    return tensor_digest(state | {"text_embeddings": model.text_embeddings})


def _with_image_columns(images: pa.Table) -> pa.Table:
    """Return the images with those of `IMAGE_COLUMNS` that they lack, null."""
    for field in IMAGE_COLUMNS:
        if field.name not in images.column_names:
            images = images.append_column(field, pa.nulls(len(images), field.type))
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


def _model_id(
    record: Mapping[str, Any], adapters: Mapping[str, "torch.Tensor"], *, bank: StoredBank | None = None
) -> str:
    """Return the digest of everything in a bundle that changes a score."""
    from feclip.model import tensor_digest  # noqa: PLC0415 - see docs/adr/0020

    fields = {key: value for key, value in record["model"].items() if key not in UNSCORED_MODEL_FIELDS}
    identity = {
        "adapters": tensor_digest(adapters),
        "backbone": record["backbone_digest"],
        "prompts": record["prompts"],
        "model": fields | {"tap_blocks": record["tap_blocks"]},
        "input": record["input"],
    }
    if bank is not None:
        identity["memory_bank"] = [tensor_digest(bank.rows), bank.group_column, list(bank.groups)]
    return hashlib.sha256(encode_json(identity)).hexdigest()


def _checked(uri: str, *, sha256: str) -> bytes:
    if not exists(uri):
        msg = f"{uri} is missing, so the bundle is incomplete; write it again."
        raise BundleError(msg)
    content = read_bytes(uri, max_bytes=MAX_FILE_BYTES)
    if hashlib.sha256(content).hexdigest() != sha256:
        msg = f"{uri} is not the file that {CONFIG_FILE} names (sha256 differs); write the bundle again."
        raise BundleError(msg)
    return content
