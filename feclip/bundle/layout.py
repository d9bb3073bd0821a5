"""What lies in a bundle: names of files and folders, columns of its images, and the digest of what changes a score."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feclip.bundle.memory_bank import BANK_FILE, BANK_RECORD_FILE, StoredBank
from feclip.bundle.record import LATER_MODEL_FIELDS, encode_json
from feclip.data import THUMBNAIL_BYTES

if TYPE_CHECKING:  # a process that needs no model does without torch: docs/adr/0020
    import torch

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
UNSCORED_MODEL_FIELDS = ("pretrained", "init_seed", "num_taps")  # said by the backbone's digest and by tap_blocks


def model_id_of(
    record: Mapping[str, Any], adapters: Mapping[str, "torch.Tensor"], *, bank: StoredBank | None = None
) -> str:
    """Return the digest of everything in a bundle that changes a score; what came later counts where it is used."""
    from feclip.model import tensor_digest  # noqa: PLC0415 - see docs/adr/0020

    fields = {
        key: value
        for key, value in record["model"].items()
        if key not in UNSCORED_MODEL_FIELDS and not (key in LATER_MODEL_FIELDS and value == LATER_MODEL_FIELDS[key])
    }
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
