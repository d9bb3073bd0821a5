"""What a page's script reads: counts, rows and names, as JSON values; long floats are cut to what is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feclip.calibration import Calibration, Statistic
from feclip.overlay import COLORS
from feclip.report.counting import NO_VALUE, NUM_BINS, ZERO_BIN, Cube
from feclip.report.opened import ScoredTable, partition_values
from feclip.report.overlays import HeatScale
from feclip.report.pictures import Picture
from feclip.report.survey import Survey

__all__ = ["card_rows", "chart_values", "decision_values", "distribution_values", "heat_values"]

START_SHARE = 0.01  # of the images above the slider where nothing is calibrated
DIGITS = 7  # significant; a float32 has no more

Numbers = npt.NDArray[np.int64]


def chart_values(survey: Survey, *, reference: Cube | None, is_calibrated: bool) -> dict[str, Any]:
    """Return the counts by group and date, those of the normals, and the stops of the slider.

    Bins and stops are numbered from the first bin that is sent; a stop ends the bin of its number, so what is above
    stop j lies in the bins after j.
    """
    total = survey.cube.total() + (0 if reference is None else reference.total())
    used = np.flatnonzero(total)
    low, high = (int(used[0]), int(used[-1])) if used.size else (ZERO_BIN, ZERO_BIN)
    low, high = max(min(low, ZERO_BIN) - 1, 0), max(high, ZERO_BIN)
    cells = survey.cube.cells()
    groups, dates = sorted({cell.group for cell in cells}), sorted({cell.date for cell in cells})
    return {
        "step": survey.cube.grid.step,
        "zero": ZERO_BIN - low,
        "num": high - low + 1,
        "last": min(high, NUM_BINS - 2) - low,
        "start": ZERO_BIN - low if is_calibrated else _start(survey.cube.total()) - low,
        "groups": groups,
        "dates": dates,
        "cells": [
            [groups.index(cell.group), dates.index(cell.date), cell.num_errors, *_trimmed(cell.counts, low)]
            for cell in cells
        ],
        "reference": None if reference is None else _reference(reference, groups=groups, low=low),
    }


def decision_values(table: ScoredTable) -> dict[str, Any]:
    """Return what decides, in words and numbers."""
    calibration = table.calibration
    if calibration is None:
        return {"calibrated": False, "threshold": 0.0, "statistic": str(Statistic.image_logit), "words": ""}
    decision = calibration.decision
    single = calibration.threshold_by is None and len(decision.statistics) == 1
    return {
        "calibrated": True,
        "threshold": _short(calibration.threshold(decision.statistics[0])) if single else None,
        "statistic": str(decision.statistics[0]) if single else None,
        "words": f"rule {decision.rule}, percentile {decision.percentile} ({decision.variant})",
    }


def distribution_values(
    survey: Survey, *, reference: Mapping[Statistic, Numbers] | None, calibration: Calibration | None
) -> list[dict[str, Any]]:
    """Return the distribution of each statistic over the whole archive, with its thresholds."""
    values = []
    for statistic, (grid, counts) in survey.statistics.items():
        normals = None if reference is None else reference[statistic]
        used = np.flatnonzero(counts if normals is None else counts + normals)
        low = int(used[0]) if used.size else ZERO_BIN
        values.append(
            {
                "name": str(statistic),
                "first": _short(grid.stop(low)),
                "step": grid.step,
                "counts": _trimmed(counts, low),
                "reference": None if normals is None else _trimmed(normals, low),
                "thresholds": _thresholds(calibration, statistic),
            }
        )
    return values


def card_rows(
    table: ScoredTable,
    rows: pa.Table,
    *,
    pictures: Mapping[int, Picture],
    group_column: str | None,
    date_column: str,
    chart: Mapping[str, Any],
    dates: Cube,
) -> list[dict[str, Any]]:
    """Return the shown rows, in the order of the table."""
    margins = table.margins(rows)
    groups = partition_values(rows, group_column, missing=NO_VALUE)
    shown_dates = partition_values(rows, date_column, missing=NO_VALUE)
    cards = []
    for index, row in enumerate(rows.select([*_shown_columns(rows)]).to_pylist()):
        group, date = dates.placed(str(groups[index]), str(shown_dates[index]))
        picture = pictures.get(row["row_id"], Picture())
        cards.append(
            {
                "id": row["row_id"],
                "uri": row["uri"],
                "group": chart["groups"].index(group),
                "date": chart["dates"].index(date),
                "margin": float(margins[index]),
                "scores": {name: _short(row[name]) for name in (*map(str, Statistic), "image_score") if name in row},
                "size": [row["width"], row["height"]] if row.get("width") else None,
                "further": {name: row[name] for name in table.partitions if row[name] is not None},
                "photo": picture.photo,
                "overlay": picture.overlay,
                "shape": [picture.width, picture.height],
                "note": picture.note,
            }
        )
    return cards


def heat_values(scale: HeatScale | None) -> dict[str, Any] | None:
    """Return what the colours of the maps mean."""
    if scale is None:
        return None
    ends = {"low": _short(scale.low), "high": _short(scale.high), "outline": _short(scale.outline)}
    return ends | {"colors": list(COLORS)}


def _shown_columns(rows: pa.Table) -> list[str]:
    left_out = {"token_map", "valid_box", "valid_mask", "sha256", "etag", "size"}
    return [name for name in rows.column_names if name not in left_out]


def _start(counts: Numbers) -> int:
    """Return the stop above which about 1 % lie."""
    above = counts.sum() - np.cumsum(counts)
    return int(np.argmax(above <= START_SHARE * counts.sum()))


def _reference(reference: Cube, *, groups: Sequence[str], low: int) -> dict[str, Any]:
    by_group = {groups.index(name): _trimmed(reference.total(name), low) for name in reference.groups if name in groups}
    return {"all": _trimmed(reference.total(), low), "groups": by_group}


def _trimmed(counts: Numbers, low: int) -> list[Any]:
    """Return the bin that the first count is of, from ``low`` on, and the counts up to the last one."""
    used = np.flatnonzero(counts)
    if not used.size:
        return [0, []]
    return [int(used[0]) - low, counts[used[0] : used[-1] + 1].tolist()]


def _thresholds(calibration: Calibration | None, statistic: Statistic) -> list[dict[str, Any]]:
    """Return every threshold of a statistic that was fitted in the deciding variant, by group."""
    if calibration is None:
        return []
    names: list[str | None] = [None] if calibration.threshold_by is None else [*calibration.groups]
    decision = calibration.decision
    return [
        {
            "value": _short(item.value),
            "percentile": item.percentile,
            "group": name,
            "decides": statistic in decision.statistics and item.percentile == decision.threshold_percentile,
        }
        for name in names
        for item in calibration.group(name).statistics[statistic].thresholds
        if item.variant is decision.variant
    ]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
