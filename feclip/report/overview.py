"""The first words of a page: what it is made of, how many images it is of, and what went wrong with some."""

from datetime import UTC, datetime
from typing import Any

from feclip import __version__
from feclip.report.counting import ZERO_BIN
from feclip.report.intervals import wilson_interval
from feclip.report.opened import ScoredTable
from feclip.report.survey import Survey, num_normals

__all__ = ["error_rows", "facts", "totals"]


def facts(table: ScoredTable, *, seed: int) -> dict[str, str]:
    """Return what a page is made of, by name."""
    found = {
        "Score table": table.run.output,
        "Bundle": table.bundle.uri,
        "Model": f"{table.bundle.model.backbone}, model_id {table.run.model_id[:12]}",
    }
    calibration = table.calibration
    if calibration is not None:
        decision = calibration.decision
        by = "" if calibration.threshold_by is None else f", thresholds by {calibration.threshold_by}"
        found["Decides"] = f"rule {decision.rule}, percentile {decision.percentile} ({decision.variant}){by}"
        found["Calibration"] = calibration.calibration_id[:12]
        names: list[str | None] = [*calibration.groups] if calibration.threshold_by else [None]
        observed = [calibration.observed(name) for name in names]
        if None not in observed:
            num = sum(item.num_alarms for item in observed if item is not None)
            found["Among its normals"] = f"{num:,} of {num_normals(calibration):,} are called anomalous"
    found["Made"] = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by feclip {__version__}, seed {seed}"
    return found


def totals(survey: Survey) -> dict[str, Any]:
    """Return the images of a table in numbers; the interval is that of the share called anomalous, 95 %, 0..1."""
    counts = survey.cube.total()
    num_scored, num_errors = int(counts.sum()), sum(survey.errors.values())
    num_anomalous = int(counts[ZERO_BIN + 1 :].sum())
    lower, upper = wilson_interval(num_anomalous, num_scored)
    return {
        "images": num_scored + num_errors,
        "scored": num_scored,
        "errors": num_errors,
        "anomalous": num_anomalous,
        "rate": num_anomalous / max(num_scored, 1),
        "interval": (float(lower), float(upper)),
    }


def error_rows(table: ScoredTable, survey: Survey) -> list[dict[str, Any]]:
    """Return each kind of error with its number and its first examples, the most frequent first."""
    wanted = [row_id for rows in survey.examples.values() for row_id in rows]
    found = {row["row_id"]: row for row in table.rows(wanted).select(["row_id", "uri", "error"]).to_pylist()}
    return [
        {"kind": kind, "num": num, "examples": [found[row_id] for row_id in survey.examples[kind]]}
        for kind, num in sorted(survey.errors.items(), key=lambda item: (-item[1], item[0]))
    ]
