"""The bundle: what training leaves behind and everything later reads. A folder, local or in object storage.

    config.json           every model field, how images become inputs, digests, versions; written last
    adapters.safetensors  trained tensors only (adapters, patch head, learned prompts); the frozen CLIP is never copied
    images.parquet        every image that trained, selected or calibrated it: role, split, sha256, digest of the
                          decoded pixels, thumbnail
    metrics.json          what training measured, by epoch
    calibration.json      thresholds and normalisation; absent until calibrated
    memory_bank.*         tokens of normal images and how they were chosen; absent without a memory bank
    lineage.json          the parent that it was tuned from, and how it compares with it; absent without a parent

config.json names the sha256 of the others and goes last, so a folder without it is no bundle, and a folder in
which old and new files are mixed is refused. Nothing here is pickled.
"""

from feclip.bundle.bundle import USUAL_STATISTICS, Bundle, InputOverride
from feclip.bundle.layout import (
    BANK_ROLE,
    CONFIG_FILE,
    EVALUATION_METRICS_FILE,
    EVALUATION_SCORES_FOLDER,
    EVALUATIONS_FOLDER,
    IMAGE_COLUMNS,
)
from feclip.bundle.lineage import Change, Domain, Lineage, read_lineage
from feclip.bundle.memory_bank import StoredBank
from feclip.bundle.reading import read_bundle
from feclip.bundle.record import INPUT_FIELDS, recorded_prompts
from feclip.bundle.writing import write_banked, write_bundle, write_calibrated, write_tuned

__all__ = [
    "BANK_ROLE",
    "CONFIG_FILE",
    "EVALUATIONS_FOLDER",
    "EVALUATION_METRICS_FILE",
    "EVALUATION_SCORES_FOLDER",
    "IMAGE_COLUMNS",
    "INPUT_FIELDS",
    "USUAL_STATISTICS",
    "Bundle",
    "Change",
    "Domain",
    "InputOverride",
    "Lineage",
    "StoredBank",
    "read_bundle",
    "read_lineage",
    "recorded_prompts",
    "write_banked",
    "write_bundle",
    "write_calibrated",
    "write_tuned",
]
