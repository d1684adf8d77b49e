"""Arithmetic of shares: how sure one is, how sure a difference, and how many calls it takes to see one.

Sources: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209; R. G. Newcombe, Statistics in Medicine 17 (1998) 873, method
10; J. N. K. Rao and A. J. Scott, Biometrics 48 (1992) 577; J. L. Fleiss, B. Levin, M. C. Paik, Statistical Methods for
Rates and Proportions, 3rd edition (2003), 4.2; W. J. Conover, Practical Nonparametric Statistics, 3rd edition (1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, hypot, sqrt
from statistics import NormalDist

from msgspec import Struct


class Interval(Struct, frozen=True):
    """Within which a value most likely is."""

    low: float
    high: float


class Share(Struct, frozen=True):
    """So many hits among so many calls of callers who each behave in one way."""

    hits: int
    total: int
    spread: float = 1.0
    """The design effect: how many calls tell as much as one independent call. 1 at least."""

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else 0.0

    @property
    def weight(self) -> float:
        """As many independent calls would tell the same."""
        return self.total / self.spread


def z_of(confidence: float) -> float:
    """Of a two-sided interval. `confidence`: between 0 and 1."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def design_effect(callers: Sequence[tuple[int, int]]) -> float:
    """`callers`: hits and calls of each. Rao and Scott: the variance of the share with callers drawn, not calls, over
    that of independent calls. Where it cannot be estimated (one caller, no hit, nothing but hits) it is 1."""
    hits, total, count = sum(hit for hit, _ in callers), sum(calls for _, calls in callers), len(callers)
    if count < 2 or hits in (0, total):
        return 1.0
    share = hits / total
    squares = sum((hit - share * calls) ** 2 for hit, calls in callers)
    return max(1.0, count / (count - 1) * squares / (total * share * (1 - share)))


def wilson(share: Share, z: float) -> Interval:
    """The score interval of a share; of no calls, everything."""
    n, p = share.weight, share.value
    if not n:
        return Interval(0.0, 1.0)
    middle, half = (p + z * z / (2 * n)), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # What rounding leaves outside is none.
    return Interval(max(0.0, min(p, (middle - half) / scale)), min(1.0, max(p, (middle + half) / scale)))


def difference(one: Share, other: Share, z: float) -> Interval:
    """Of `one` less `other`: Newcombe's interval of two score intervals."""
    first, second, between = wilson(one, z), wilson(other, z), one.value - other.value
    return Interval(
        between - hypot(one.value - first.low, second.high - other.value),
        between + hypot(first.high - one.value, other.value - second.low),
    )


def calls_needed(base: float, rise: float, others: float, z: float, power: float) -> int:
    """Calls of the new variant until a share that rose from `base` by `rise` is seen with this power.

    `others`: calls of the old variant for each of the new one, more than 0.
    """
    raised = min(1.0, base + rise)
    mean = (raised + others * base) / (1 + others)
    without = z * sqrt((1 + 1 / others) * mean * (1 - mean))
    with_rise = NormalDist().inv_cdf(power) * sqrt(raised * (1 - raised) + base * (1 - base) / others)
    return ceil(((without + with_rise) / rise) ** 2)


def quantile_ranks(quantile: float, total: float, z: float) -> tuple[float, float]:
    """Between which two quantiles of a sample that of everything is, whatever the distribution."""
    half = z * sqrt(quantile * (1 - quantile) / total) if total else 1.0
    return max(0.0, quantile - half), min(1.0, quantile + half)
