"""Rows of a whole score table that hold a text, as CSV, while the table streams by."""

import csv
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc

from feclip.calibration import Statistic
from feclip.report.opened import ScoredTable

__all__ = ["print_found"]

_COLUMNS = ("row_id", "uri", *map(str, Statistic), "error_kind", "error")


def print_found(table: ScoredTable, *, text: str, to: TextIO) -> int:
    """Write the rows whose uri or error holds a text, upper or lower case, and return their number.

    Args:
        table: The table.
        text: What is looked for, literally.
        to: Where the CSV goes: a heading, then the rows in the order of the table.

    Raises:
        FeclipError: If a slice cannot be read, or the thresholds do not fit it.
    """
    is_decided = table.calibration is not None
    columns = [*_COLUMNS[:2], *table.partitions, *_COLUMNS[2:]]
    writer = csv.writer(to, lineterminator="\n")
    writer.writerow([*columns, *(["pred_label"] if is_decided else [])])
    num = 0
    for batch in table.batches(columns=_COLUMNS):
        holds = pc.match_substring(batch["uri"], text, ignore_case=True)
        in_error = pc.match_substring(batch["error"], text, ignore_case=True)
        found = batch.filter(pc.or_kleene(holds, pc.fill_null(in_error, fill_value=False)))
        if not len(found):
            continue
        rows = [found[name].to_pylist() for name in columns]
        if is_decided:
            rows.append(_labels(table, found))
        writer.writerows(zip(*rows, strict=True))
        num += len(found)
    return num


def _labels(table: ScoredTable, rows: pa.Table) -> list[str]:
    """Return what decides on each row in words; nothing where there is no score."""
    margins = table.margins(rows).tolist()
    return ["anomalous" if margin > 0 else "normal" if margin <= 0 else "" for margin in margins]
