"""Fine-tune on a Ray cluster: check the images in tasks, train with Ray Train, leave a bundle.

driver                                    workers
hold the output, read whose it is
list the images, give them splits     ->  check every image (tasks)
claim it for this run                 ->  fit(), a checkpoint per epoch, then the bundle (Ray Train)

Where a parent is tuned, `feclip.cluster.field_tuning` does what follows the listing. Zero epochs need no image and no
worker: the driver writes the bundle.
"""

import logging

import pyarrow as pa

from feclip.building import build_model, check_model, read_labelled
from feclip.bundle import Bundle, read_bundle, write_bundle
from feclip.cluster.field_tuning import require_kept, tune_parent
from feclip.cluster.inspection import checked_images
from feclip.cluster.paths import absolute_paths
from feclip.cluster.session import require_resources, session, use_endpoint
from feclip.cluster.train import train
from feclip.config import FinetuneConfig
from feclip.data import INSPECTION_SCHEMA, MANIFEST_SCHEMA, check_writable
from feclip.holding import holding
from feclip.progress import draws_bars
from feclip.training import Claim, inherited

__all__ = ["finetune"]

logger = logging.getLogger(__name__)


def finetune(config: FinetuneConfig) -> str:
    """Run one fine-tuning job and return the URI of its bundle.

    A finished run does nothing; a broken one, or one that is asked for more epochs, goes on from its last epoch.

    Raises:
        FeclipError: One line that says what is wrong; nothing that looks whole is left behind.
    """
    use_endpoint(config.cluster)
    config = absolute_paths(config)
    parent = None if config.parent is None else read_bundle(config.parent)
    if parent is not None:
        config = inherited(config, parent)
    check_model(config.model)
    check_writable(config.output)
    with holding(config.output):
        return _finetune(config, parent=parent)


def _finetune(config: FinetuneConfig, *, parent: Bundle | None) -> str:
    """Train what is missing in an output that is held."""
    claim = Claim.of(config, parent_id=None if parent is None else parent.model_id)
    if claim.finished:
        logger.info("%s is finished: %d epochs, nothing to do.", config.output, config.optim.epochs)
        require_kept(read_bundle(config.output).lineage, config=config)
        return config.output
    if config.optim.epochs:
        manifest = read_labelled(config.data, seed=config.seed)
        with session(config.cluster):
            require_resources(config.cluster)
            if parent is None:
                claim.take(checked_images(manifest, config=config))
                train(config, progress=draws_bars())
            else:
                tune_parent(parent, claim=claim, manifest=manifest)
    else:
        model, images = build_model(config.model, seed=config.seed), _no_images()
        claim.take(images)
        write_bundle(config.output, model=model, config=config, images=images, metrics=[])
    bundle = read_bundle(config.output)
    logger.info("Bundle written to %s (model_id %s)", bundle.uri, bundle.model_id[:12])
    return bundle.uri


def _no_images() -> pa.Table:
    fields = {field.name: field for field in (*MANIFEST_SCHEMA, *INSPECTION_SCHEMA) if field.name != "error"}
    return pa.schema([*fields.values(), pa.field("role", pa.string())]).empty_table()
