"""Which images judge a bundle: read from their layout, given the splits of its training, checked before any work."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feclip.config import DataConfig, EvaluationDataConfig
from feclip.data import Split, assign_splits, read_layout, read_manifest
from feclip.errors import DataError
from feclip.score_table import SCORE_SCHEMA

__all__ = ["WHOLE", "check_selection", "read_images", "scored_manifest", "select_images"]

WHOLE = "all"
"""Category of images that have none."""
_DROPPED = ("path", "sha256", "subset")  # said by uri, found anew, said by split


def read_images(config: EvaluationDataConfig) -> pa.Table:
    """Read the labelled images of all categories; images without a category get `WHOLE`.

    Returns:
        Manifest.

    Raises:
        DataError: If the folder or the table is not what it must be, or a wanted category is missing.
        StorageError: If it cannot be read.
    """
    if config.manifest is not None:
        table = read_manifest(config.manifest, root=config.root)
    else:
        assert config.root is not None  # EvaluationDataConfig requires one of the two
        table = read_layout(config.root, layout=str(config.layout))
    category = pc.fill_null(table["category"], WHOLE)
    table = table.set_column(table.schema.get_field_index("category"), "category", category)
    available = sorted(set(category.to_pylist()))
    missing = [name for name in config.categories or () if name not in available]
    if missing:
        where = config.manifest or config.root
        msg = f"{where} has no images of category {', '.join(missing)}; available: {', '.join(available)}."
        raise DataError(msg)
    return table


def select_images(
    table: pa.Table, config: EvaluationDataConfig, *, split: str | None, training: Mapping[str, Any]
) -> pa.Table:
    """Return the images that judge one bundle, each with the split it has under protocol b.

    Categories that trained together are divided on their own, as they were for training: so on the data it was
    trained on under protocol b, a bundle's report split is what it has never seen.

    Args:
        table: As `read_images` returns it.
        config: What the user chose; null fields are taken from the training.
        split: The split to judge; None for all images but those of ``train/good``, which calibrate.
        training: The config of the run that wrote the bundle.

    Returns:
        Rows of the table, sorted by category and path.

    Raises:
        DataError: If splits cannot be given, or no image is left.
    """
    trained_with: Mapping[str, Any] = training.get("data", {})
    is_folder = trained_with.get("manifest") is None  # training takes a manifest as a whole
    together = set(trained_with.get("categories") or ()) if is_folder else set()
    is_trained = pc.is_in(table["category"], value_set=pa.array(sorted(together), pa.string()))
    column = config.group_column or trained_with.get("group_column")
    if config.group_column is None and column not in table.column_names:
        column = None
    fractions = config.fractions or trained_with.get("fractions") or DataConfig().fractions
    seed = training.get("seed", 0) if config.seed is None else config.seed
    parts = [
        assign_splits(part, protocol="b", fractions=tuple(fractions), group_column=column, seed=seed)
        for part in (table.filter(is_trained), table.filter(pc.invert(is_trained)))
        if part.num_rows
    ]
    divided = pa.concat_tables(parts)
    wanted = pc.field("split") != Split.CALIBRATION.value if split is None else pc.field("split") == split
    if config.categories is not None:
        wanted &= pc.field("category").isin(list(config.categories))
    chosen = divided.filter(wanted).sort_by([("category", "ascending"), ("path", "ascending")])
    if not chosen.num_rows:
        msg = f"{config.manifest or config.root} has no image in {'its test images' if split is None else split}."
        raise DataError(msg)
    return chosen


def check_selection(images: pa.Table, *, source: str) -> None:
    """Check that images can be judged on.

    Args:
        images: As `select_images` returns them.
        source: Where they come from, for messages.

    Raises:
        DataError: If a label is unknown, or one of the two classes is absent everywhere.
    """
    labels = images["label"]
    if labels.null_count:
        first = images.filter(labels.is_null())["uri"][0].as_py()
        msg = (
            f"{labels.null_count} of {images.num_rows} images of {source} have no label, first {first}; give them one."
        )
        raise DataError(msg)
    counts = images.group_by("category").aggregate([("label", "min"), ("label", "max")]).to_pylist()
    if any(row["label_min"] != row["label_max"] for row in counts):
        return
    kinds = {"normal" if row["label_max"] == 0 else "anomalous" for row in counts}
    told = f"all {images.num_rows} images are {kinds.pop()}" if len(kinds) == 1 else "each category has one kind alone"
    msg = f"{source} cannot judge: {told}; AUROC needs normal and anomalous images of one category."
    raise DataError(msg)


def scored_manifest(images: pa.Table) -> pa.Table:
    """Return the rows as a manifest for scoring: what the metrics need, and the columns that thresholds may go by."""
    taken = {*SCORE_SCHEMA.names, *_DROPPED} - {"uri"}
    return images.drop_columns([name for name in images.column_names if name in taken])
