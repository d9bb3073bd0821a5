"""Which normal images a memory bank is made of: so many of each group, by chance but always the same.

shots = merge of choose_shots(part, source, request) over all parts    runs anywhere; keeps no more than was asked for
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from feclip.archive.listing import MASK_COLUMN, Part, Source, list_part
from feclip.errors import DataError
from feclip.score_table import ANOMALOUS_LABELS

__all__ = ["MAX_SHOTS", "Shot", "ShotRequest", "choose_shots", "merge_shots"]

MAX_SHOTS = 100_000
"""Images of all groups together that are looked at; their tokens would pass the largest bundle long before."""


@dataclass(frozen=True, kw_only=True, order=True)
class Shot:
    """One normal image, ordered by chance."""

    chance: str
    """Digest of the seed and of the image's path below its archive."""
    uri: str
    size: int | None
    valid_mask_uri: str | None


@dataclass(frozen=True, kw_only=True)
class ShotRequest:
    """What is asked for."""

    shots: int | None
    """Images of each group; None for all."""
    group_column: str | None
    """Column of the groups; None where there is one group."""
    seed: int


Shots = Mapping[str, list[Shot]]
"""Chosen images by group, ascending; the group without a name where there is no column."""


def choose_shots(part: Part, source: Source, request: ShotRequest) -> Shots:
    """Choose among the images of a part.

    Raises:
        DataError: If an image is labelled anomalous, has no group, or there are too many.
        StorageError: If storage cannot be listed or read.
    """
    root = (source.archive or str(source.manifest).rpartition("/")[0]).rstrip("/") + "/"
    chosen: dict[str, list[Shot]] = {}
    for block in list_part(part, source):
        found: dict[str, list[Shot]] = {}
        for row in block.table.to_pylist():
            found.setdefault(_group(row, request.group_column), []).append(_shot(row, root=root, seed=request.seed))
        chosen = dict(merge_shots([chosen, found], request))
    return chosen


def merge_shots(parts: Iterable[Shots], request: ShotRequest) -> Shots:
    """Choose among what was chosen in parts; the result is the same for any division.

    Raises:
        DataError: If all are asked for and there are too many.
    """
    merged: dict[str, list[Shot]] = {}
    for part in parts:
        for group, shots in part.items():
            merged[group] = sorted([*merged.get(group, []), *shots])[: request.shots]
    if sum(map(len, merged.values())) > MAX_SHOTS:
        msg = f"a memory bank is made of at most {MAX_SHOTS} images; name fewer, or ask for some of each group."
        raise DataError(msg)
    return dict(sorted(merged.items()))


def _group(row: Mapping[str, Any], column: str | None) -> str:
    if str(row.get("label")).lower() in ANOMALOUS_LABELS:
        msg = f"{row['uri']} is labelled anomalous; a memory bank is made of normal images alone."
        raise DataError(msg)
    if column is None:
        return ""
    if row.get(column) is None:
        msg = (
            f"{row['uri']} has no {column}, by which the memory bank is to be divided; name it in the path, as in "
            f"{column}=<value>/image.jpg, or in a manifest."
        )
        raise DataError(msg)
    return str(row[column])


def _shot(row: Mapping[str, Any], *, root: str, seed: int) -> Shot:
    chance = hashlib.sha256(f"{seed}\n{row['uri'].removeprefix(root)}".encode("utf-8", "surrogatepass")).hexdigest()
    return Shot(chance=chance, uri=row["uri"], size=row["size"], valid_mask_uri=row[MASK_COLUMN])
