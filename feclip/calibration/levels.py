"""Percentiles as exact decimals, the ranks they choose among N normal scores, and what such a rank promises.

Letters: N normal scores, p = percentile / 100, k the one-based rank from the smallest score.

Floats have no place here: ``99.9 / 100 * 1000`` is 999.0000000000001 or 999 by the order of the operations, and its
ceiling then chooses the largest of 1000 scores instead of the second largest.
"""

from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fractions import Fraction

from scipy.special import betaincinv

from feclip.errors import ConfigError

__all__ = ["Variant", "num_needed", "parse_percentile", "rank_of", "rate_interval", "share_of", "split_percentile"]

INTERVAL_TAIL = 0.025  # probability outside the interval on each side: 95 % inside
INTERVAL_DIGITS = 6  # significant; fewer than any two builds of scipy agree on, so that a digest is the same on both
MAX_DECIMALS = 9  # of a percentile: it would need 1e11 images to mean anything


class Variant(StrEnum):
    """Which order statistic of the normal scores becomes the threshold."""

    percentile = "percentile"
    """Rank ``ceil(N p)``: the sample's own percentile (numpy's ``inverted_cdf``)."""
    conformal = "conformal"
    """Rank ``ceil((N + 1) p)``: the false-positive rate on exchangeable images is at most ``1 - p`` in the mean over
    calibration sets (split conformal prediction; Vovk, Gammerman and Shafer, 2005)."""


def parse_percentile(value: str | float | Decimal, *, name: str = "percentile") -> str:
    """Return the canonical text of a percentile: what was written, without trailing zeros.

    Args:
        value: Percentile in percent; a float stands for the shortest decimal that denotes it, which is what was typed.
        name: How the error calls it.

    Raises:
        ConfigError: If it is no decimal strictly between 0 and 100 of at most nine decimal places.

    Example:
        >>> parse_percentile(99.90), parse_percentile("50")
        ('99.9', '50')
    """
    try:
        decimal = Decimal(str(value).strip())
    except InvalidOperation:
        decimal = Decimal("NaN")
    if not decimal.is_finite() or not 0 < decimal < 100 or decimal != round(decimal, MAX_DECIMALS):  # noqa: PLR2004 - percent
        msg = f"{name} must be a decimal above 0 and below 100 of at most {MAX_DECIMALS} places, got {value!r}."
        raise ConfigError(msg)
    text = f"{decimal:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def share_of(percentile: str) -> Fraction:
    """Return p exactly.

    Example:
        >>> share_of("99.9")
        Fraction(999, 1000)
    """
    return Fraction(percentile) / 100


def split_percentile(percentile: str) -> str:
    """Return the percentile whose ``1 - p`` is half of this one's: what each of two statistics gets that share it.

    Example:
        >>> split_percentile("99.5")
        '99.75'
    """
    return parse_percentile((Decimal(percentile) + 100) / 2)


def rank_of(num: int, percentile: str, variant: Variant) -> int:
    """Return the one-based rank k of the threshold among ``num`` normal scores, at most ``num``.

    The conformal rank may be ``N + 1``, an infinite threshold that nothing exceeds; rank N stands for it, and
    :func:`num_needed` says that it is not what was asked for.

    Example:
        >>> rank_of(1000, "99.9", Variant.percentile), rank_of(999, "99.9", Variant.conformal)
        (999, 999)
    """
    share = share_of(percentile)
    population = num if variant is Variant.percentile else num + 1
    return min(num, _ceil(population * share))


def num_needed(percentile: str, variant: Variant) -> int:
    """Return the fewest normal scores from which this threshold can be taken.

    The percentile needs ``ceil(1 / (1 - p))``: with fewer it is the maximum, whatever the percentile says. The
    conformal variant needs ``ceil(p / (1 - p))``: with fewer its rank is N + 1.

    Example:
        >>> [num_needed(text, Variant.conformal) for text in ("99.5", "99.9")]
        [199, 999]
        >>> num_needed("99.9", Variant.percentile)
        1000
    """
    share = share_of(percentile)
    return _ceil((1 if variant is Variant.percentile else share) / (1 - share))


def rate_interval(num: int, rank: int) -> tuple[float, float]:
    """Return the central 95 % interval of the false-positive rate of a threshold at rank k of N, in 0..1.

    The rate of ``score > t`` on further images of the same distribution varies from calibration set to calibration
    set as ``Beta(N + 1 - k, k)`` where scores have no ties, and is lower where they have (Vovk, 2012, "Conditional
    validity of inductive conformal predictors"). To six significant digits.

    Example:
        >>> rate_interval(1000, 995)
        (0.00220498, 0.0116295)
    """
    ends = (betaincinv(num + 1 - rank, rank, probability) for probability in (INTERVAL_TAIL, 1 - INTERVAL_TAIL))
    lower, upper = (float(f"{float(end):.{INTERVAL_DIGITS}g}") for end in ends)
    return lower, upper


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
