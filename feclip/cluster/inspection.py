"""Look at every image once before training starts, in tasks all over the cluster."""

import logging
import time

import pyarrow as pa
import pyarrow.compute as pc
import ray

from feclip.config import FinetuneConfig
from feclip.data import Split, group_values, inspect_rows, overlap_check
from feclip.errors import DataError
from feclip.progress import Progress

__all__ = ["checked_images", "inspected"]

logger = logging.getLogger(__name__)

IMAGES_PER_TASK = 32
SHOWN_ERRORS = 3  # one line names so many files; all of them are counted
ROLES = {Split.TRAIN: "trained", Split.HELD_OUT: "selected"}  # what an image did to the bundle


def checked_images(manifest: pa.Table, *, config: FinetuneConfig) -> pa.Table:
    """Return the rows that train or select, found whole, with their role and digests.

    Raises:
        DataError: If none is left to train on, or one cannot be used.
    """
    used = manifest.filter(pc.field("split").isin([split.value for split in ROLES]))
    trained = used.filter(pc.field("split") == Split.TRAIN.value)
    if trained.num_rows == 0:
        msg = f"No image is left to train on in {config.data.manifest or config.data.root}; check the splits."
        raise DataError(msg)
    if config.model.nouns is not None:
        logger.info(config.model.tell_nouns(group_values(used, config.model.noun_column)))
    if used.num_rows == trained.num_rows:
        logger.info("No image is held out (data.protocol a), so epochs report the training loss only.")
    if not pc.any(trained["has_mask"]).as_py():
        logger.info("No image has a gt mask, so the mask loss is off and image labels alone train (L_cls).")
    table = inspected(used, config=config)
    roles = [ROLES[Split(value)] for value in table["split"].to_pylist()]
    return table.append_column("role", pa.array(roles, pa.string()))


def inspected(table: pa.Table, *, config: FinetuneConfig) -> pa.Table:
    """Return ``table`` with sha256, pixel digest and size of each image.

    Decoding everything first costs about one epoch's reading, and turns a bad file into one line at the start
    instead of a failed worker in the middle; the digests go into the bundle.

    Raises:
        DataError: If any image or mask cannot be used; names the first ones and counts all.
    """
    started = time.monotonic()
    slices = [table.slice(start, IMAGES_PER_TASK) for start in range(0, table.num_rows, IMAGES_PER_TASK)]
    task = ray.remote(num_cpus=1)(inspect_rows)
    tasks = [task.remote(rows, num_threads=config.data.num_workers) for rows in slices]
    parts = []
    with Progress("Checking", table.num_rows, unit="images") as progress:
        for reference in tasks:
            part = ray.get(reference)
            parts.append(part)
            progress.advance(part.num_rows, errors=part.num_rows - part["error"].null_count)
    checked = pa.concat_tables(parts)
    errors = [error for error in checked["error"].to_pylist() if error]
    if errors:
        shown = "; ".join(errors[:SHOWN_ERRORS])
        rest = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        msg = f"{len(errors)} of {checked.num_rows} images cannot be used: {shown}{rest}"
        raise DataError(msg)
    logger.info("Checked %d images in %.1f s", checked.num_rows, time.monotonic() - started)
    _warn_of_overlap(checked)
    return checked.drop_columns(["error"])


def _warn_of_overlap(checked: pa.Table) -> None:
    train = checked.filter(pc.field("split") == "train")
    held_out = checked.filter(pc.field("split") == "held_out")
    repeated = overlap_check(train, held_out)
    if repeated.num_rows:
        logger.warning(
            "%d held-out images are pictures that also train, first %s: metrics of epochs are too good; give them one "
            "group (data.group_column) or remove them.",
            repeated.num_rows,
            repeated["uri"][0].as_py(),
        )
