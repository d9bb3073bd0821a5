"""A score table with chosen scores, whose images need not exist: what reports are tested on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from feclip.archive import ListedFile, Run, Source, publish_slice
from feclip.bundle import Bundle
from feclip.calibration import Statistic
from feclip.config import OPTIONAL_COLUMNS, Names, ScoringConfig
from feclip.data import pack_valid_pixels
from feclip.score_table import build_score_table, pack_token_map

GRID = 14  # tokens along a side of the demonstration backbone at its 112 px


def listed(num_rows: int) -> list[ListedFile]:
    """Return the record of a listing of one file; a report never reads it."""
    fields: dict[str, Any] = {"name": "rows-000000000000.parquet", "sha256": "0" * 64}
    return [ListedFile(first_row_id=0, num_rows=num_rows, **fields)]


def write_table(
    output: str,
    *,
    bundle: Bundle,
    rows: Sequence[Mapping[str, Any]],
    slice_size: int = 100,
    columns: Names | None = None,
) -> Run:
    """Write a finished score table.

    Args:
        output: Folder.
        bundle: Whose model scored it.
        rows: In the order of the table: ``uri``, partitions, and ``scores`` (three logits) or ``error``; optional
            ``map`` (logits on the token grid), ``width``, ``height``, ``sha256``.
        slice_size: Rows of a slice.
        columns: Optional columns of the run; None for all.
    """
    run = Run.frozen(
        output,
        model_id=bundle.model_id,
        config=ScoringConfig(slice_size=slice_size, columns=columns),
        source=Source(archive="/archive", manifest=None),
        files=listed(len(rows)),
        ignored={},
        image_size=bundle.input_options.image_size,
    )
    run.publish()
    for index in range(run.num_slices):
        part = [(row_id, rows[row_id]) for row_id in run.rows_of(index)]
        listing = pa.table(
            {
                "row_id": [row_id for row_id, _ in part],
                "uri": [row["uri"] for _, row in part],
                "size": pa.array([None] * len(part), pa.int64()),
                "etag": pa.array([None] * len(part), pa.string()),
                **{name: [row.get(name) for _, row in part] for name in rows[0].get("partitions", ("line", "date"))},
            }
        )
        scored = [{"row_id": row_id, **_scores(row, bundle=bundle)} for row_id, row in part]
        table = build_score_table(listing, rows=scored, model_id=bundle.model_id)
        left_out = [] if columns is None else [name for name in OPTIONAL_COLUMNS if name not in columns]
        publish_slice(run, index, table.drop_columns(left_out))
    return run


def _scores(row: Mapping[str, Any], *, bundle: Bundle) -> dict[str, Any]:
    if "error" in row:
        return {"error": row["error"], "error_kind": row["error_kind"]}
    options = bundle.input_options
    width, height = row.get("width", 160), row.get("height", 120)
    box, bits = pack_valid_pixels(options.geometry(height, width).valid_pixels())
    token_map = row.get("map", np.zeros((GRID, GRID)))
    logits = dict(zip(map(str, Statistic), map(float, row["scores"]), strict=True))
    return {
        **logits,
        "image_score": float(1 / (1 + np.exp(-logits["image_logit"]))),
        "token_map": pack_token_map(np.asarray(token_map, np.float16)),
        "width": width,
        "height": height,
        "valid_box": list(box),
        "valid_mask": bits,
        "sha256": row.get("sha256"),
    }
