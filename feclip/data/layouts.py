"""The layouts of labelled data sets: which one a folder has, and how it is read into a manifest.

mvtec   <category>/{train/good, test/good, test/<defect_type>, ground_truth/<defect_type>}   also MPDD, DTD-Synthetic
btad    the same with ``ok`` and ``ko``: <category>/{train/ok, test/ok, test/ko, ground_truth/ko}
visa    split_csv/1cls.csv: object, split, label, image, mask; paths below the root
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa

from feclip.data.mvtec import GOOD, read_mvtec
from feclip.data.storage import FolderEntry, absolute_uri, exists, join_uri, list_children
from feclip.data.visa import VISA_TABLE, read_visa
from feclip.errors import DataError

__all__ = ["LAYOUTS", "find_layout", "read_layout"]

BTAD_NORMAL = "ok"


def _read_mvtec(root: str, categories: Sequence[str] | None) -> pa.Table:
    return read_mvtec(root, categories=categories, require_masks=False)


def _read_btad(root: str, categories: Sequence[str] | None) -> pa.Table:
    return read_mvtec(root, categories=categories, require_masks=False, normal=BTAD_NORMAL)


LAYOUTS: Mapping[str, Callable[[str, Sequence[str] | None], pa.Table]] = MappingProxyType(
    {"mvtec": _read_mvtec, "visa": read_visa, "btad": _read_btad, "mpdd": _read_mvtec, "dtd": _read_mvtec}
)
"""How each layout is read, by its name."""


def find_layout(root: str) -> str:
    """Tell the layout of a folder from a look at its upper levels.

    Args:
        root: Path or URI.

    Returns:
        ``mvtec`` (which MPDD and DTD-Synthetic share), ``btad`` or ``visa``.

    Raises:
        DataError: If it could be several.
        StorageError: If the root cannot be listed.
    """
    root = absolute_uri(root)
    found = {"visa": join_uri(root, VISA_TABLE)} if exists(join_uri(root, VISA_TABLE)) else {}
    for category in _folders(root):
        names = _folders(join_uri(root, category, "test"))
        for layout, normal in (("mvtec", GOOD), ("btad", BTAD_NORMAL)):
            if normal in names:
                found.setdefault(layout, join_uri(root, category, "test", normal))
    if len(found) > 1:
        shown = " and ".join(f"{where} ({layout})" for layout, where in found.items())
        msg = f"{root} could have several layouts, since it holds {shown}; name one with data.layout."
        raise DataError(msg)
    return next(iter(found), "mvtec")  # whose reader says what it misses


def read_layout(root: str, *, layout: str = "auto", categories: Sequence[str] | None = None) -> pa.Table:
    """Read a labelled folder into a manifest; masks may be absent.

    Args:
        root: Path or URI.
        layout: ``auto``, or a name in `LAYOUTS`.
        categories: Names of those to read; None for all.

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
    return LAYOUTS[name](root, categories)


def _folders(uri: str) -> list[str]:
    """Return the names of the folders in a folder; none if it does not exist."""
    return [entry.uri.rstrip("/").rpartition("/")[2] for entry in list_children(uri) if isinstance(entry, FolderEntry)]
