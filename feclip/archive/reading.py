"""Slices of a score table and of decisions, read back and held against what this run must have written."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feclip.archive.run import Run, slice_name
from feclip.calibration import Statistic
from feclip.config import OPTIONAL_COLUMNS
from feclip.data import DAMAGED_PARQUET, join_uri, read_bytes
from feclip.errors import RunError
from feclip.score_table import SCORE_SCHEMA

__all__ = ["NAMES_KEY", "names_digest", "read_decisions", "read_scores"]

_COLUMN_TYPES = {
    **{field.name: field.type for field in SCORE_SCHEMA},
    **{f"{statistic}_normalized": pa.float64() for statistic in Statistic},
    "pred_label": pa.bool_(),
}
"""Of the columns of scores and decisions; all others are partitions, strings."""
_DECISION_COLUMNS = ("row_id", "uri", *(f"{statistic}_normalized" for statistic in Statistic), "pred_label")
NAMES_KEY = b"feclip.columns"
"""In the metadata of a file: a digest of its columns' names, which stand in its footer and have no sum there."""


def read_scores(run: Run, index: int, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a slice of the score table, or those of some columns that it has.

    Raises:
        RunError: If its rows are not those of the slice.
        StorageError: If it cannot be read.
    """
    left_out = {*OPTIONAL_COLUMNS} - {*(OPTIONAL_COLUMNS if run.options["columns"] is None else run.options["columns"])}
    required = [name for name in SCORE_SCHEMA.names if name not in left_out]
    return _read(run, index, folder=run.scores_folder, columns=columns, required=required)


def read_decisions(run: Run, index: int, *, calibration_id: str, columns: Sequence[str]) -> pa.Table:
    """Return some columns of what one calibration decided on a slice, in the order of its rows.

    Raises:
        RunError: If its rows are not those of the slice.
        StorageError: If it cannot be read.
    """
    return _read(run, index, folder=run.decisions_folder(calibration_id), columns=columns, required=_DECISION_COLUMNS)


def names_digest(schema: pa.Schema) -> bytes:
    """Return the digest of the names of a table's columns, in their order."""
    return hashlib.sha256("\n".join(schema.names).encode()).hexdigest().encode()


def _read(run: Run, index: int, *, folder: str, columns: Sequence[str] | None, required: Sequence[str]) -> pa.Table:
    uri, rows = join_uri(folder, slice_name(index)), run.rows_of(index)
    wanted = None if columns is None else list(dict.fromkeys(["row_id", *columns]))
    content = pa.BufferReader(read_bytes(uri))
    try:
        metadata = pq.read_metadata(content)
        repeated = [name for name in ("model_id",) if name in (wanted or ()) and name in metadata.schema.names]
        file = pq.ParquetFile(  # a dictionary keeps the one name of all rows once
            content, metadata=metadata, page_checksum_verification=True, read_dictionary=repeated
        )
        there = set(file.schema_arrow.names)
        kept = (file.schema_arrow.metadata or {}).get(NAMES_KEY)
        if kept is not None and kept != names_digest(file.schema_arrow):
            msg = "the names of its columns were changed"
            raise ValueError(msg)
        if metadata.num_rows != len(rows):  # before a small file that claims billions of rows fills the memory
            raise RunError(_other_rows(uri, index))
        table = file.read(columns=None if wanted is None else [name for name in wanted if name in there])
        table.validate(full=True)
    except DAMAGED_PARQUET as error:
        msg = f"{uri} is damaged ({type(error).__name__}); delete it and submit the job again."
        raise RunError(msg) from error
    _check_columns(table, uri=uri, required=[name for name in required if wanted is None or name in wanted])
    if not np.array_equal(table["row_id"].to_numpy(), np.arange(rows.start, rows.stop)):
        raise RunError(_other_rows(uri, index))
    return table


def _other_rows(uri: str, index: int) -> str:
    return f"{uri} does not hold the rows of slice {index}; delete it and submit the job again."


def _check_columns(table: pa.Table, *, uri: str, required: Sequence[str]) -> None:
    """Refuse columns that are missing, double or of another type: whoever wrote them, it was not this job."""
    names = table.schema.names
    for name, kind in zip(names, table.schema.types, strict=True):
        expected = _COLUMN_TYPES.get(name, pa.string())
        found = kind.value_type if pa.types.is_dictionary(kind) else kind
        if found != expected or names.count(name) > 1:
            msg = (
                f"{uri} has a column {name[:100]!r} that is {kind}, not {expected}; delete it and submit the job again."
            )
            raise RunError(msg)
    missing = [name for name in required if name not in names]
    if missing:
        msg = f"{uri} has no column {', '.join(missing)}; delete it and submit the job again."
        raise RunError(msg)
