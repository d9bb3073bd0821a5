"""The layout of DAGM 2007 (Wieler and Hahn): numbered images, and beside them a label for each anomalous one.

<root>/Class1/Test/0001.PNG                normal: no label has its number
<root>/Class1/Test/0002.PNG                anomalous
<root>/Class1/Test/Label/0002_label.PNG    its gt mask, a rough ellipse
<root>/Class1/Train/...                    the same; normal ones calibrate, anomalous ones are left out

``Label/Labels.txt``, which says the same once more, is not read.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from feclip.data.decode import IMAGE_SUFFIXES
from feclip.data.manifest import build_manifest
from feclip.data.storage import absolute_uri, join_uri, list_files
from feclip.errors import DataError

__all__ = ["DAGM_LABELS", "DAGM_TEST", "read_dagm"]

logger = logging.getLogger(__name__)

DAGM_TEST, DAGM_LABELS = "Test", "Label"
_SUBSETS = {"Train": "train", DAGM_TEST: "test"}
_MASK_ENDING = "_label"
_LAYOUT = "<category>/{Train, Test}/<number>.PNG and Label/<number>_label.PNG beside those that are anomalous"


def read_dagm(root: str, categories: Sequence[str] | None = None) -> pa.Table:
    """Read a folder in DAGM's layout into a manifest, from its listing alone.

    Args:
        root: Path or URI of the folder that holds the classes.
        categories: Classes to read; None for all.

    Returns:
        Manifest with ``category``, ``defect_type`` (good or anomaly), ``subset``, label and mask, sorted by path.

    Raises:
        DataError: If there are no images, a class is missing, or a label has no image.
        StorageError: If the root cannot be listed.
    """
    root = absolute_uri(root)
    images, masks = _list(root)
    available = sorted({path.parts[0] for path in images})
    if not available:
        msg = f"{root} holds no images in DAGM's layout, {_LAYOUT}."
        raise DataError(msg)
    missing = [name for name in categories or () if name not in available]
    if missing:
        msg = f"{root} has no images of category {', '.join(missing)}; available: {', '.join(available)}."
        raise DataError(msg)
    wanted = set(available if categories is None else categories)
    known = set(map(_key, images))
    orphans = sorted(str(path) for key, path in masks.items() if path.parts[0] in wanted and key not in known)
    if orphans:
        msg = f"{root}: {orphans[0]} is the label of no image, so an image is missing or misnamed."
        raise DataError(msg)
    rows = [_row(path, mask=masks.get(_key(path)), root=root) for path in images if path.parts[0] in wanted]
    kept = [row for row in rows if row["subset"] == "test" or not row["label"]]
    if len(kept) < len(rows):
        logger.info("%s: %d anomalous images of Train are left out.", root, len(rows) - len(kept))
    return build_manifest(kept, root=root, source=root)


def _list(root: str) -> tuple[list[PurePosixPath], dict[PurePosixPath, PurePosixPath]]:
    """Return the images, and the masks by what `_key` says of their images; paths are relative to the root."""
    images: list[PurePosixPath] = []
    masks: dict[PurePosixPath, PurePosixPath] = {}
    for entry in list_files(root, within=root):
        path = PurePosixPath(entry.uri[len(root.rstrip("/")) + 1 :])
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        match path.parts:
            case [_, half, _] if half in _SUBSETS:
                images.append(path)
            case [category, half, folder, _] if half in _SUBSETS and folder == DAGM_LABELS:
                masks[PurePosixPath(category, half, path.stem.removesuffix(_MASK_ENDING))] = path
    twice = [key for key, count in Counter(map(_key, images)).items() if count > 1]
    if twice:
        msg = f"{root}: several images are called {twice[0]}, so their label is ambiguous; keep one."
        raise DataError(msg)
    return images, masks


def _key(path: PurePosixPath) -> PurePosixPath:
    """Return an image's path without its ending, by which its label is found."""
    return path.with_suffix("")


def _row(path: PurePosixPath, *, mask: PurePosixPath | None, root: str) -> dict[str, Any]:
    category, half, _ = path.parts
    return {
        "path": str(path),
        "label": int(mask is not None),
        "mask_uri": None if mask is None else join_uri(root, str(mask)),
        "category": category,
        "defect_type": "good" if mask is None else "anomaly",
        "subset": _SUBSETS[half],
    }
