"""What a run of scoring amounts to: written when every slice is counted, logged, held against the limit of errors."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from feclip import __version__
from feclip.archive.run import SUMMARY_FILE, Run
from feclip.archive.slices import Tally
from feclip.calibration import Calibration
from feclip.data import MAX_JSON_BYTES, exists, join_uri, parse_json, read_bytes, write_bytes
from feclip.errors import RunError

__all__ = [
    "finished_summary",
    "log_start_up",
    "log_summary",
    "require_few_errors",
    "start_up_line",
    "write_summary",
]

logger = logging.getLogger(__name__)

SCHEMA = 1


def finished_summary(run: Run, *, calibration: Calibration | None) -> dict[str, Any] | None:
    """Return the summary of this very run if it was written and every slice still stands, else None.

    Raises:
        StorageError: If storage cannot be asked.
    """
    where = join_uri(run.output, SUMMARY_FILE)
    if not exists(where):
        return None
    try:
        summary = parse_json(read_bytes(where, max_bytes=MAX_JSON_BYTES))
    except ValueError:
        return None
    if not isinstance(summary, dict):
        return None
    wanted = None if calibration is None else calibration.calibration_id
    folders = [run.scores_folder, *([] if wanted is None else [run.decisions_folder(wanted)])]
    if any(run.missing(folder) for folder in folders):  # somebody deleted a damaged slice, as the message says
        return None
    same = summary.get("digest") == run.digest and wanted in {None, summary.get("calibration_id")}
    return summary if same else None


def write_summary(
    run: Run,
    tally: Tally,
    *,
    calibration: Calibration | None,
    seconds: float,
    scored_now: int,
    actors: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the summary, which makes the run a finished one, and return it.

    Args:
        run: The run, all of whose slices were counted.
        tally: What they hold.
        calibration: Whose decisions stand beside the scores.
        seconds: Time that this submission took to score.
        scored_now: Images that this submission scored.
        actors: How each of its models was made ready, the fields of a `StartUp`.

    Raises:
        StorageError: If it cannot be written.
    """
    summary = {
        "schema": SCHEMA,
        "feclip_version": __version__,
        "digest": run.digest,
        "model_id": run.model_id,
        "calibration_id": None if calibration is None else calibration.calibration_id,
        "num_images": tally.num_images,
        "num_scored": tally.num_images - tally.errors.total(),
        "errors": dict(sorted(tally.errors.items())),
        "ignored_objects": dict(run.ignored),
        "labels": dict(sorted(tally.labels.items())),
        "thresholds": None if calibration is None else _thresholds(calibration),
        "num_slices": run.num_slices,
        "seconds": round(seconds, 3),
        "scored_now": scored_now,
        "images_per_second": round(scored_now / seconds, 3),
        "actors": [dict(actor) for actor in actors],
    }
    write_bytes(join_uri(run.output, SUMMARY_FILE), (json.dumps(summary, indent=1) + "\n").encode())
    return summary


def start_up_line(start_up: Mapping[str, Any]) -> str:
    """Return in words how a model was made ready, from the fields of a `StartUp`.

    Example:
        >>> start_up_line({"device": "cpu", "batch_size": 16, "compiled": True, "warm_up_seconds": 61.23})
        'on cpu, batches of 16, compiled, warm-up 61.2 s'
        >>> start_up_line({"device": "cpu", "batch_size": 16, "compiled": False, "warm_up_seconds": 0.0})
        'on cpu, batches of 16'
    """
    parts = [f"on {start_up['device']}, batches of {start_up['batch_size']}"]
    if start_up["compiled"]:
        parts.append("compiled")
    if start_up["warm_up_seconds"]:
        parts.append(f"warm-up {start_up['warm_up_seconds']:.1f} s")
    return ", ".join(parts)


def log_start_up(actors: Sequence[Mapping[str, Any]]) -> None:
    """Say how the last of some actors made its model ready, unless an equal one before it did the same."""
    *before, last = actors
    names = ("device", "batch_size", "compiled")
    if all(any(last[name] != other[name] for name in names) for other in before):
        logger.info("Model %s", start_up_line(last))


def log_summary(summary: dict[str, Any], *, output: str) -> None:
    """Say what the output holds, in a few lines."""
    errors = ", ".join(f"{count} {kind}" for kind, count in summary["errors"].items()) or "none"
    logger.info("%s: %d images, %d scored, errors: %s", output, summary["num_images"], summary["num_scored"], errors)
    if summary["scored_now"]:
        logger.info(
            "%d images in %.1f s, %.1f images/s",
            summary["scored_now"],
            summary["seconds"],
            summary["images_per_second"],
        )
    if summary["thresholds"]:
        logger.info("Thresholds: %s", json.dumps(summary["thresholds"]))
    if summary["labels"]:
        labels = ", ".join(f"{count} {label}" for label, count in summary["labels"].items())
        logger.info("Decided by calibration %s: %s", summary["calibration_id"][:12], labels)


def require_few_errors(summary: dict[str, Any], *, output: str, max_error_rate: float) -> None:
    """Refuse a table, whole as it is, in which too many images have no score.

    Raises:
        RunError: If their share is above ``max_error_rate``.
    """
    num_errors = sum(summary["errors"].values())
    rate = num_errors / summary["num_images"]
    if rate > max_error_rate:
        most = max(summary["errors"], key=summary["errors"].get)
        msg = (
            f"{num_errors} of {summary['num_images']} images have no score (most often: {most}), more than "
            f"score.max_error_rate {max_error_rate:g} allows; the table in {output} is whole, see "
            "its columns error and error_kind."
        )
        raise RunError(msg)


def _thresholds(calibration: Calibration) -> dict[str, Any]:
    names: list[str | None] = [*calibration.groups] if calibration.threshold_by else [None]
    return {
        "rule": str(calibration.decision.rule),
        "percentile": calibration.decision.percentile,
        "variant": str(calibration.decision.variant),
        "by": calibration.threshold_by,
        "values": {
            name or "all": {
                str(statistic): calibration.threshold(statistic, name) for statistic in calibration.decision.statistics
            }
            for name in names
        },
    }
