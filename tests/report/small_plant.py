"""A plant's archive in small: chosen scores of three lines and four months, real files, names that would be markup."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw
from small_table import GRID

from feclip.archive import Run, read_scores
from feclip.bundle import Bundle
from feclip.config import ReportConfig

NUM_ROWS, NUM_NORMALS = 1500, 1200
LINES, DATES = ("A", "B", "<script>alert(1)</script>"), ("2024-01", "2024-02", "2024-03", "2024-04")
MOVED_DATE = DATES[-1]
SHIFT = 0.8  # logits that the normal scores of the last month have risen by
EVIL_NAME = "<img src=x onerror=alert(1)> & 'part' \"{:04}\".jpg"
SIZES = ((160, 120), (120, 160), (240, 60), (100, 100))  # (w, h)
ABSENT = 13  # every so many files is missing


def draw_rows(num: int, *, seed: int, archive: Path | None, anomalous: float) -> list[dict[str, Any]]:
    """Return rows of a table; with an archive their files are written, all but some."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for index in range(num):
        line, date = int(rng.integers(3)), DATES[rng.integers(4)]
        is_anomalous = bool(rng.random() < anomalous)
        shift = SHIFT if anomalous and date == MOVED_DATE else 0.0
        scores = rng.normal(size=3) * 0.5 + (4 * is_anomalous) + shift - 5
        row: dict[str, Any] = {"line": LINES[line], "date": date, "scores": scores.astype(np.float32)}
        folder = f"{'/archive' if archive is None else archive}/line={line}/date={date}"
        row["uri"] = f"{folder}/part_{index:06d}.jpg" if index % 3 else f"{folder}/{EVIL_NAME.format(index)}"
        if index % 200 == 199:
            row = {name: row[name] for name in ("line", "date", "uri")}
            row |= {"error": f"Cannot decode {row['uri']}: the file is cut short.", "error_kind": "truncated"}
        else:
            row["width"], row["height"] = SIZES[index % len(SIZES)]
            row["map"] = _map(index, peak=float(scores[1]))
        rows.append(row)
    if archive is not None:
        _write_files(rows)
    return rows


def _map(index: int, *, peak: float) -> np.ndarray:
    """Return a bump on a flat map, NaN where a letterboxed image of that size has padding."""
    width, height = SIZES[index % len(SIZES)]
    across = np.arange(GRID)
    top, left = 5 + index % 4, 4 + index % 5
    bump = np.exp(-((across[:, None] - top) ** 2 + (across - left) ** 2) / 4)
    values = -6 + (peak + 6) * bump
    rows, columns = np.abs(across[:, None] - 6.5) / height, np.abs(across - 6.5) / width
    half = GRID / 2 / max(width, height)
    return np.where((rows <= half) & (columns <= half), values, np.nan)


def _write_files(rows: Sequence[dict[str, Any]]) -> None:
    for index, row in enumerate(rows):
        if "error" in row or index % ABSENT == 0:
            continue
        size = (row["width"], row["height"])
        image = Image.new("RGB", size, (90 + index % 60, 110, 120))
        ImageDraw.Draw(image).line([(size[0] // 3, 10), (size[0] // 2, size[1] - 10)], fill=(220, 210, 190), width=3)
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=90)
        path = Path(row["uri"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        row["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Plant:
    """What a report is made of."""

    calibrated: Bundle
    scores: str
    run: Run
    rows: list[dict[str, Any]]

    @property
    def table(self) -> pa.Table:
        """The whole score table."""
        return pa.concat_tables([read_scores(self.run, index) for index in range(self.run.num_slices)])

    def config(self, output: Path | str, **changes: Any) -> ReportConfig:  # noqa: ANN401 - any field
        """Return a config for a page of it."""
        return ReportConfig(bundle=self.calibrated.uri, scores=self.scores, output=str(output), **changes)
