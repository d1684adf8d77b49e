"""Who gets which variant: by weight, always the same, and no caller changes variants without need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ext_authz.decision import Principal
from ext_authz.identity.identity import Identity
from ext_authz.phases.experiments import BUCKETS, Experiments, assigned, bucket
from ext_authz.policy.model import Experiment, Override
from ext_authz.policy.rights import Has, Trait

CANARY_10 = Experiment("sentiment-v2", "sentiment", {"stable": 90, "canary": 10}, "sentiment-v2")
TESTERS = Override("x-experiment", {"try": "canary", "no": "stable"}, Has(Trait.ROLE, frozenset({"tester"})))
USERS = 4000


def caller(subject: str, *, issuer: str = "kc", session: str = "s", roles: tuple[str, ...] = ()) -> Identity:
    return Identity(
        Principal("https://kc.example", subject, "web-app", roles, "jti"),
        issuer,
        session,
        1,
        2.0,
        (),
        frozenset(),
        frozenset(roles),
    )


def variant(experiment: Experiment, identity: Identity, headers: Mapping[str, str] | None = None) -> str:
    return Experiments({experiment.model: experiment}).variant(experiment.model, identity, headers or {})


def test_the_version_that_a_variant_serves_is_the_policys() -> None:
    experiments = Experiments({"sentiment": replace(CANARY_10, versions={"canary": "2"})})
    assert experiments.served("sentiment", "canary") == "2"
    assert experiments.served("sentiment", "stable") == experiments.served("other", "canary") == ""


def weighted(**weights: int) -> Experiment:
    return replace(CANARY_10, weights=weights)


def variants(experiment: Experiment) -> list[str]:
    experiments = Experiments({"sentiment": experiment})
    return [experiments.variant("sentiment", caller(f"user-{number}"), {}) for number in range(USERS)]


def test_ten_per_cent_are_ten_per_cent() -> None:
    assert abs(Counter(variants(CANARY_10))["canary"] / USERS - 0.10) < 0.015


@pytest.mark.parametrize("shares", [(34, 33, 33), (1, 99), (0, 100), (100, 0), (50, 20, 20, 10)])
def test_every_variant_gets_its_share(shares: tuple[int, ...]) -> None:
    found = Counter(variants(weighted(**{f"v{index}": share for index, share in enumerate(shares)})))
    for index, share in enumerate(shares):
        assert abs(found[f"v{index}"] / USERS - share / 100) < 0.025
        assert found[f"v{index}"] > 0 or share == 0


def test_who_chooses_no_variant_has_the_one_of_the_weights() -> None:
    for number in range(50):
        who = caller(f"user-{number}", roles=("tester",))
        chosen = replace(CANARY_10, override=TESTERS)
        assert variant(chosen, who) == assigned(chosen, "kc", f"user-{number}")


def test_a_caller_keeps_its_variant() -> None:
    assert variants(CANARY_10) == variants(CANARY_10)


def test_a_new_token_session_or_role_changes_nothing() -> None:
    for number in range(200):
        one, other = caller(f"user-{number}"), caller(f"user-{number}", session="", roles=("gold",))
        assert variant(CANARY_10, one) == variant(CANARY_10, other)


@given(subject=st.text(max_size=20), small=st.integers(0, 100), growth=st.integers(0, 100))
def test_who_is_in_the_canary_stays_in_it_as_it_grows(subject: str, small: int, growth: int) -> None:
    large = min(100, small + growth)
    before = variant(weighted(stable=100 - small, canary=small), caller(subject))
    after = variant(weighted(stable=100 - large, canary=large), caller(subject))
    assert (before, after) != ("canary", "stable")


@given(
    subject=st.text(max_size=20),
    shares=st.lists(st.integers(1, 25), min_size=3, max_size=4),
    giver=st.integers(0, 2),
    moved=st.integers(0, 25),
)
def test_weight_that_moves_between_neighbours_moves_only_their_callers(
    subject: str, shares: list[int], giver: int, moved: int
) -> None:
    shares = [100 - sum(shares[1:]), *shares[1:]]
    giver = min(giver, len(shares) - 2)
    moved = min(moved, shares[giver])
    after = [share - moved * (index == giver) + moved * (index == giver + 1) for index, share in enumerate(shares)]
    one, other = (
        variant(weighted(**{f"v{index}": share for index, share in enumerate(each)}), caller(subject))
        for each in (shares, after)
    )
    assert one == other or (one, other) == (f"v{giver}", f"v{giver + 1}")


def test_another_salt_divides_anew() -> None:
    first = variants(weighted(a=50, b=50))
    second = variants(replace(weighted(a=50, b=50), salt="round-2"))
    assert abs(sum(map(str.__eq__, first, second)) / USERS - 0.5) < 0.03


def test_the_buckets_are_told_apart_by_issuer_and_by_where_one_text_ends() -> None:
    assert bucket("s", "kc", "alice") != bucket("s", "other", "alice")
    assert bucket("sa", "kc", "lice") != bucket("s", "kc", "alice")
    assert bucket("sentiment-v2", "kc", "alice") == 2384  # as it was: another number would change everybody's side


def test_buckets_are_evenly_full() -> None:
    found = Counter(bucket("s", "kc", str(number)) * 10 // BUCKETS for number in range(20_000))
    assert all(abs(count - 2000) < 200 for count in found.values())
    assert len(found) == 10


def test_a_model_without_an_experiment_has_no_variant() -> None:
    assert Experiments({}).variant("sentiment", caller("alice"), {"x-experiment": "try"}) == ""


@pytest.mark.parametrize(
    ("roles", "headers", "expected"),
    [
        (("tester",), {"x-experiment": "try"}, "canary"),
        (("tester",), {"x-experiment": "no"}, "stable"),
        (("tester",), {"x-experiment": "other"}, None),
        (("tester",), {"x-experiment": "try,no"}, None),
        (("tester",), {}, None),
        ((), {"x-experiment": "try"}, None),
    ],
)
def test_the_header_counts_for_who_may_choose(
    roles: tuple[str, ...], headers: dict[str, str], expected: str | None
) -> None:
    experiment = replace(CANARY_10, override=TESTERS)
    for number in range(50):
        identity = caller(f"user-{number}", roles=roles)
        assert variant(experiment, identity, headers) == (expected or variant(CANARY_10, identity))


VERSIONED = replace(CANARY_10, versions={"stable": "1", "canary": "2"})


@pytest.mark.parametrize(
    ("roles", "version", "headers", "expected"),
    [
        ((), "1", {}, "stable"),
        (("tester",), "1", {}, "stable"),
        (("tester",), "2", {}, "canary"),
        ((), "2", {}, None),
        (("tester",), "3", {}, None),
        (("tester",), "1", {"x-experiment": "try"}, "canary"),
    ],
)
def test_a_named_version_leads_to_what_serves_it(
    roles: tuple[str, ...], version: str, headers: dict[str, str], expected: str | None
) -> None:
    experiments = Experiments({"sentiment": replace(VERSIONED, override=TESTERS)})
    for number in range(50):
        who = caller(f"user-{number}", roles=roles)
        found = experiments.variant("sentiment", who, headers, version=version)
        assert found == (expected or assigned(CANARY_10, "kc", f"user-{number}"))


def test_without_who_may_choose_only_the_version_of_the_first_variant_leads_to_it() -> None:
    experiments = Experiments({"sentiment": VERSIONED})
    for number in range(50):
        who = caller(f"user-{number}", roles=("tester",))
        assert experiments.variant("sentiment", who, {}, version="1") == "stable"
        assert experiments.variant("sentiment", who, {}, version="2") == assigned(VERSIONED, "kc", f"user-{number}")


def test_of_two_variants_with_one_version_the_first_serves_it() -> None:
    same = replace(VERSIONED, weights={"stable": 0, "blue": 50, "green": 50}, versions={"green": "2", "blue": "2"})
    experiments = Experiments({"sentiment": replace(same, override=TESTERS)})
    assert experiments.variant("sentiment", caller("a", roles=("tester",)), {}, version="2") == "blue"
