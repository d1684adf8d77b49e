"""What a few callers do often is no proof: intervals of latency and of agreement are of callers, not of calls."""

from __future__ import annotations

from math import exp
from random import Random

from ext_authz.experiment.evidence import Quantile, _agreement, _latencies, _Pair, _Row

P95 = 1
Z99 = 2.5758


def _rows(random: Random, variant: str, callers: int, factor: float) -> list[_Row]:
    """Callers with inputs of different sizes, 60 calls each."""
    found = []
    for number in range(callers):
        size = exp(random.gauss(0, 0.4))
        times = [factor * size * exp(random.gauss(0, 0.4)) for _ in range(60)]
        found.append(_Row("demo", f"{variant}{number}", variant, *(False, True), 60, 60, 0, 0, times))
    return found


def _p95s(random: Random, factor: float) -> tuple[Quantile, Quantile]:
    sides = _rows(random, "stable", 90, 1), _rows(random, "canary", 10, factor)
    control, candidate = (_latencies(own, sides, Z99)[P95] for own in sides)
    return control, candidate


def test_ten_callers_with_big_inputs_do_not_make_a_version_slow_nor_others_make_it_quick() -> None:
    """At what is tolerated. With calls taken as independent, 4 of 10 such cases were promoted or rolled back."""
    random = Random(7)
    found = [_p95s(random, 1.25) for _ in range(40)]
    assert sum(candidate.high <= control.low * 1.25 for control, candidate in found) == 0
    assert sum(candidate.low > control.high * 1.25 for control, candidate in found) <= 1


def test_many_callers_tell() -> None:
    random = Random(8)
    sides = _rows(random, "stable", 900, 1), _rows(random, "canary", 300, 1)
    control, candidate = (_latencies(own, sides, Z99)[P95] for own in sides)
    assert candidate.high <= control.low * 1.5
    slow = _rows(random, "canary", 300, 3)
    control, candidate = (_latencies(own, (sides[0], slow), Z99)[P95] for own in (sides[0], slow))
    assert candidate.low > control.high * 1.25


def test_agreement_is_as_sure_as_its_callers() -> None:
    one = [_Pair("i", "a", "positive", "positive", 9000), _Pair("i", "b", "positive", "negative", 1000)]
    many = [_Pair("i", f"u{n}", "positive", "positive" if n % 10 else "negative", 10) for n in range(1000)]
    assert (_agreement(one).hits, _agreement(one).total) == (_agreement(many).hits, _agreement(many).total)
    assert _agreement(one).weight < 5
    assert 900 < _agreement(many).weight < 1100
