"""Fine-tune on a Ray cluster: check the images in tasks, train with Ray Train, leave a bundle.

driver                                    workers
hold the output, read whose it is
list the images, give them splits     ->  check every image (tasks)
claim it for this run                 ->  fit(), a checkpoint per epoch, then the bundle (Ray Train)

Zero epochs need no image and no worker: the driver writes the bundle.
"""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from feclip.building import build_model, check_model, read_labelled
from feclip.bundle import read_bundle, write_bundle
from feclip.cluster.inspection import inspected
from feclip.cluster.paths import absolute_paths
from feclip.cluster.session import require_resources, session, use_endpoint
from feclip.cluster.train import train
from feclip.config import FinetuneConfig
from feclip.data import INSPECTION_SCHEMA, MANIFEST_SCHEMA, Split, check_writable
from feclip.errors import DataError
from feclip.holding import holding
from feclip.progress import draws_bars
from feclip.training import Claim

__all__ = ["checked_images", "finetune"]

logger = logging.getLogger(__name__)

ROLES = {Split.TRAIN: "trained", Split.HELD_OUT: "selected"}  # what an image did to the bundle


def finetune(config: FinetuneConfig) -> str:
    """Run one fine-tuning job and return the URI of its bundle.

    A finished run does nothing; a broken one, or one that is asked for more epochs, goes on from its last epoch.

    Raises:
        FeclipError: One line that says what is wrong; nothing that looks whole is left behind.
    """
    use_endpoint(config.cluster)
    config = absolute_paths(config)
    check_model(config.model)
    check_writable(config.output)
    with holding(config.output):
        return _finetune(config)


def _finetune(config: FinetuneConfig) -> str:
    """Train what is missing in an output that is held."""
    claim = Claim.of(config)
    if claim.finished:
        logger.info("%s is finished: %d epochs, nothing to do.", config.output, config.optim.epochs)
        return config.output
    if config.optim.epochs:
        manifest = read_labelled(config.data, seed=config.seed)
        with session(config.cluster):
            require_resources(config.cluster)
            claim.take(checked_images(manifest, config=config))
            train(config, progress=draws_bars())
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


def checked_images(manifest: pa.Table, *, config: FinetuneConfig) -> pa.Table:
    """Return the rows that train or select, found whole, with their role and digests."""
    used = manifest.filter(pc.field("split").isin([split.value for split in ROLES]))
    trained = used.filter(pc.field("split") == Split.TRAIN.value)
    if trained.num_rows == 0:
        msg = f"No image is left to train on in {config.data.manifest or config.data.root}; check the splits."
        raise DataError(msg)
    if used.num_rows == trained.num_rows:
        logger.info("No image is held out (data.protocol a), so epochs report the training loss only.")
    if not pc.any(trained["has_mask"]).as_py():
        logger.info("No image has a gt mask, so the mask loss is off and image labels alone train (L_cls).")
    table = inspected(used, config=config)
    roles = [ROLES[Split(value)] for value in table["split"].to_pylist()]
    return table.append_column("role", pa.array(roles, pa.string()))
