"""Whether the thresholds still hold: the comparisons that a page shows, from the normals' scores or from the record.

Where the scores of the normals are at hand, whole distributions are compared (`feclip.report.drift`). Without them a
calibration record holds, of each distribution, what its rules call anomalous among the normals at each calibrated
percentile: a few points of the upper tail. These are compared as they are, and a page says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feclip.calibration import AlarmKey, Calibration
from feclip.report.counting import NO_VALUE, ZERO_BIN, Cell, Cube
from feclip.report.drift import HALF_COUNT, Drift, compare_normals, weighted_reference
from feclip.report.intervals import wilson_interval

__all__ = ["Comparison", "TailPoint", "compare_parts", "compare_tail", "tail_measures"]

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The normal scores of one part of the archive against those of the calibration."""

    kind: str
    """``archive``, ``group`` or ``date``."""
    name: str
    drift: Drift
    shift: float
    """Median minus the reference's, logits."""


@dataclass(frozen=True, kw_only=True)
class TailPoint:
    """One percentile: what the deciding rule calls anomalous, among the normals then and in the archive now."""

    group: str
    percentile: str
    num_alarms: int
    num_images: int
    normal_alarms: int
    num_normals: int

    @property
    def rates(self) -> tuple[float, float]:
        """Share called anomalous in the archive and among the normals, 0..1."""
        return self.num_alarms / max(self.num_images, 1), self.normal_alarms / max(self.num_normals, 1)

    @property
    def reading(self) -> str:
        """What the difference says, where the 95 % intervals of the two shares do not meet."""
        lower, upper = wilson_interval([self.num_alarms, self.normal_alarms], [self.num_images, self.num_normals])
        if upper[0] < lower[1]:
            return "fewer than among the normals: scores have fallen, the threshold may no longer hold"
        if lower[0] > upper[1]:
            return "more than among the normals: defects, or scores have risen"
        return "as among the normals"


def compare_parts(
    cube: Cube, reference: Cube, *, group_column: str | None, threshold_by: str | None
) -> list[Comparison]:
    """Compare the archive as a whole, its groups and its dates with the normals.

    Args:
        cube: The archive's counts by group and date.
        reference: The normals' counts by threshold group, on the same grid.
        group_column: What the archive's groups are.
        threshold_by: What the normals' groups are; None for one.

    Returns:
        The whole first, then groups, then dates; a part that would be the only one of its kind is left out.
    """
    is_divided = threshold_by is not None and threshold_by == group_column
    pooled = {"": _not_anomalous(reference.total())}
    by_group = {name: _not_anomalous(reference.total(name)) for name in reference.groups} if is_divided else pooled

    def compared(kind: str, name: str, cells: Iterable[Cell]) -> Comparison:
        found: dict[str, Numbers] = {}
        for cell in cells:
            group = cell.group if is_divided else ""
            counts = _not_anomalous(cell.counts)
            found[group] = found[group] + counts if group in found else counts
        weights = {group: int(counts.sum()) for group, counts in found.items()}
        shares, num = weighted_reference(by_group, weights=weights)
        drift = compare_normals(
            sum(found.values(), np.zeros(ZERO_BIN + 1, np.int64)), reference=shares, num_reference=num
        )
        return Comparison(kind=kind, name=name, drift=drift, shift=drift.shift * cube.grid.step)

    cells = cube.cells()
    rows = [compared("archive", "whole archive", cells)]
    for kind, names in (("group", _names(cell.group for cell in cells)), ("date", _names(cell.date for cell in cells))):
        chosen = names if len(names) > 1 else []
        rows += [compared(kind, name, [cell for cell in cells if getattr(cell, kind) == name]) for name in chosen]
    return rows


def compare_tail(calibration: Calibration, alarms: Mapping[AlarmKey, int]) -> list[TailPoint]:
    """Compare what the deciding rule calls anomalous at each calibrated percentile with what the record holds.

    Args:
        calibration: The record, with what its rules call anomalous among its normals.
        alarms: What they call anomalous in the archive.
    """
    decision = calibration.decision
    names: list[str | None] = [None] if calibration.threshold_by is None else [*calibration.groups]
    points = []
    for name in names:
        group = calibration.group(name)
        for item in group.observed:
            if (item.rule, item.variant) != (decision.rule, decision.variant):
                continue
            points.append(
                TailPoint(
                    group=NO_VALUE if name is None else name,
                    percentile=item.percentile,
                    num_alarms=alarms.get((name, item.rule, item.percentile, item.variant), 0),
                    num_images=alarms.get((name, None, "", None), 0),
                    normal_alarms=item.num_alarms,
                    num_normals=group.num_normals,
                )
            )
    return points


def tail_measures(points: Sequence[TailPoint]) -> tuple[float, float] | None:
    """Return the Kolmogorov-Smirnov distance and the stability index that some percentiles of one group prove at least.

    A distance over few points is never more than over all, and joining bins never raises the index.

    Returns:
        Both, or None where there are no images or no points.
    """
    if not points or not points[0].num_images:
        return None
    ordered = sorted(points, key=lambda point: -point.normal_alarms)
    above = np.array([[point.num_alarms, point.normal_alarms] for point in ordered])
    total = np.array([[points[0].num_images, points[0].num_normals]])
    counts = -np.diff(np.concatenate([total, above, np.zeros((1, 2))]), axis=0) + HALF_COUNT  # (bins, 2)
    shares = counts / counts.sum(axis=0)
    ks = max(abs(now - then) for now, then in (point.rates for point in points))
    return ks, float(((shares[:, 0] - shares[:, 1]) * np.log(shares[:, 0] / shares[:, 1])).sum())


def _not_anomalous(counts: Numbers) -> Numbers:
    return counts[: ZERO_BIN + 1]


def _names(values: Iterable[str]) -> list[str]:
    return sorted({*values})
