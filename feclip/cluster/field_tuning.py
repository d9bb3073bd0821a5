"""Tune a parent on field images, and compare it before and after on held-out images of both domains.

driver                                    workers
require held-out images               ->  check every image, also of the old domain (tasks)
claim the output for this run         ->  fit() from the parent's tensors, a bundle below the output (Ray Train)
compare, write the bundle             <-  score both domains with both bundles, judge each category (guarding.py)

The bundle of training becomes the run's once the guard has seen it: a run that ends before has none.
"""

import dataclasses
import logging

import pyarrow as pa
import pyarrow.compute as pc

from feclip.bundle import CONFIG_FILE, Bundle, Lineage, read_bundle, write_tuned
from feclip.cluster.guarding import compared, guard_scoring, old_domain
from feclip.cluster.inspection import checked_images
from feclip.cluster.session import require_actors
from feclip.cluster.train import bundle_of_training, train
from feclip.config import FinetuneConfig
from feclip.data import Split, exists, join_uri
from feclip.errors import DataError, RunError
from feclip.evaluation import check_selection
from feclip.progress import draws_bars
from feclip.training import Claim, all_images, require_unseen

__all__ = ["require_kept", "tune_parent"]

logger = logging.getLogger(__name__)


def tune_parent(parent: Bundle, *, claim: Claim, manifest: pa.Table) -> None:
    """Train what is missing of a tuned bundle, compare it with its parent and write it into the output.

    Args:
        parent: The bundle that is tuned.
        claim: The run, whose output is held.
        manifest: The field images with their splits.

    Raises:
        DataError: If the images do not allow a choice or a comparison.
        RunError: If training failed, or if a domain got worse and that ends the job.
    """
    config = claim.config
    logger.info("Tuning %s (model_id %s): %s", parent.uri, parent.model_id[:12], _shown(parent))
    scoring = guard_scoring(config)
    require_actors(num_actors=scoring.num_actors, gpus_per_actor=scoring.gpus_per_actor)
    _require_held_out(manifest, config=config)
    images = checked_images(manifest, config=config)
    field = images.filter(pc.field("split") == Split.HELD_OUT.value)
    require_unseen(field, parent)
    old = old_domain(parent, config=config, own=images)
    claim.take(images, guard=old)
    tuned = _trained(parent, config=config)
    assert tuned.lineage is not None
    _log_choice(tuned, lineage=tuned.lineage)
    domains = compared(parent, tuned, config=config, field=field, old=old)
    lineage = dataclasses.replace(tuned.lineage, domains=domains)
    for domain in domains:
        logger.log(logging.WARNING if domain.is_worse else logging.INFO, "Guard: %s", domain)
    require_kept(lineage, config=config)
    write_tuned(
        config.output,
        tuned=tuned,
        lineage=lineage,
        images=all_images(parent, images, *([] if old is None else [old])),
    )


def require_kept(lineage: Lineage | None, *, config: FinetuneConfig) -> None:
    """Refuse a bundle that got worse where the run asks for that.

    Raises:
        RunError: If a domain got worse and ``guard.fail_if_worse`` is set; in one line.
    """
    worse = [domain for domain in (() if lineage is None else lineage.domains) if domain.is_worse]
    if worse and config.guard.fail_if_worse:
        msg = (
            f"{'; '.join(map(str, worse))}. The tuned bundle is not taken (guard.fail_if_worse); it lies in "
            f"{bundle_of_training(config)}."
        )
        raise RunError(msg)


def _shown(parent: Bundle) -> str:
    inputs = ", ".join(f"{name} {value}" for name, value in parent.input.items())
    return f"its model ({parent.model.backbone} at {parent.model.image_size} px) and inputs ({inputs}) are kept"


def _require_held_out(manifest: pa.Table, *, config: FinetuneConfig) -> None:
    """Check, before an image is read, that held-out ones can choose an epoch."""
    source = str(config.data.manifest or config.data.root)
    field = manifest.filter(pc.field("split") == Split.HELD_OUT.value)
    if not field.num_rows:
        msg = (
            f"No image of {source} is held out, and a parent is tuned by held-out images: set data.protocol to b, or "
            "give the manifest a column split."
        )
        raise DataError(msg)
    check_selection(field, source=f"The held-out split of {source}")


def _trained(parent: Bundle, *, config: FinetuneConfig) -> Bundle:
    """Return the tuned bundle as training writes it, after what is missing of its epochs."""
    uri = bundle_of_training(config)
    if exists(join_uri(uri, CONFIG_FILE)):
        tuned = read_bundle(uri)
        if tuned.training["optim"]["epochs"] == config.optim.epochs:
            return tuned
    train(config, progress=draws_bars(), parent_id=parent.model_id)
    return read_bundle(uri)


def _log_choice(tuned: Bundle, *, lineage: Lineage) -> None:
    before = lineage.before["image_auroc"]
    if lineage.epoch == 0:
        logger.warning(
            "None of %d epochs has a higher image AUROC on the held-out field images than the parent (%.4f): the "
            "bundle has the parent's weights.",
            len(tuned.metrics),
            before,
        )
        return
    after = tuned.metrics[lineage.epoch - 1]["image_auroc"]
    logger.info(
        "Epoch %d of %d is chosen: image AUROC %.4f on the held-out field images, %.4f of the parent",
        lineage.epoch,
        len(tuned.metrics),
        after,
        before,
    )
