"""The layouts of labelled data sets: which one a folder has, and how it is read into a manifest.

mvtec   <category>/{train/good, test/good, test/<defect_type>, ground_truth/<defect_type>}   also MPDD, DTD-Synthetic
btad    the same with ``ok`` and ``ko``: <category>/{train/ok, test/ok, test/ko, ground_truth/ko}
visa    split_csv/1cls.csv: object, split, label, image, mask; paths below the root
dagm    <category>/{Train, Test}/<number>.PNG, and Label/<number>_label.PNG beside those that are anomalous
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa

from feclip.data.dagm import DAGM_LABELS, DAGM_TEST, read_dagm
from feclip.data.mvtec import GOOD, read_mvtec
from feclip.data.storage import FolderEntry, absolute_uri, exists, join_uri, list_children
from feclip.data.visa import VISA_TABLE, read_visa
from feclip.errors import DataError

__all__ = ["LAYOUTS", "find_layout", "read_layout"]

BTAD_NORMAL = "ok"
_MARKS = {"mvtec": ("test", GOOD), "btad": ("test", BTAD_NORMAL), "dagm": (DAGM_TEST, DAGM_LABELS)}
"""Folders of a category that one layout alone has: in the first, one of the second's name."""


def _read_folders(root: str, *, categories: Sequence[str] | None, trains: bool, normal: str = GOOD) -> pa.Table:
    return read_mvtec(root, categories=categories, require_defects=trains, require_masks=trains, normal=normal)


def _read_listed(
    read: Callable[[str, Sequence[str] | None], pa.Table],
    root: str,
    *,
    categories: Sequence[str] | None,
    trains: bool,
) -> pa.Table:
    table = read(root, categories)
    return _with_defects(table, root=root) if trains else table


LAYOUTS: Mapping[str, Callable[..., pa.Table]] = MappingProxyType(
    {
        "mvtec": _read_folders,
        "visa": functools.partial(_read_listed, read_visa),
        "btad": functools.partial(_read_folders, normal=BTAD_NORMAL),
        "mpdd": _read_folders,
        "dtd": _read_folders,
        "dagm": functools.partial(_read_listed, read_dagm),
    }
)
"""How each layout is read, by its name: of a root, ``categories``, and whether its images are to train."""


def find_layout(root: str) -> str:
    """Tell the layout of a folder from a look at its upper levels.

    Args:
        root: Path or URI.

    Returns:
        ``mvtec`` (which MPDD and DTD-Synthetic share), ``btad``, ``visa`` or ``dagm``.

    Raises:
        DataError: If it could be several.
        StorageError: If the root cannot be listed.
    """
    root = absolute_uri(root)
    found = {"visa": join_uri(root, VISA_TABLE)} if exists(join_uri(root, VISA_TABLE)) else {}
    for category in _folders(root):
        names = {folder: _folders(join_uri(root, category, folder)) for folder in ("test", DAGM_TEST)}
        for layout, (folder, mark) in _MARKS.items():
            if mark in names[folder]:
                found.setdefault(layout, join_uri(root, category, folder, mark))
    if len(found) > 1:
        shown = " and ".join(f"{where} ({layout})" for layout, where in found.items())
        msg = f"{root} could have several layouts, since it holds {shown}; name one with data.layout."
        raise DataError(msg)
    return next(iter(found), "mvtec")  # whose reader says what it misses


def read_layout(
    root: str, *, layout: str = "auto", categories: Sequence[str] | None = None, trains: bool = False
) -> pa.Table:
    """Read a labelled folder into a manifest.

    Args:
        root: Path or URI.
        layout: ``auto``, or a name in `LAYOUTS`.
        categories: Names of those to read; None for all.
        trains: Whether the images are to train: then each category needs anomalous ones, and in the layouts of folders
            each of these its mask.

    Returns:
        Manifest with ``category``, ``defect_type``, ``subset`` (train or test), label and, where there is one, mask.

    Raises:
        DataError: If the layout is unknown or ambiguous, or the folder is not what it must be.
        StorageError: If it cannot be listed or read.
    """
    name = find_layout(root) if layout == "auto" else layout
    if name not in LAYOUTS:
        msg = f"data.layout must be auto or one of {', '.join(LAYOUTS)}, got {layout!r}."
        raise DataError(msg)
    return LAYOUTS[name](root, categories=categories, trains=trains)


def _with_defects(table: pa.Table, *, root: str) -> pa.Table:
    """Return the table, whose categories must all have anomalous images."""
    rows = table.group_by("category").aggregate([("label", "max")]).to_pylist()
    without = sorted(row["category"] for row in rows if not row["label_max"])
    if without:
        msg = f"{root}: category {', '.join(without)} has no anomalous images; training needs some."
        raise DataError(msg)
    return table


def _folders(uri: str) -> list[str]:
    """Return the names of the folders in a folder; none if it does not exist."""
    return [entry.uri.rstrip("/").rpartition("/")[2] for entry in list_children(uri) if isinstance(entry, FolderEntry)]
