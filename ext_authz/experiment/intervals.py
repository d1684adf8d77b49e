"""Arithmetic of shares: how sure one is, how sure a difference, and how many calls it takes to see one.

Sources: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209; R. G. Newcombe, Statistics in Medicine 17 (1998) 873, method
10; J. N. K. Rao and A. J. Scott, Biometrics 48 (1992) 577; W. J. Conover, Practical Nonparametric Statistics, 3rd
edition (1999); R. S. Woodruff, J. Am. Stat. Assoc. 47 (1952) 635: a quantile is as sure as the share beyond it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil, hypot, sqrt
from statistics import NormalDist

from msgspec import Struct
from msgspec.structs import replace

_LARGEST = 50
"""Of a sample: 2 to this power."""


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
    """Of `one` less `other`: Newcombe's interval of two score intervals.

    Both with the greater of their spreads. A few callers whose errors happen to be few also show too small a spread, so
    that what looks good by chance would look sure as well.
    """
    spread = max(one.spread, other.spread)
    first, second = (wilson(replace(each, spread=spread), z) for each in (one, other))
    between = one.value - other.value
    return Interval(
        between - hypot(one.value - first.low, second.high - other.value),
        between + hypot(first.high - one.value, other.value - second.low),
    )


def calls_needed(base: float, rise: float, others: float, z: float, power: float) -> int:
    """Calls of the new variant until `difference` lies below `rise` with this power, if it is not worse than `base`.

    Not the sample of the books, by which a rise is seen: where errors are rare, the interval needs several times as
    many to exclude one. `others`: calls of the old variant for each of the new one, more than 0.
    """
    luck = NormalDist().inv_cdf(power)

    def is_enough(count: int) -> bool:
        by_chance = luck * sqrt(base * (1 - base) * (1 + 1 / others) / count)
        one = Share(min(count, ceil((base + by_chance) * count)), count)
        old = max(1, round(count * others))
        return difference(one, Share(round(base * old), old), z).high <= rise

    most = next((2**number for number in range(_LARGEST) if is_enough(2**number)), 2**_LARGEST)
    return bisect_left(range(most), x=True, lo=max(1, most // 2), key=is_enough)


def quantile_ranks(quantile: float, total: float, z: float) -> tuple[float, float]:
    """Between which two quantiles of a sample that of everything is, whatever the distribution. Below 0 or above 1: the
    sample is too small to say. `total`: of independent calls."""
    half = z * sqrt(quantile * (1 - quantile) / total) if total else 1.0
    return quantile - half, quantile + half
