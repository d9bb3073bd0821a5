"""The folder layout of MVTec AD and its many followers (MPDD, DTD-Synthetic, BTAD), read with one listing.

<root>/<category>/train/good/*            normal images
<root>/<category>/test/good/*             normal images
<root>/<category>/test/<defect_type>/*    anomalous images
<root>/<category>/ground_truth/<defect_type>/<stem>_mask.* or <stem>.*   one gt mask for each of them

BTAD calls its normal images ``ok`` instead of ``good``.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from feclip.data.decode import IMAGE_SUFFIXES
from feclip.data.manifest import build_manifest
from feclip.data.storage import absolute_uri, is_dir, is_local, join_uri, list_files
from feclip.errors import DataError

__all__ = ["read_mvtec"]

logger = logging.getLogger(__name__)

GOOD = "good"
_LAYOUT = "<category>/{train/good, test/good, test/<defect_type>, ground_truth/<defect_type>}"


@dataclass
class _Listing:
    """The files of one root, by what they are; paths are relative to the root."""

    images: list[PurePosixPath] = field(default_factory=list)
    masks: dict[tuple[str, str, str], PurePosixPath] = field(default_factory=dict)  # category, defect type, stem
    others: list[PurePosixPath] = field(default_factory=list)  # no images by their name
    misplaced: list[PurePosixPath] = field(default_factory=list)  # images outside of the layout


def read_mvtec(
    root: str,
    *,
    categories: Sequence[str] | None = None,
    require_defects: bool = False,
    require_masks: bool = True,
    normal: str = GOOD,
) -> pa.Table:
    """Read a folder in MVTec layout into a manifest.

    Files that are no images (by their ending) and images outside of the layout are left out with one log line each.

    Args:
        root: Path or URI of the folder that holds the categories.
        categories: Names of those to read; None for all.
        require_defects: Whether a category without anomalous images is an error, as it is for training.
        require_masks: Whether an anomalous image without a mask is an error, as it is for training.
        normal: Name of the folders of normal images.

    Returns:
        Manifest with ``category``, ``defect_type``, ``subset`` (train or test), label and mask of each image, sorted
        by path.

    Raises:
        DataError: If there are no images, a category is missing or lacks what it needs, or an anomalous image has
            no mask where it must, or more than one.
        StorageError: If the root cannot be listed.
    """
    root = absolute_uri(root)
    listing = _list(root, normal=normal)
    _report(listing, root=root)
    rows = _rows(
        listing,
        root=root,
        categories=_chosen(listing, root=root, categories=categories),
        require_masks=require_masks,
        normal=normal,
    )
    if require_defects:
        _check_defects(rows, root=root)
    return build_manifest(rows, root=root, source=root)


def _list(root: str, *, normal: str) -> _Listing:
    if is_local(root) and not is_dir(root):
        msg = f"The data root {root} does not exist or is no folder."
        raise DataError(msg)
    listing = _Listing()
    for entry in list_files(root, within=root):
        path = PurePosixPath(entry.uri[len(root.rstrip("/")) + 1 :])
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            listing.others.append(path)
            continue
        match path.parts:
            case [_, "train", folder, _] if folder == normal:
                listing.images.append(path)
            case [_, "test", _, _]:
                listing.images.append(path)
            case [category, "ground_truth", defect_type, _]:
                _add_mask(listing, path, key=(category, defect_type, path.stem), root=root)
            case _:
                listing.misplaced.append(path)
    return listing


def _add_mask(listing: _Listing, path: PurePosixPath, *, key: tuple[str, str, str], root: str) -> None:
    first = listing.masks.setdefault(key, path)
    if first != path:
        msg = f"{root}: {first} and {path} are masks of the same image; keep one."
        raise DataError(msg)


def _report(listing: _Listing, *, root: str) -> None:
    if listing.others:
        logger.info("%s: %d files are no images, e.g. %s; left out.", root, len(listing.others), listing.others[0])
    if listing.misplaced:
        logger.warning(
            "%s: %d images stand outside of the layout, e.g. %s; left out.",
            root,
            len(listing.misplaced),
            listing.misplaced[0],
        )


def _chosen(listing: _Listing, *, root: str, categories: Sequence[str] | None) -> list[str]:
    available = sorted({path.parts[0] for path in listing.images})
    if not available:
        msg = f"{root} holds no images in MVTec layout, {_LAYOUT}."
        if any(path.parts[0] in {"train", "test"} for path in listing.misplaced):
            msg = f"{root} looks like one category; give the folder above it as root and the category by its name."
        raise DataError(msg)
    if categories is None:
        return available
    missing = [name for name in categories if name not in available]
    if missing:
        msg = f"{root} has no images of category {', '.join(missing)}; available: {', '.join(available)}."
        raise DataError(msg)
    return sorted(set(categories))


def _rows(
    listing: _Listing, *, root: str, categories: Iterable[str], require_masks: bool, normal: str
) -> list[dict[str, Any]]:
    wanted = set(categories)
    used: dict[PurePosixPath, PurePosixPath] = {}
    rows = []
    for path in listing.images:
        category, subset, defect_type, _ = path.parts
        if category not in wanted:
            continue
        anomalous = defect_type != normal
        mask = _mask_of(path, listing=listing, root=root) if subset == "test" else None
        if mask is not None and used.setdefault(mask, path) != path:
            msg = f"{root}: {used[mask]} and {path} share the mask {mask}; an image's name must be its own."
            raise DataError(msg)
        if mask is None and anomalous and require_masks:
            expected = f"{category}/ground_truth/{defect_type}/{path.stem}_mask.png"
            msg = f"{join_uri(root, str(path))} is anomalous but has no mask; expected {expected} (or {path.stem}.png)."
            raise DataError(msg)
        rows.append(
            {
                "path": str(path),
                "label": int(anomalous),
                "mask_uri": None if mask is None else join_uri(root, str(mask)),
                "category": category,
                "defect_type": defect_type,
                "subset": subset,
            }
        )
    orphans = [path for key, path in listing.masks.items() if key[0] in wanted and path not in used]
    if orphans:
        logger.warning("%s: %d masks belong to no image, e.g. %s; left out.", root, len(orphans), orphans[0])
    return rows


def _mask_of(path: PurePosixPath, *, listing: _Listing, root: str) -> PurePosixPath | None:
    category, _, defect_type, _ = path.parts
    named = listing.masks.get((category, defect_type, f"{path.stem}_mask"))
    bare = listing.masks.get((category, defect_type, path.stem))
    if named is not None and bare is not None:
        msg = f"{root}: {path} has two masks, {named} and {bare}; keep one."
        raise DataError(msg)
    return named or bare


def _check_defects(rows: Iterable[dict[str, Any]], *, root: str) -> None:
    anomalous: dict[str, bool] = {}
    for row in rows:
        anomalous[row["category"]] = anomalous.get(row["category"], False) or row["label"] == 1
    without = sorted(category for category, has_defects in anomalous.items() if not has_defects)
    if without:
        msg = (
            f"{root}: category {', '.join(without)} has no anomalous images in test/<defect_type>; training needs some."
        )
        raise DataError(msg)
