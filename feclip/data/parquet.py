"""What is common to readers of Parquet files that anyone may have written."""

import pyarrow as pa

__all__ = ["DAMAGED_PARQUET", "PARQUET_BATCH_ROWS"]

DAMAGED_PARQUET = (pa.ArrowException, MemoryError, OSError, OverflowError, ValueError)
"""What pyarrow raises for a file that is none, or whose values no Python object can hold."""
PARQUET_BATCH_ROWS = 8192
"""Rows that are decoded at once, so that a small file which claims billions of them cannot fill the memory."""
