"""What a calibration is asked for, and of which statistics."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import TypeVar

from feclip.calibration.levels import Variant, parse_percentile, split_percentile
from feclip.errors import ConfigError

__all__ = ["CalibrationOptions", "Normalization", "Percentiles", "Rule", "Statistic", "StatisticOptions"]

LARGEST_TRIM = 0.5  # more than half of the "normals" being anomalies is no calibration set

_Enum = TypeVar("_Enum", bound=StrEnum)


class Percentiles(tuple[str, ...]):
    """Percentiles as exact decimals, written ``99.5,99.9``."""

    __slots__ = ()


class Statistic(StrEnum):
    """Columns of the score table that get a threshold, float32 logits."""

    image_logit = "image_logit"
    """The image score, from the class token."""
    map_max = "map_max"
    """The largest value of the anomaly map."""
    map_topk_mean = "map_topk_mean"
    """The mean of the map's largest values."""


class Rule(StrEnum):
    """When an image is called anomalous."""

    image = "image"
    """Its image score exceeds its threshold."""
    pixel = "pixel"
    """The map's statistic exceeds its threshold."""
    either = "either"
    """One of the two does; each gets half of ``1 - p``, so that together they keep it."""
    both = "both"
    """Both do."""


class Normalization(StrEnum):
    """How scores become comparable between groups: ``(score - center) / scale``, fitted on the normals kept."""

    none = "none"
    """0 and 1."""
    zscore = "zscore"
    """Mean and standard deviation (divisor N)."""
    minmax = "minmax"
    """Smallest, and largest minus smallest."""
    robust = "robust"
    """Median and interquartile range: order statistics of ranks ceil(N / 2), ceil(N / 4) and ceil(3 N / 4)."""


@dataclass(frozen=True, kw_only=True)
class StatisticOptions:
    """What the map's statistics were computed with; a threshold holds for these alone."""

    topk_fraction: float
    """Share of the valid pixels that the top-k mean covers, above 0 up to 1."""
    smoothing_sigma: float
    """Width of the Gaussian that smooths the map, pixels of the model input, at least 0."""

    def __post_init__(self) -> None:
        if not 0 < self.topk_fraction <= 1:
            msg = f"topk_fraction must be above 0 and at most 1, got {self.topk_fraction}."
            raise ConfigError(msg)
        if not 0 <= self.smoothing_sigma < float("inf"):
            msg = f"smoothing_sigma must be at least 0 pixels, got {self.smoothing_sigma}."
            raise ConfigError(msg)
        object.__setattr__(self, "topk_fraction", float(self.topk_fraction))  # 0 and 0.0 are one value with one digest
        object.__setattr__(self, "smoothing_sigma", float(self.smoothing_sigma))


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """What thresholds are fitted, and which of them decides.

    Enum fields also take their names, and percentiles numbers.
    """

    percentiles: Percentiles = field(default=Percentiles(("99.5",)))
    """Percentiles of the normal scores, percent, written 99.5,99.9; the first one decides."""
    variant: Variant = Variant.percentile
    """Which order statistic decides; the other one is recorded beside it."""
    rule: Rule = Rule.image
    """When an image is called anomalous."""
    pixel_statistic: Statistic = Statistic.map_max
    """Which statistic of the map the rules pixel, either and both read."""
    threshold_by: str | None = None
    """Column of the score table whose values (a line, a camera) get thresholds of their own; None for one set."""
    fallback: bool = False
    """Whether groups that calibration never saw are decided by thresholds of all normals together."""
    normalization: Normalization = Normalization.none
    """How scores are made comparable between groups; it changes no decision."""
    trim_fraction: float = 0.0
    """Share of the highest normal scores, of each statistic by itself, that is left out as probably anomalous."""
    force: bool = False
    """Whether too few normals are accepted: their maximum then stands in, and is marked ``short``."""

    def __post_init__(self) -> None:
        values = tuple(parse_percentile(value, name="percentiles") for value in self.percentiles)
        if not values or len(set(values)) != len(values):
            msg = f"percentiles must be one or more different numbers, got {list(self.percentiles)}."
            raise ConfigError(msg)
        set_field = object.__setattr__  # frozen: this is where the fields are born
        set_field(self, "percentiles", Percentiles(values))
        set_field(self, "variant", _member(Variant, self.variant, name="variant"))
        set_field(self, "rule", _member(Rule, self.rule, name="rule"))
        set_field(self, "pixel_statistic", _member(Statistic, self.pixel_statistic, name="pixel_statistic"))
        set_field(self, "normalization", _member(Normalization, self.normalization, name="normalization"))
        if self.pixel_statistic is Statistic.image_logit:
            msg = "pixel_statistic must be map_max or map_topk_mean, got 'image_logit'."
            raise ConfigError(msg)
        if not 0 <= self.trim_fraction < LARGEST_TRIM:
            msg = f"trim_fraction must be at least 0 and below {LARGEST_TRIM}, got {self.trim_fraction}."
            raise ConfigError(msg)
        if self.fallback and self.threshold_by is None:
            msg = "fallback needs threshold_by: without groups there is one set of thresholds for all images."
            raise ConfigError(msg)

    def num_kept(self, num: int) -> int:
        """Return how many of N normals remain: N - floor(N trim_fraction), the fraction taken as an exact decimal.

        Example:
            >>> CalibrationOptions(trim_fraction=0.29).num_kept(100)  # 100 * 0.29 is 28.999999999999996 in floats
            71
        """
        return num - int(num * Fraction(repr(float(self.trim_fraction))))

    def levels(self) -> Iterator[tuple[str, Variant, bool]]:
        """Yield every (percentile, variant) to fit, and whether too few normals for it are an error.

        They are for the percentiles asked for, in the variant that decides, and for their halves where the rule
        ``either`` decides. The others are left out where the normals do not suffice.
        """
        seen = set()
        for variant in Variant:
            decides = variant is self.variant
            for percentile in self.percentiles:
                seen.add((percentile, variant))
                yield percentile, variant, decides
        for variant in Variant:
            for index, percentile in enumerate(map(split_percentile, self.percentiles)):
                if (percentile, variant) not in seen:
                    seen.add((percentile, variant))
                    yield percentile, variant, variant is self.variant and self.rule is Rule.either and index == 0


def _member(kind: type[_Enum], value: str, *, name: str) -> _Enum:
    try:
        return kind(value)
    except ValueError:
        msg = f"{name} must be one of {', '.join(kind)}, got {value!r}."
        raise ConfigError(msg) from None
