"""Which image may do what: four splits, assigned from one seed, and the check that no picture plays two roles.

A *cell* is a category's normal or its anomalous images; a *unit* is what must stay together: a group, or one image.
The assignment depends on the seed and on the images' relative paths only: not on the order of rows, nor on the root.
"""

import enum
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from feclip.errors import DataError

__all__ = ["Split", "assign_splits", "overlap_check"]


class Split(enum.StrEnum):
    """What an image may be used for."""

    TRAIN = "train"
    """Adapters learn from it."""
    HELD_OUT = "held_out"
    """Every choice is made on it: metrics per epoch, Tune's objective."""
    CALIBRATION = "calibration"
    """Normal images only; thresholds are fitted on it."""
    REPORT = "report"
    """Opened by evaluation alone; nothing is chosen on it."""


_DIVIDED = (Split.TRAIN, Split.HELD_OUT, Split.REPORT)  # the order of the fractions


class _Cell(NamedTuple):
    category: str
    label: int  # -1 where unknown


@dataclass
class _Unit:
    """Images that no split divides."""

    name: str
    rows: list[int] = field(default_factory=list)
    cells: Counter[_Cell] = field(default_factory=Counter)
    defect_types: Counter[str] = field(default_factory=Counter)
    subsets: set[str | None] = field(default_factory=set)

    @property
    def cell(self) -> _Cell:
        """The cell it counts for: that of its anomalous images if it has any, then the most frequent."""
        return max(self.cells, key=lambda cell: (cell.label, self.cells[cell], cell.category))

    @property
    def defect_type(self) -> str:
        """The most frequent defect type."""
        return max(self.defect_types, key=lambda name: (self.defect_types[name], name))


def assign_splits(
    table: pa.Table,
    *,
    protocol: str,
    fractions: Sequence[float],
    group_column: str | None = None,
    seed: int,
) -> pa.Table:
    """Give every image of a manifest its split.

    A manifest that tells the split in every row keeps it. Otherwise images of subset ``train`` (MVTec's train/good)
    are for calibration, and the others, or all of a manifest without subsets, train under protocol ``a``, and are
    divided by the fractions under protocol ``b``. There each category's normal and anomalous images are divided in
    shares as near to the fractions as whole images allow, defect types evenly among them; rounding is carried from
    cell to cell, so that many small cells keep the shares overall; a cell of enough units has one in every split.

    Args:
        table: Manifest.
        protocol: ``a`` or ``b``.
        fractions: Shares of train, held_out and report, in this order; they sum to 1. Read under protocol b only.
        group_column: Column whose equal values stay in one split; None for ``group``. Rows without a value are
            groups of their own.
        seed: Chooses among the images.

    Returns:
        The table with its column ``split`` filled.

    Raises:
        DataError: If the splits given are incomplete, unknown or unfit, a group would be divided, or an option is
            not what it must be.
    """
    _check_options(table, protocol=protocol, fractions=fractions, group_column=group_column)
    rows = table.to_pylist()
    units = _units(rows, group_column=group_column or "group")
    given = [row["split"] for row in rows]
    if any(value is not None for value in given):
        _check_given(given)
        splits = [Split(value) for value in given]
    else:
        _check_subsets(units)
        splits = [Split.CALIBRATION if row["subset"] == "train" else Split.TRAIN for row in rows]
        divided = [unit for unit in units if unit.subsets != {"train"}] if protocol == "b" else []
        for unit, split in _divide(divided, fractions=fractions, seed=seed):
            for index in unit.rows:
                splits[index] = split
    _check_assigned(rows, splits, units)
    column = pa.array([split.value for split in splits], pa.string())
    return table.set_column(table.schema.get_field_index("split"), "split", column)


def overlap_check(first: pa.Table, second: pa.Table) -> pa.Table:
    """Find pictures of one table that stand in another too, whatever their names: the leakage check between roles.

    Args:
        first: Rows with ``uri``, ``sha256`` and ``pixel_digest``, as `inspect_rows` fills them.
        second: The same; nulls match nothing.

    Returns:
        The offending rows of ``first`` with the columns ``uri``, ``other_uri`` and ``reason``: ``sha256`` for the
        same file, ``pixel_digest`` for another file with the same pixels.
    """
    others: dict[str, dict[str, str]] = {"sha256": {}, "pixel_digest": {}}
    for column, known in others.items():
        for digest, uri in zip(second[column].to_pylist(), second["uri"].to_pylist(), strict=True):
            if digest is not None:
                known.setdefault(digest, uri)
    offending = []
    for row in first.select(["uri", "sha256", "pixel_digest"]).to_pylist():
        reason = next((column for column, known in others.items() if row[column] in known), None)
        if reason is not None:
            offending.append({"uri": row["uri"], "other_uri": others[reason][row[reason]], "reason": reason})
    return pa.Table.from_pylist(offending, schema=pa.schema(dict.fromkeys(("uri", "other_uri", "reason"), pa.string())))


def _check_options(table: pa.Table, *, protocol: str, fractions: Sequence[float], group_column: str | None) -> None:
    if protocol not in {"a", "b"}:
        msg = f"protocol must be a (all test images train) or b (a part is held out), got {protocol!r}."
        raise DataError(msg)
    total = math.isclose(sum(fractions), 1, abs_tol=1e-6)
    if len(fractions) != len(_DIVIDED) or not total or min(fractions) < 0 or fractions[0] == 0:
        msg = f"fractions must be three shares (train > 0, held_out, report) that sum to 1, got {tuple(fractions)}."
        raise DataError(msg)
    if group_column is not None and group_column not in table.column_names:
        msg = f"The manifest has no group column {group_column!r}; it has {', '.join(table.column_names)}."
        raise DataError(msg)


def _check_given(given: Sequence[str | None]) -> None:
    known = {split.value for split in Split}
    for number, value in enumerate(given, start=1):
        if value is None:
            msg = f"Row {number} of the manifest has no split although others have; fill all rows or none."
            raise DataError(msg)
        if value not in known:
            msg = f"Row {number} of the manifest has the unknown split {value!r}; it must be one of {', '.join(Split)}."
            raise DataError(msg)


def _check_subsets(units: Iterable[_Unit]) -> None:
    for unit in units:
        unknown = unit.subsets - {None, "train", "test"}
        if unknown:
            msg = f"The manifest's column subset must hold train or test, got {next(iter(unknown))!r}."
            raise DataError(msg)
        if "train" in unit.subsets and len(unit.subsets) > 1:
            msg = (
                f"Group {unit.name!r} stands in subset train and outside of it, so a split would divide it; part them."
            )
            raise DataError(msg)


def _check_assigned(rows: Sequence[Mapping[str, Any]], splits: Sequence[Split], units: Iterable[_Unit]) -> None:
    for unit in units:
        found = sorted({splits[index] for index in unit.rows})
        if len(found) > 1:
            msg = f"Group {unit.name!r} is divided between the splits {' and '.join(found)}; give its images one split."
            raise DataError(msg)
    for row, split in zip(rows, splits, strict=True):
        if split is Split.CALIBRATION and row["label"] == 1:
            msg = f"{row['uri']} is anomalous and cannot be in the calibration split, which holds normal images only."
            raise DataError(msg)


def _units(rows: Sequence[Mapping[str, Any]], *, group_column: str) -> list[_Unit]:
    units: dict[tuple[str, str], _Unit] = {}
    for index, row in enumerate(rows):
        group = row.get(group_column)
        key = ("image", row["path"]) if group is None else ("group", str(group))
        unit = units.setdefault(key, _Unit(name=key[1]))
        label = -1 if row["label"] is None else row["label"]
        unit.rows.append(index)
        unit.cells[_Cell(row["category"] or "", label)] += 1
        unit.defect_types[row["defect_type"] or ""] += 1
        unit.subsets.add(row["subset"])
    return list(units.values())


def _divide(units: Iterable[_Unit], *, fractions: Sequence[float], seed: int) -> Iterable[tuple[_Unit, Split]]:
    """Divide units among train, held_out and report, cell by cell; what rounding leaves over goes to the next cell."""
    cells: dict[_Cell, list[_Unit]] = defaultdict(list)
    for unit in units:
        cells[unit.cell].append(unit)
    carry = [0.0] * len(fractions)
    for cell in sorted(cells):
        ordered = sorted(cells[cell], key=lambda unit: _order(unit, cell=cell, seed=seed))
        total = sum(len(unit.rows) for unit in ordered)
        wishes = [total * share + rest for share, rest in zip(fractions, carry, strict=True)]
        num_open = sum(share > 0 for share in fractions)
        least = [int(share > 0 and len(ordered) >= num_open) for share in fractions]
        quotas = _whole_numbers(wishes, total=total, least=least)
        assigned = [0] * len(fractions)
        for unit, chosen in zip(ordered, _spread(ordered, quotas=quotas, least=least), strict=True):
            assigned[chosen] += len(unit.rows)
            yield unit, _DIVIDED[chosen]
        carry = [wish - count for wish, count in zip(wishes, assigned, strict=True)]
        excess = max(1.0, *map(abs, carry))  # what the least numbers force is not made up for by later cells
        carry = [rest / excess for rest in carry]


def _order(unit: _Unit, *, cell: _Cell, seed: int) -> tuple[str, str]:
    """Sort by defect type, then image; both in an order that the seed alone decides."""

    def draw(*words: str) -> str:
        return hashlib.sha256("\n".join([str(seed), cell.category, str(cell.label), *words]).encode()).hexdigest()

    return draw(unit.defect_type), draw(unit.defect_type, unit.name)


def _whole_numbers(wishes: Sequence[float], *, total: int, least: Sequence[int]) -> list[int]:
    """Round wishes to whole numbers of the given sum, by largest remainder, none below its least."""
    numbers = [max(low, math.floor(wish)) for wish, low in zip(wishes, least, strict=True)]
    while sum(numbers) != total:
        step = 1 if sum(numbers) < total else -1
        free = [index for index, low in enumerate(least) if step > 0 or numbers[index] > low]
        gaps = {index: step * (wishes[index] - numbers[index]) for index in free}
        numbers[max(gaps, key=lambda index: (gaps[index], wishes[index], -index))] += step
    return numbers


def _spread(units: Sequence[_Unit], *, quotas: Sequence[int], least: Sequence[int]) -> Iterable[int]:
    """Yield the index of each unit's split so that at any point all splits are about equally full.

    Since units come sorted by defect type, each type is divided in about the same shares as the whole cell.
    """
    total, done = sum(quotas), 0
    filled = [0] * len(quotas)
    for position, unit in enumerate(units):
        done += len(unit.rows)
        empty = [index for index, low in enumerate(least) if low and not filled[index]]
        allowed = empty if len(units) - position <= len(empty) else [i for i, quota in enumerate(quotas) if quota]
        chosen = max(allowed, key=lambda index: (quotas[index] * done / total - filled[index], quotas[index], -index))
        filled[chosen] += len(unit.rows)
        yield chosen
