"""Which evaluation an output belongs to: all that its numbers depend on, in ``evaluation.json``."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from feclip.bundle import Bundle
from feclip.config import EvaluateConfig, changed_fields
from feclip.data import MAX_JSON_BYTES, exists, join_uri, parse_json, read_bytes, write_bytes
from feclip.errors import RunError

__all__ = ["holds_result", "identity_digest", "identity_of", "take_output"]

CLAIM_FILE = "evaluation.json"
DIGESTS_FIELD = "data_digests"


def identity_of(config: EvaluateConfig, *, bundles: Sequence[Bundle], digests: Sequence[str]) -> dict[str, Any]:
    """Return as JSON all that a number of an evaluation depends on.

    Args:
        config: What the preset fixes has its value.
        bundles: As they are judged.
        digests: Those of the images that judge each of them.
    """
    calibrations = [bundle.calibration for bundle in bundles]
    return {
        "model_ids": [bundle.model_id for bundle in bundles],
        "calibration_ids": [None if found is None else found.calibration_id for found in calibrations],
        DIGESTS_FIELD: list(digests),
        "split": None if config.split is None else str(config.split),
        "preset": config.preset,
        "smoothing_sigma": float(config.score.smoothing_sigma),
        "topk_fraction": float(config.score.topk_fraction),
        "precision": str(config.score.precision),
        "compile": config.score.compile,
        "jpeg_decoder": str(config.score.jpeg_decoder),
    }


def identity_digest(identity: dict[str, Any]) -> str:
    """Return the name of a folder that only this very evaluation has."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def take_output(output: str, *, identity: dict[str, Any]) -> None:
    """Write whose an output is that is held.

    Raises:
        RunError: If it belongs to another evaluation; each difference is named.
    """
    where = join_uri(output, CLAIM_FILE)
    if exists(where):
        changes = _changes(where, identity)
        if changes:
            listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changes.items())
            msg = f"{output} belongs to another evaluation: {listed}. Choose another output."
            raise RunError(msg)
    write_bytes(where, (json.dumps(identity, indent=1) + "\n").encode())


def holds_result(output: str, *, config: EvaluateConfig, bundles: Sequence[Bundle]) -> bool:
    """Tell whether an output belongs to an evaluation, whatever images judged in it.

    Args:
        output: Where the result is.
        config: As for `identity_of`.
        bundles: As they are judged.

    Raises:
        RunError: If its record is damaged.
    """
    where = join_uri(output, CLAIM_FILE)
    return exists(where) and not _changes(where, identity_of(config, bundles=bundles, digests=[])).keys() - {
        DIGESTS_FIELD
    }


def _changes(where: str, identity: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs between a record and an evaluation."""
    try:
        return changed_fields(parse_json(read_bytes(where, max_bytes=MAX_JSON_BYTES)), identity)
    except (ValueError, AttributeError) as error:
        msg = f"{where} is no record of an evaluation ({error}); choose another output."
        raise RunError(msg) from error
