"""A calibration: thresholds and score normalisation of one model, as plain data with a digest of its own.

Decisions compare float32 scores with float32 thresholds, ``score > threshold``, in the space of the logits.
Normalised scores are for people and for comparing groups: being a rising function of the score they rank alike, and
an image that is called anomalous never has a smaller normalised score than the normalised threshold.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from feclip.calibration.levels import Variant, num_needed, parse_percentile, split_percentile
from feclip.calibration.options import Normalization, Rule, Statistic, StatisticOptions
from feclip.errors import ConfigError, DataError

__all__ = ["SCHEMA", "Calibration", "Decision", "Fitted", "GroupCalibration", "Observed", "Threshold"]

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One order statistic of the N normal scores that were kept."""

    percentile: str
    """Percent, an exact decimal."""
    variant: Variant
    """How the rank follows from it."""
    rank: int
    """One-based, from the smallest score."""
    value: float
    """The score at that rank, a float32 logit; anomalous is what exceeds it."""
    rate_interval: tuple[float, float]
    """95 % interval of the false-positive rate of this statistic alone, 0..1; for scores as the kept normals have."""
    short: bool
    """Whether N is below :attr:`num_needed`: then this is the largest normal score, and the false-positive rate is
    bounded by 1 / (N + 1), not by what the percentile says."""

    @property
    def num_needed(self) -> int:
        """Fewest normals for this percentile and variant."""
        return num_needed(self.percentile, self.variant)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What the normals of one group say about one statistic."""

    center: float
    """Subtracted first, logits."""
    scale: float
    """Divided by then, logits, above 0."""
    num_suspects: int
    """Kept normals above a valley in the upper tail: anomalies, or another population; 0 where none stands out."""
    thresholds: tuple[Threshold, ...]
    """By percentile and variant."""

    def find(self, percentile: str, variant: Variant) -> Threshold | None:
        """Return the threshold of a percentile and variant, None where it was not fitted."""
        found = (item for item in self.thresholds if (item.percentile, item.variant) == (percentile, variant))
        return next(found, None)

    def normalize(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return ``(score - center) / scale`` for logits of any shape, in float64."""
        return (np.asarray(scores, np.float64) - self.center) / self.scale


@dataclass(frozen=True, kw_only=True)
class Observed:
    """How many of the normals a whole rule calls anomalous, trimmed ones included."""

    rule: Rule
    percentile: str
    variant: Variant
    num_alarms: int
    """Of the group's ``num_normals``."""


@dataclass(frozen=True, kw_only=True)
class GroupCalibration:
    """The calibration of one group."""

    num_normals: int
    """Normal images with scores."""
    num_kept: int
    """N: those that thresholds and normalisation are fitted on, the highest ones trimmed."""
    statistics: Mapping[Statistic, Fitted]
    """All of them."""
    observed: tuple[Observed, ...] = ()
    """For every rule, percentile and variant that can decide; empty until counted."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What sets ``pred_label``."""

    rule: Rule
    percentile: str
    """Percent; the rule as a whole keeps it."""
    variant: Variant
    pixel_statistic: Statistic
    """What the rules pixel, either and both read of the map."""

    @property
    def threshold_percentile(self) -> str:
        """Percentile of the thresholds used: under ``either``, two that have half of ``1 - p`` each."""
        return split_percentile(self.percentile) if self.rule is Rule.either else self.percentile

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Statistics read, the image score first."""
        if self.rule is Rule.image:
            return (Statistic.image_logit,)
        return (self.pixel_statistic,) if self.rule is Rule.pixel else (Statistic.image_logit, self.pixel_statistic)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds and normalisation of one model; what a bundle holds as ``calibration.json``."""

    model_id: str
    """The model whose scores it is for."""
    statistic_options: StatisticOptions
    """What the map's statistics were computed with."""
    percentiles: tuple[str, ...]
    """Percentiles asked for."""
    decision: Decision
    """What sets ``pred_label``."""
    normalization: Normalization
    """What centers and scales are."""
    trim_fraction: float
    """Share of the highest normal scores that was left out, 0..0.5."""
    forced: bool
    """Whether too few normals were accepted."""
    num_unscored: int
    """Images given as normals that could not be read."""
    threshold_by: str | None
    """Column of the groups."""
    groups: Mapping[str, GroupCalibration]
    """By value of that column; empty without it."""
    overall: GroupCalibration | None
    """All normals together: without groups, or as the fallback for groups that were never seen."""

    @property
    def calibration_id(self) -> str:
        """The sha256 of the canonical JSON: sorted keys, no blanks, UTF-8."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def require_statistics(self, found: StatisticOptions) -> None:
        """Refuse scores whose statistics were computed otherwise.

        Raises:
            DataError: If an option differs.
        """
        for field in dataclasses.fields(StatisticOptions):
            got, expected = getattr(found, field.name), getattr(self.statistic_options, field.name)
            if got != expected:
                msg = (
                    f"the scores have {field.name} {got}, the calibration was fitted with {expected}; "
                    "score or calibrate again."
                )
                raise DataError(msg)

    def group(self, name: str | None = None) -> GroupCalibration:
        """Return the calibration of a group, or the fallback.

        Raises:
            DataError: If calibration never saw the group and there is no fallback.
        """
        found = self.overall if name is None else self.groups.get(name, self.overall)
        if found is None:
            known = ", ".join(repr(key) for key in sorted(self.groups))
            msg = (
                f"calibration never saw {self.threshold_by} {name!r}, only {known}; "
                "calibrate with its normal images, or with a fallback."
            )
            raise DataError(msg)
        return found

    def threshold(self, statistic: Statistic, group: str | None = None) -> float:
        """Return the threshold that decides on one statistic, in logits; that of the map is also that of its pixels.

        Raises:
            DataError: If the group has none.
        """
        decision = self.decision
        fitted = self.group(group)
        found = fitted.statistics[statistic].find(decision.threshold_percentile, decision.variant)
        if found is None:
            needed = num_needed(decision.threshold_percentile, decision.variant)
            msg = (
                f"{_group_text(self.threshold_by, group)} has {fitted.num_kept} normals, and rule {decision.rule} at "
                f"percentile {decision.percentile} ({decision.variant}) needs {needed}; calibrate with that rule."
            )
            raise DataError(msg)
        return found.value

    def observed(self, group: str | None = None) -> Observed | None:
        """Return what the deciding rule calls anomalous among a group's own normals, None where it was not counted."""
        decision = self.decision
        found = (
            item
            for item in self.group(group).observed
            if (item.rule, item.percentile, item.variant) == (decision.rule, decision.percentile, decision.variant)
        )
        return next(found, None)

    def with_decision(
        self, *, rule: str | None = None, percentile: str | float | None = None, variant: str | None = None
    ) -> Self:
        """Return the same thresholds deciding by another rule, percentile or variant: another ``calibration_id``.

        Raises:
            ConfigError: If the value is none, or no threshold was fitted for it.
            DataError: If a group has too few normals for it.
        """
        old = self.decision
        chosen = old.percentile if percentile is None else parse_percentile(percentile)
        if chosen not in self.percentiles:
            msg = f"percentile must be one that was calibrated, {', '.join(self.percentiles)}, got {chosen}."
            raise ConfigError(msg)
        try:
            decision = Decision(
                rule=Rule(old.rule if rule is None else rule),
                percentile=chosen,
                variant=Variant(old.variant if variant is None else variant),
                pixel_statistic=old.pixel_statistic,
            )
        except ValueError as error:
            msg = f"{error}: rule is one of {', '.join(Rule)}, variant one of {', '.join(Variant)}."
            raise ConfigError(msg) from error
        changed = dataclasses.replace(self, decision=decision)
        for name in [*self.groups, *([] if self.overall is None else [None])]:
            for statistic in decision.statistics:
                changed.threshold(statistic, name)
        return changed

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; :func:`feclip.calibration.read_calibration` reads them back."""
        fields = _plain(self)
        assert isinstance(fields, dict)
        return {"schema": SCHEMA} | fields


def _group_text(threshold_by: str | None, group: str | None) -> str:
    return "the set of all normals" if group is None else f"{threshold_by} {group!r}"


def _plain(value: Any) -> Any:  # noqa: ANN401 - a field of the dataclasses above, and its JSON value
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, str) else value
