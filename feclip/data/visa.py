"""The layout of VisA (Zou et al., ECCV 2022): a table beside the images says what each of them is.

<root>/split_csv/1cls.csv                       object,split,label,image,mask
<root>/candle/Data/Images/Normal/0836.JPG       candle,train,normal,candle/Data/Images/Normal/0836.JPG,
<root>/candle/Data/Masks/Anomaly/000.png        masks hold 0 and a small number for each kind of defect
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from feclip.data.manifest import MAX_MANIFEST_BYTES, build_manifest
from feclip.data.storage import absolute_uri, exists, join_uri, read_bytes
from feclip.errors import DataError

__all__ = ["VISA_TABLE", "read_visa"]

VISA_TABLE = "split_csv/1cls.csv"
COLUMNS = ("object", "split", "label", "image", "mask")
_LABELS = {"normal": 0, "anomaly": 1}
_SUBSETS = ("train", "test")


def read_visa(root: str, categories: Sequence[str] | None = None) -> pa.Table:
    """Read a folder in VisA's layout into a manifest; only its table is read, no image.

    Args:
        root: Path or URI of the folder that holds ``split_csv``.
        categories: Objects to read; None for all.

    Returns:
        Manifest with ``category``, ``defect_type`` (good or anomaly), ``subset``, label and mask, in the table's order.

    Raises:
        DataError: If there is no such table, a row of it is not what it must be, or a category is missing.
        StorageError: If it cannot be read.
    """
    root = absolute_uri(root)
    where = join_uri(root, VISA_TABLE)
    if not exists(where):
        msg = f"{root} is not in VisA's layout: it has no {VISA_TABLE}."
        raise DataError(msg)
    rows = [_row(row, where=f"{where}, row {number}") for number, row in enumerate(_lines(where), start=1)]
    available = sorted({row["category"] for row in rows})
    missing = [name for name in categories or () if name not in available]
    if missing:
        msg = f"{root} has no images of category {', '.join(missing)}; available: {', '.join(available)}."
        raise DataError(msg)
    chosen = rows if categories is None else [row for row in rows if row["category"] in categories]
    return build_manifest(chosen, root=root, source=where)


def _lines(where: str) -> list[dict[str, str]]:
    try:
        text = read_bytes(where, max_bytes=MAX_MANIFEST_BYTES).decode("utf-8-sig")
        lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = [name.strip() for name in lines.fieldnames or ()]
        lines.fieldnames = names
        rows = list(lines)
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{where} is no valid CSV in UTF-8: {error}."
        raise DataError(msg) from error
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        msg = f"{where} lacks the column {', '.join(missing)}; VisA's table has {', '.join(COLUMNS)}."
        raise DataError(msg)
    return rows


def _row(row: dict[str, str], *, where: str) -> dict[str, Any]:
    values = {name: (row[name] or "").strip() for name in COLUMNS}
    for name, known in (("label", tuple(_LABELS)), ("split", _SUBSETS)):
        if values[name] not in known:
            msg = f"{where}: {name} must be {' or '.join(known)}, got {values[name]!r}."
            raise DataError(msg)
    if not values["object"] or not values["image"]:
        msg = f"{where}: object and image must not be empty."
        raise DataError(msg)
    label = _LABELS[values["label"]]
    return {
        "path": values["image"],
        "label": label,
        "mask_path": values["mask"] or None,
        "category": values["object"],
        "defect_type": "anomaly" if label else "good",
        "subset": values["split"],
    }
