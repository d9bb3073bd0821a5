"""Strict reading of a calibration's JSON: whatever is missing, unknown, of another type or out of range is named."""

import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np

from feclip.calibration.levels import Variant, num_needed, parse_percentile, rank_of, split_percentile
from feclip.calibration.options import Normalization, Rule, Statistic, StatisticOptions
from feclip.calibration.record import (
    SCHEMA,
    Calibration,
    Decision,
    Fitted,
    GroupCalibration,
    Observed,
    Threshold,
)
from feclip.errors import BundleError, ConfigError

__all__ = ["read_calibration"]

_Value = TypeVar("_Value")
_Enum = TypeVar("_Enum", bound=StrEnum)


def read_calibration(found: object, *, where: str = "calibration.json") -> Calibration:
    """Read what :meth:`Calibration.to_json` returned.

    Args:
        found: Parsed JSON.
        where: How errors call it.

    Raises:
        BundleError: If a field is missing, unknown, of another type or out of range, or two contradict each other.
    """
    if isinstance(found, Mapping) and found.get("schema") != SCHEMA:
        msg = f"{where} has schema {found.get('schema')!r}; this feclip reads schema {SCHEMA}."
        raise BundleError(msg)
    fields = _Fields(found, where=where, dataclass=Calibration, more=("schema",))
    threshold_by = fields.optional("threshold_by", _Fields.text)
    groups = fields.mapping("groups")
    calibration = Calibration(
        model_id=fields.text("model_id"),
        statistic_options=_options(fields.inner("statistic_options", StatisticOptions)),
        percentiles=tuple(fields.each("percentiles", _percentile)),
        decision=_decision(fields.inner("decision", Decision)),
        normalization=fields.member("normalization", Normalization),
        trim_fraction=fields.number("trim_fraction", rule="in [0, 0.5)", holds=lambda value: 0 <= value < 0.5),  # noqa: PLR2004
        forced=fields.flag("forced"),
        num_unscored=fields.count("num_unscored"),
        threshold_by=threshold_by,
        groups={
            name: _group(_Fields(value, where=f"{where}: groups.{name}", dataclass=GroupCalibration))
            for name, value in groups.items()
        },
        overall=None if fields.get("overall") is None else _group(fields.inner("overall", GroupCalibration)),
    )
    if calibration.decision.percentile not in calibration.percentiles:
        fields.refuse("decision.percentile", "one of percentiles", calibration.decision.percentile)
    if (threshold_by is None) == bool(groups):
        fields.refuse("groups", "filled exactly where threshold_by names a column", sorted(groups))
    if threshold_by is None and calibration.overall is None:
        fields.refuse("overall", "filled where threshold_by is null", None)
    _check_levels(calibration, fields)
    return calibration


class _Fields:
    """The fields of one JSON object, with the path by which errors call them."""

    def __init__(self, found: object, *, where: str, dataclass: type, more: tuple[str, ...] = ()) -> None:
        if not isinstance(found, Mapping):
            msg = f"{where} must be a JSON object, got {type(found).__name__}."
            raise BundleError(msg)
        expected = {*dataclass.__annotations__, *more}
        missing, unknown = sorted(expected - set(found)), sorted(set(found) - expected)
        if missing or unknown:
            msg = f"{where}: missing fields {missing}, unknown fields {unknown}."
            raise BundleError(msg)
        self._found = found
        self._where = where

    def refuse(self, name: str, rule: str, got: object) -> None:
        msg = f"{self._where}: {name} must be {rule}, got {got!r}."
        raise BundleError(msg)

    def get(self, name: str) -> object:
        return self._found[name]

    def inner(self, name: str, dataclass: type) -> "_Fields":
        return _Fields(self._found[name], where=f"{self._where}: {name}", dataclass=dataclass)

    def optional(self, name: str, read: Callable[["_Fields", str], _Value]) -> _Value | None:
        return None if self._found[name] is None else read(self, name)

    def _typed(self, name: str, kind: type[_Value], rule: str) -> _Value:
        value = self._found[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.refuse(name, rule, value)
        assert isinstance(value, kind)
        return value

    def text(self, name: str) -> str:
        value = self._typed(name, str, "a text that is not empty")
        if not value:
            self.refuse(name, "a text that is not empty", value)
        return value

    def flag(self, name: str) -> bool:
        return self._typed(name, bool, "true or false")

    def count(self, name: str, *, least: int = 0, most: int | None = None) -> int:
        rule = f"a whole number of at least {least}" + ("" if most is None else f" and at most {most}")
        value = self._typed(name, int, rule)
        if value < least or (most is not None and value > most):
            self.refuse(name, rule, value)
        return value

    def number(self, name: str, *, rule: str, holds: Callable[[float], bool]) -> float:
        value = self._found[name]
        if not _is_finite(value):
            self.refuse(name, f"a finite number {rule}", value)
        assert isinstance(value, int | float)
        if not holds(float(value)):
            self.refuse(name, rule, value)
        return float(value)

    def member(self, name: str, kind: type[_Enum]) -> _Enum:
        value = self._found[name]
        if value not in list(kind):
            self.refuse(name, f"one of {', '.join(kind)}", value)
        return kind(str(value))

    def percentile(self, name: str) -> str:
        return _percentile(self._found[name], f"{self._where}: {name}")

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self._found[name]
        if not isinstance(value, Mapping):
            self.refuse(name, "a JSON object", value)
        assert isinstance(value, Mapping)
        return value

    def each(self, name: str, read: Callable[[object, str], _Value]) -> list[_Value]:
        values = self._found[name]
        if not isinstance(values, list):
            self.refuse(name, "a list", values)
        assert isinstance(values, list)
        return [read(value, f"{self._where}: {name}[{index}]") for index, value in enumerate(values)]


def _percentile(found: object, where: str) -> str:
    try:
        canonical = parse_percentile(found) if isinstance(found, str) else None
    except ConfigError:
        canonical = None
    if canonical is None or canonical != found:
        msg = f"{where} must be a percentile above 0 and below 100 as a text like '99.5', got {found!r}."
        raise BundleError(msg)
    return canonical


def _options(fields: _Fields) -> StatisticOptions:
    return StatisticOptions(
        topk_fraction=fields.number("topk_fraction", rule="in (0, 1]", holds=lambda value: 0 < value <= 1),
        smoothing_sigma=fields.number("smoothing_sigma", rule="at least 0", holds=lambda value: value >= 0),
    )


def _decision(fields: _Fields) -> Decision:
    decision = Decision(
        rule=fields.member("rule", Rule),
        percentile=fields.percentile("percentile"),
        variant=fields.member("variant", Variant),
        pixel_statistic=fields.member("pixel_statistic", Statistic),
    )
    if decision.pixel_statistic is Statistic.image_logit:
        fields.refuse("pixel_statistic", "map_max or map_topk_mean", "image_logit")
    return decision


def _group(fields: _Fields) -> GroupCalibration:
    num_normals = fields.count("num_normals", least=1)
    num_kept = fields.count("num_kept", least=1, most=num_normals)
    return GroupCalibration(
        num_normals=num_normals,
        num_kept=num_kept,
        statistics=_statistics(fields.get("statistics"), where=f"{fields._where}: statistics", num=num_kept),  # noqa: SLF001
        observed=tuple(fields.each("observed", lambda found, where: _observed(found, where, num=num_normals))),
    )


def _statistics(found: object, *, where: str, num: int) -> dict[Statistic, Fitted]:
    names = {str(statistic) for statistic in Statistic}
    if not isinstance(found, Mapping) or set(found) != names:
        got = sorted(found) if isinstance(found, Mapping) else found
        msg = f"{where} must hold {', '.join(sorted(names))}, got {got}."
        raise BundleError(msg)
    return {
        statistic: _fitted(_Fields(found[statistic], where=f"{where}.{statistic}", dataclass=Fitted), num=num)
        for statistic in Statistic
    }


def _fitted(fields: _Fields, *, num: int) -> Fitted:
    return Fitted(
        center=fields.number("center", rule="in logits", holds=lambda _: True),
        scale=fields.number("scale", rule="above 0", holds=lambda value: value > 0),
        num_suspects=fields.count("num_suspects", most=num),
        thresholds=tuple(fields.each("thresholds", lambda found, where: _threshold(found, where, num=num))),
    )


def _threshold(found: object, where: str, *, num: int) -> Threshold:
    fields = _Fields(found, where=where, dataclass=Threshold)
    threshold = Threshold(
        percentile=fields.percentile("percentile"),
        variant=fields.member("variant", Variant),
        rank=fields.count("rank", least=1, most=num),
        value=fields.number("value", rule="a float32", holds=_is_float32),
        rate_interval=_interval(fields),
        short=fields.flag("short"),
    )
    rank = rank_of(num, threshold.percentile, threshold.variant)
    if threshold.rank != rank:
        fields.refuse("rank", f"{rank}, as N = {num} and the percentile give it", threshold.rank)
    if threshold.short != (num < num_needed(threshold.percentile, threshold.variant)):
        fields.refuse("short", f"whether N = {num} is below {threshold.num_needed}", threshold.short)
    return threshold


def _interval(fields: _Fields) -> tuple[float, float]:
    ends = fields.get("rate_interval")
    if not (
        isinstance(ends, list)
        and len(ends) == len(("lower", "upper"))
        and all(map(_is_finite, ends))
        and 0 <= ends[0] <= ends[1] <= 1
    ):
        fields.refuse("rate_interval", "two numbers in [0, 1], ascending", ends)
    assert isinstance(ends, list)
    return float(ends[0]), float(ends[1])


def _observed(found: object, where: str, *, num: int) -> Observed:
    fields = _Fields(found, where=where, dataclass=Observed)
    return Observed(
        rule=fields.member("rule", Rule),
        percentile=fields.percentile("percentile"),
        variant=fields.member("variant", Variant),
        num_alarms=fields.count("num_alarms", most=num),
    )


def _check_levels(calibration: Calibration, fields: _Fields) -> None:
    """Refuse thresholds and observed rates that are double, that nothing asked for, or that lack what decides."""
    asked = {*calibration.percentiles, *map(split_percentile, calibration.percentiles)}
    decision = calibration.decision
    decisive = (decision.threshold_percentile, decision.variant)
    groups = [*calibration.groups.items(), *([] if calibration.overall is None else [("overall", calibration.overall)])]
    for name, group in groups:
        rules = [(item.rule, item.percentile, item.variant) for item in group.observed]
        if len(set(rules)) != len(rules) or not {percentile for _, percentile, _ in rules} <= {
            *calibration.percentiles
        }:
            fields.refuse(f"{name}.observed", "one for each rule, percentile and variant", rules)
        if (decision.rule, decision.percentile, decision.variant) not in rules:
            fields.refuse(f"{name}.observed", f"complete: {decision.rule} {decision.percentile} decides", rules)
        for statistic, fitted in group.statistics.items():
            path = f"{name}.{statistic}.thresholds"
            levels = [(item.percentile, item.variant) for item in fitted.thresholds]
            if len(set(levels)) != len(levels) or not {percentile for percentile, _ in levels} <= asked:
                fields.refuse(path, "one for each percentile and variant asked for", levels)
            if decisive not in levels:
                fields.refuse(path, f"complete: the decision reads {decisive[0]} ({decisive[1]})", levels)


def _is_finite(value: object) -> bool:
    """Tell whether a JSON value is a number that a float holds; a whole number may be larger than any."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    )  # false for NaN too


def _is_float32(value: float) -> bool:
    return abs(value) <= float(np.finfo(np.float32).max) and float(np.float32(value)) == value
