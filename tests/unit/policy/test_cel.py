"""What a condition says, and that it says no where it cannot say anything."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.policy.cel.expressions import Condition, Verdict
from ext_authz.policy.cel.variables import MAX_ITEMS, MAX_TEXT, NAMES, Call, Caller, Moment, Variables
from tests.unit.policy.conditions import REQUEST, verdict, with_claims

TRUE = [
    "identity.subject == 'alice' && identity.client == 'notebook' && identity.issuer == 'demo'",
    "'admin' in identity.roles && !('owner' in identity.roles)",
    "identity.roles == ['admin', 'infer']",  # sets are handed over sorted
    "identity.scopes.exists(scope, scope.startsWith('models:'))",
    "identity.groups.all(group, group.startsWith('/ml/')) && identity.groups.size() == 2",
    "identity.groups.exists_one(group, group.endsWith('vision'))",
    "'gateway' in identity.audiences",
    "identity.claims.plan == 'gold' && identity.claims.seats >= 3 && identity.claims.share < 1",
    "identity.claims['plan'] in ['gold', 'silver'] && identity.claims.verified == true",
    "identity.claims.none == null && identity.claims.nested.list[1] == 2",
    "has(identity.claims.plan) && !has(identity.claims.team) && 'seats' in identity.claims",
    "identity.claims.exists(name, name == 'plan') && size(identity.claims) == 6",
    "request.method == 'POST' && request.host == 'models.example' && request.source.startsWith('10.')",
    "request.path.matches('^/v2/models/[a-z]+/infer$') && request.query.contains('trace')",
    "int(request.headers['x-batch']) <= 64 && 'x-batch' in request.headers",
    "!request.is_grpc",
    "model.name == 'cancer' && model.version == '3' && model.operation == 'infer' && model.right == 'call'",
    "time.hour >= 8 && time.hour < 18 && time.weekday <= 5",
    "timestamp(time.epoch) < timestamp('2026-01-01T00:00:00Z')",
    "identity.claims.seats > 2 ? identity.subject == 'alice' : false",
    "identity.claims.team == 'x' || true",
]


@pytest.mark.parametrize("text", TRUE)
def test_conditions_that_hold(text: str) -> None:
    condition = Condition.compile(text)
    assert condition.evaluate(REQUEST) == Verdict(value=True)
    assert condition.evaluate(REQUEST).value
    assert condition.text == text


@pytest.mark.parametrize(
    "text",
    [
        "identity.subject == 'bob'",
        "'owner' in identity.roles",
        "identity.claims.plan == 3",
        "has(identity.claims.team)",
        "request.is_grpc",
        "time.hour < 8",
        "identity.claims.team == 'x' && false",
    ],
)
def test_conditions_that_do_not_hold(text: str) -> None:
    condition = Condition.compile(text)
    assert condition.evaluate(REQUEST) == Verdict(value=False)
    assert not condition.evaluate(REQUEST).value


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("identity.claims.team == 'x'", "a claim, header or key that it reads is missing"),
        ("identity.claims.team != 'blocked'", "a claim, header or key that it reads is missing"),
        ("request.headers['x-team'] == 'x'", "a claim, header or key that it reads is missing"),
        ("identity.claims.plan > 3", "'>' does not take (string, int64)"),
        ("identity.claims.plan && true", "a value is not of the type that it expects"),
        ("identity.claims.seats.exists(x, true)", "a value is not of the type that it expects"),
        ("identity.claims.seats.deep == 1", "a value is not of the type that it expects"),
        ("identity.roles[7] == 'x'", "a list that it reads is too short"),
        ("identity.claims.seats * 9223372036854775807 > 0", "a number became too large"),
        ("1 / (identity.claims.seats - 3) == 0", "it divides by zero"),
        ("1 % (time.hour - 12) == 0", "it divides by zero"),
        ("int(identity.subject) == 0", "a text cannot be converted"),
        ("timestamp(identity.subject) == timestamp(0)", "a text cannot be converted"),
        ("uint(0 - time.hour) == 0u", "a number is too large"),
    ],
)
def test_no_answer_is_a_no_with_a_reason(text: str, error: str) -> None:
    assert verdict(text) == Verdict(value=False, error=error)
    assert not Condition.compile(text).evaluate(REQUEST).value


@pytest.mark.parametrize("value", [2**70, -(2**70), "\ud800", object(), {"\ud800": 1}, {1, 2}, [2**70]])
def test_a_claim_that_cannot_be_handed_over_is_a_no(value: object) -> None:
    assert verdict("identity.claims.odd != 'x'", with_claims(odd=value)).error


def test_a_claim_that_is_not_read_has_no_effect() -> None:
    odd = with_claims(odd=2**70, long="x" * (MAX_TEXT + 1), many=["x"] * (MAX_ITEMS + 1), plan="gold")
    assert verdict("identity.claims.plan == 'gold'", odd) == Verdict(value=True)
    assert verdict("'plan' in identity.claims && has(identity.claims.plan)", odd) == Verdict(value=True)
    assert verdict("identity.claims.plan == 'gold' && identity.claims.size() == 4", odd).error


def test_errors_say_nothing_of_values() -> None:
    secret = with_claims(pin="s3cret", huge=31415926535 * 10**20)
    for text in ("identity.claims.pin > 3", "int(identity.claims.pin) == 1", "identity.claims.huge == 1"):
        error = verdict(text, secret).error
        assert error
        assert "s3cret" not in error
        assert "31415" not in error


@pytest.mark.parametrize(
    ("variables", "text", "error"),
    [
        (
            Variables(identity=Caller(subject="x" * 4097)),
            "identity.subject != ''",
            "identity.subject is longer than 4096",
        ),
        (Variables(identity=Caller(roles=["x"] * 301)), "'y' in identity.roles", "identity.roles has more than 300"),
        (
            Variables(identity=Caller(groups=["x" * 4097])),
            "'y' in identity.groups",
            "identity.groups is longer than 4096",
        ),
        (with_claims(a=[["x"] * 150, ["x"] * 150]), "identity.claims.a != []", "identity.claims has more than 300"),
        (with_claims(a={"b": "x" * 4097}), "identity.claims.a != {}", "identity.claims is longer than 4096"),
        (with_claims(a={"x" * 4097: 1}), "identity.claims.a != {}", "identity.claims is longer than 4096"),
        (Variables(request=Call(headers={"a": "x" * 4097})), "request.headers.a != ''", "request.headers is longer"),
    ],
)
def test_too_large_variables_make_a_condition_false(variables: Variables, text: str, error: str) -> None:
    answer = verdict(text, variables)
    assert not answer.value
    assert answer.error.startswith(error)


def test_the_largest_variables_are_evaluated() -> None:
    full = Variables(
        identity=Caller(subject="x" * MAX_TEXT, roles=["x"] * MAX_ITEMS, claims={"a": ["x"] * (MAX_ITEMS - 1)})
    )
    assert verdict("identity.subject != '' && 'x' in identity.roles && 'x' in identity.claims.a", full).value


@pytest.mark.parametrize(
    ("text", "always"),
    [
        ("true", True),
        ("1 == 2", False),
        ("1 / 0 == 1", False),
        ("identity.subject == 'alice' || true", True),
        ("false && identity.claims.plan == 'gold'", False),
        ("true || identity.subject == 'alice' ? 1 == 1 : identity.subject == ''", True),
        ("['a'].exists(x, x == 'a' || x == identity.subject)", True),
        ("identity.subject == 'alice'", None),
        ("has(identity.claims.plan)", None),
        ("identity.roles.all(role, true)", None),
        ("1 / 0 == 1 || identity.subject == 'alice'", None),
    ],
)
def test_a_constant_condition_is_told(text: str, always: bool | None) -> None:  # noqa: FBT001 - a column of the table
    condition = Condition.compile(text)
    assert condition.constant() is always
    if always is not None:
        assert {condition.evaluate(variables).value for variables in (REQUEST, Variables())} == {always}


def test_the_variables_that_it_reads_are_known() -> None:
    text = "has(identity.claims.a) && identity.roles.exists(time, time == request.headers.x) && model.name in ['a']"
    assert Condition.compile(text).names == {"identity.claims", "identity.roles", "request.headers", "model.name"}
    assert Condition.compile("true").names == frozenset()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_variable_can_be_compared_with_itself(name: str) -> None:
    assert verdict(f"{name} == {name}") == Verdict(value=True)
    assert verdict(f"{name} == {name}", Variables()) == Verdict(value=True)


def test_an_unknown_caller_is_all_defaults() -> None:
    assert verdict("identity.subject == '' && identity.roles == [] && identity.claims == {}", Variables()).value


@given(st.integers(0, 253_402_300_799))
@settings(max_examples=50)
def test_hours_and_weekdays_are_those_of_the_calendar(epoch: int) -> None:
    moment, calendar = Moment(epoch), datetime.fromtimestamp(epoch, UTC)
    assert (moment.hour, moment.weekday) == (calendar.hour, calendar.isoweekday())
