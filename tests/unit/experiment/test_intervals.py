"""The arithmetic agrees with the tables of the articles it is from, and keeps what it promises."""

from __future__ import annotations

from math import comb, log, sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.experiment.intervals import (
    Share,
    calls_needed,
    design_effect,
    difference,
    quantile_ranks,
    wilson,
    z_of,
)

Z95 = z_of(0.95)
TOTALS = st.integers(1, 100_000)


@st.composite
def shares(draw: st.DrawFn) -> Share:
    total = draw(TOTALS)
    return Share(draw(st.integers(0, total)), total, draw(st.floats(1, 100)))


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_a_share_is_as_sure_as_in_newcombes_table(hits: int, total: int, low: float, high: float) -> None:
    found = wilson(Share(hits, total), Z95)
    assert [found.low, found.high] == pytest.approx([low, high], abs=5e-5)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_a_difference_is_as_sure_as_in_newcombes_table(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    found = difference(Share(*one), Share(*other), Z95)
    assert [found.low, found.high] == pytest.approx([low, high], abs=5e-5)


@pytest.mark.parametrize(("base", "others"), [(0.0, 9), (0.005, 9), (0.02, 9), (0.02, 1)])
def test_a_version_that_is_not_worse_passes_with_the_calls_that_are_said_to_be_needed(base: float, others: int) -> None:
    """In four cases of five; in none with half of them. The sample of the books was right in none, without errors."""
    random, z = Random(5), z_of(0.99)
    needed = calls_needed(base, 0.01, others, z, 0.8)

    def passed(count: int) -> float:
        drawn = [(_binomial(random, count, base), _binomial(random, count * others, base)) for _ in range(300)]
        sure = [difference(Share(a, count), Share(b, count * others), z).high <= 0.01 for a, b in drawn]
        return sum(sure) / len(sure)

    assert 0.72 < passed(needed) < 0.95 or base == 0
    assert passed(needed) > 0.72
    assert passed(needed // 2) < 0.6


def _binomial(random: Random, count: int, share: float) -> int:
    """By the normal distribution, where it is near enough."""
    if count * share > 200:
        return round(random.gauss(count * share, sqrt(count * share * (1 - share))))
    left, hits = count, -1
    while left >= 0 and share:  # how many calls until the next hit
        left -= int(log(1 - random.random()) / log(1 - share)) + 1
        hits += 1
    return max(0, hits)


def test_more_calls_are_needed_for_less() -> None:
    assert calls_needed(0.01, 0.01, 1, Z95, 0.8) > calls_needed(0.01, 0.01, 9, Z95, 0.8)
    assert calls_needed(0.0, 1e-12, 1, Z95, 0.8) > 1e12, "and it ends"
    assert calls_needed(0.0, 0.999, 9, z_of(0.01), 0.8) == 1


@given(shares(), st.floats(0.5, 0.999))
def test_an_interval_holds_its_value_and_grows_with_what_is_asked(share: Share, confidence: float) -> None:
    found, surer = wilson(share, z_of(confidence)), wilson(share, z_of(confidence) + 0.5)
    assert 0 <= surer.low <= found.low <= share.value <= found.high <= surer.high <= 1


@given(shares(), shares())
def test_a_difference_turned_round_is_its_opposite(one: Share, other: Share) -> None:
    there, back = difference(one, other, Z95), difference(other, one, Z95)
    assert there.low == pytest.approx(-back.high, abs=1e-12)
    assert there.low <= one.value - other.value <= there.high
    assert there.low >= -1 - 1e-9


@given(shares(), st.integers(2, 50))
def test_more_of_the_same_is_surer(share: Share, times: int) -> None:
    more = Share(share.hits * times, share.total * times, share.spread)
    few, many = wilson(share, Z95), wilson(more, Z95)
    assert many.high - many.low <= few.high - few.low + 1e-12


@pytest.mark.parametrize("truth", [0.01, 0.05, 0.2, 0.5])
def test_the_truth_is_nearly_always_in_it(truth: float) -> None:
    """Exactly, over all outcomes of 200 calls."""
    chances = [comb(200, hits) * truth**hits * (1 - truth) ** (200 - hits) for hits in range(201)]
    within = [wilson(Share(hits, 200), Z95) for hits in range(201)]
    covered = sum(chance for chance, each in zip(chances, within, strict=True) if each.low <= truth <= each.high)
    assert 0.93 < covered < 0.99


def test_one_caller_with_many_errors_is_not_many_callers() -> None:
    random = Random(1)
    even = [(sum(random.random() < 0.05 for _ in range(50)), 50) for _ in range(40)]
    assert design_effect(even) < 1.6
    (total,) = {sum(hits for hits, _ in even)}
    lumped = [(min(50, total), 50), (total - min(50, total), 50), *[(0, 50)] * 38]
    assert design_effect(lumped) > 30
    assert [design_effect(each) for each in ([], [(3, 9)], [(0, 5), (0, 5)], [(5, 5), (5, 5)])] == [1.0] * 4


def _errors(random: Random, callers: int, share: float) -> Share:
    """Of callers who each call 100 times; how often each fails differs (beta-distributed, correlation 0.05)."""
    chances = [random.betavariate(share * 19, (1 - share) * 19) for _ in range(callers)]
    found = [(sum(random.random() < chance for _ in range(100)), 100) for chance in chances]
    return Share(sum(hits for hits, _ in found), 100 * callers, design_effect(found))


def test_a_version_that_is_worse_is_rarely_taken_for_good_by_few_callers() -> None:
    """At what is tolerated, ten callers in the canary: with the spread of each side alone it was one case in twelve."""
    random, z = Random(3), z_of(0.99)
    found = [difference(_errors(random, 10, 0.02), _errors(random, 90, 0.01), z) for _ in range(150)]
    assert sum(each.high <= 0.01 for each in found) <= 3
    assert sum(each.low > 0.01 for each in found) <= 5


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=20))
def test_a_design_effect_is_never_below_one(callers: list[tuple[int, int]]) -> None:
    assert design_effect([(hits, hits + others) for hits, others in callers]) >= 1


@given(st.floats(0, 1), st.floats(0.001, 0.999), st.floats(0.01, 100))
def test_a_smaller_rise_takes_more_calls(base: float, rise: float, others: float) -> None:
    assert calls_needed(base, rise, others, Z95, 0.8) >= calls_needed(base, rise * 1.5, others, Z95, 0.8) - 1


@given(st.sampled_from([0.5, 0.95, 0.99]), st.integers(0, 100_000))
def test_a_quantile_is_between_two_of_the_sample(quantile: float, total: int) -> None:
    low, high = quantile_ranks(quantile, total, Z95)
    assert low <= quantile <= high
    assert (low > 0) == (high < 2 * quantile), "as far on both sides"


def test_of_few_calls_a_quantile_has_no_bound() -> None:
    """The greatest of 12 is below the 95th percentile in half of all cases: it says nothing of it."""
    assert quantile_ranks(0.95, 12, z_of(0.99))[1] > 1
    assert quantile_ranks(0.95, 200, z_of(0.99))[1] < 1
