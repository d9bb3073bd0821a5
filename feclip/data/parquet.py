"""Parquet files: written in one way, and read as anyone may have written them, with one kind of error."""

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["DAMAGED_PARQUET", "MAX_ROWS", "PARQUET_BATCH_ROWS", "encode_parquet", "parse_parquet"]

DAMAGED_PARQUET = (pa.ArrowException, MemoryError, OSError, OverflowError, ValueError)
"""What pyarrow raises for a file that is none, or whose values no Python object can hold."""
PARQUET_BATCH_ROWS = 8192
"""Rows that are decoded at once where they are read one by one."""
MAX_ROWS = 10_000_000
"""Most rows of a table that is held whole; a small file may claim billions."""


def encode_parquet(table: pa.Table, *, compression: str = "snappy") -> bytes:
    """Return a table as the bytes of a Parquet file, whose pages have sums by which damage is found.

    Args:
        table: The table.
        compression: A codec of Parquet.

    Example:
        >>> parse_parquet(encode_parquet(pa.table({"a": [1]})))["a"].to_pylist()
        [1]
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=compression, write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def parse_parquet(content: bytes, *, max_rows: int = MAX_ROWS) -> pa.Table:
    """Return the table of a Parquet file, every value of which can be read.

    Args:
        content: The file.
        max_rows: Most rows that it may claim; asked of its footer before anything is decoded.

    Raises:
        ValueError: If it is damaged, or claims more rows; in one line that does not repeat pyarrow's words.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        num_rows = file.metadata.num_rows
        table = file.read() if num_rows <= max_rows else None
        if table is not None:
            table.validate(full=True)
    except DAMAGED_PARQUET as error:
        msg = f"it is no whole Parquet file ({type(error).__name__})"
        raise ValueError(msg) from error
    if table is None:
        msg = f"it claims {num_rows} rows, of at most {max_rows}"
        raise ValueError(msg)
    if len(table) != num_rows:  # pages of a kind that pyarrow does not know are passed over in silence
        msg = f"it claims {num_rows} rows and holds {len(table)}"
        raise ValueError(msg)
    return table
