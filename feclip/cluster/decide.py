"""Apply thresholds to a score table that stands, in tasks; no image is read and no model is loaded."""

import dataclasses
import logging
from collections import Counter

from feclip.archive import Tally, check_slices, finished_run
from feclip.bundle import read_bundle
from feclip.calibration import Calibration
from feclip.cluster.paths import absolute_path
from feclip.cluster.session import session, use_endpoint
from feclip.cluster.slices import decide_slices, mapped
from feclip.config import DecideConfig
from feclip.data import check_writable
from feclip.errors import BundleError
from feclip.holding import holding

__all__ = ["decide"]

logger = logging.getLogger(__name__)


def decide(config: DecideConfig) -> str:
    """Run one decision job and return the URI of the decisions.

    Raises:
        FeclipError: One line that says what is wrong.
    """
    use_endpoint(config.cluster)
    config = dataclasses.replace(
        config, bundle=absolute_path("bundle", config.bundle), scores=absolute_path("scores", config.scores)
    )
    bundle = read_bundle(config.bundle)
    if bundle.calibration is None:
        msg = f"{config.bundle} has no thresholds; calibrate it with jobs/calibrate.py first."
        raise BundleError(msg)
    calibration = bundle.calibration.with_decision(
        rule=config.rule, percentile=config.percentile, variant=config.variant
    )
    run = finished_run(config.scores, model_id=bundle.model_id)
    calibration.require_statistics(run.statistic_options)
    check_writable(config.scores)
    with holding(config.scores):
        return _decide(calibration, config=config, model_id=bundle.model_id)


def _decide(calibration: Calibration, *, config: DecideConfig, model_id: str) -> str:
    """Decide on a score table that is held, so that no score is replaced meanwhile."""
    run = finished_run(config.scores, model_id=model_id)
    total = Tally()
    with session(config.cluster):
        decide_slices(run, calibration)
        slices, chosen = range(run.num_slices), calibration.calibration_id
        parts = mapped(check_slices, run, slices, task="Reading back", calibration_id=chosen)
        for tally in parts:
            total += tally
    labels = Counter(total.labels) + Counter(undecided=total.errors.total())
    shown = ", ".join(f"{count} {label}" for label, count in labels.items())
    where = run.decisions_folder(calibration.calibration_id)
    logger.info("%d images by rule %s: %s", total.num_images, calibration.decision.rule, shown)
    logger.info("Decisions written to %s", where)
    return where
