"""What holds for every policy, caller and call: one route, lists equal rights, narrower never allows more."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ext_authz.check import Check
from ext_authz.decision import Allow, Request
from ext_authz.decision_id import DecisionIds
from ext_authz.errors import ConfigError, Denied
from ext_authz.identity.identity import Identity
from ext_authz.permission import may, visible_models
from ext_authz.policy.load import examine, load_policy
from ext_authz.policy.model import Policy, Route
from ext_authz.policy.operation import Right, classify
from ext_authz.policy.routes import RouteTable
from ext_authz.settlement.model import Answer, Ask, Outcome
from tests.fakes import FakeClock
from tests.unit.policy import random_policies as some
from tests.unit.policy.writing import GOOD, write

Document = dict[str, Any]
Call = tuple[str, str, str, dict[str, str]]

often = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


def compiled(place: Path, document: Document) -> Policy:
    """Parts that do not go together make no example."""
    found = examine(write(place, yaml.safe_dump(document)), {})
    assume(found.policy is not None)
    assert found.policy is not None
    return found.policy


# one route


@given(document=some.policies, calls=st.lists(some.calls, min_size=5, max_size=10))
@often
def test_a_call_has_one_route_and_it_is_the_most_specific(place: Path, document: Document, calls: list[Call]) -> None:
    routes = compiled(place, document).routes
    table = RouteTable(routes)
    for call in calls:
        assert _matched(table, call) == _most_specific(routes, *call)


def _matched(table: RouteTable, call: Call) -> str:
    try:
        return table.match(*call).route.name
    except Denied:
        return ""


def _most_specific(routes: tuple[Route, ...], method: str, path: str, host: str, headers: dict[str, str]) -> str:
    """The language's rules once more, slow and plain: by name, or empty for a refusal."""
    ranked = [(rank, route) for route in routes if (rank := _rank(route, method, path, host)) is not None]
    closest = [route for rank, route in ranked if rank == max(rank for rank, _ in ranked)]
    fitting = [
        route
        for route in closest
        if (route.operation or method in route.methods) and route.headers <= headers.keys()
        if route.path == path or classify(method, path) or not path.startswith("/v2")
    ]
    best = [route for route in fitting if all(route.headers >= other.headers for other in fitting)]
    assert len(best) == min(1, len(fitting)), "two routes for one request"
    return best[0].name if best else ""


def _rank(route: Route, method: str, path: str, host: str) -> tuple[Any, ...] | None:
    """Of the host and the path; None where they do not fit."""
    hosts = [_rank_of_host(pattern, host) for pattern in route.hosts] or [(0, 0)]
    fitting = [rank for rank in hosts if rank is not None]
    if not fitting:
        return None
    if route.operation is not None:
        call = classify(method, path)
        return (max(fitting), 0, ()) if call and call.kind is route.operation else None
    segments = route.path[1:].split("/")
    pattern = "/".join(map(_regex, segments))
    shape = tuple(0 if "=**" in segment else 1 if segment.startswith("{") else 2 for segment in segments)
    return (max(fitting), 1, shape) if re.fullmatch(f"/{pattern}", path) else None


def _regex(segment: str) -> str:
    if "=**" in segment:
        return r"[^/]+(?:/.*)?"
    return "[^/]+" if segment.startswith("{") else re.escape(segment)


def _rank_of_host(pattern: str, host: str) -> tuple[int, int] | None:
    if pattern.startswith("*."):
        return (1, len(pattern)) if host.endswith(pattern[1:]) else None
    return (2, 0) if pattern == host else None


# lists equal rights


@given(models=some.models, identity=some.identities)
@often
def test_the_list_of_models_is_what_a_check_lets_see(place: Path, models: Document, identity: Identity) -> None:
    policy = compiled(
        place, yaml.safe_load(GOOD) | {"models": models, "routes": [{"name": "m", "operation": "metadata"}]}
    )
    seen = [name for name in some.MODELS if _allowed(policy, identity, ("GET", f"/v2/models/{name}", "h", {}))]
    assert visible_models(identity, some.MODELS, policy) == seen


@given(models=some.models, identity=some.identities, version=st.sampled_from(["", "1", "2", "3"]))
@often
def test_a_version_never_takes_less_than_its_model(
    place: Path, models: Document, identity: Identity, version: str
) -> None:
    policy = compiled(place, yaml.safe_load(GOOD) | {"models": models})
    bare = {name: {key: value for key, value in entry.items() if key != "versions"} for name, entry in models.items()}
    without = compiled(place, yaml.safe_load(GOOD) | {"models": bare})
    for name in some.MODELS:
        for right in Right:
            if may(identity, right, name, version, policy):
                assert may(identity, right, name, version, without)


# narrower never allows more


@given(
    document=some.policies,
    identity=some.identities,
    calls=st.lists(some.calls, min_size=4, max_size=8),
    extra=some.permissions,
    at=st.integers(0, 5),
)
@pytest.mark.parametrize("narrow", ["more_for_a_route", "more_for_a_model", "private", "fewer_roles", "a_limit"])
@settings(often, max_examples=30)
def test_a_narrower_policy_allows_no_more(
    place: Path, narrow: str, document: Document, identity: Identity, calls: list[Call], extra: Document, at: int
) -> None:
    before = compiled(place, document)
    narrowed = yaml.safe_load(yaml.safe_dump(document))
    _NARROWINGS[narrow](narrowed, extra, at)
    after = compiled(place, narrowed)
    for call in calls:
        if _allowed(after, identity, call):
            assert _allowed(before, identity, call)


def _more_for_a_route(document: Document, extra: Document, at: int) -> None:
    route = document["routes"][at % len(document["routes"])]
    route["permission"] = {"all": [extra, *([route["permission"]] if "permission" in route else [])]}


def _more_for_a_model(document: Document, extra: Document, at: int) -> None:
    for entry in list(document["models"].values())[at:][:1]:
        for right in {"call", "see", "administer"} & entry.keys():
            entry[right] = {"all": [entry[right], extra]}


def _private(document: Document, _extra: Document, _at: int) -> None:
    for entry in document["models"].values():
        entry["visibility"] = "private"


def _fewer_roles(document: Document, _extra: Document, at: int) -> None:
    for holder in (*document["routes"], *document["models"].values()):
        for key in ("permission", "call", "see"):
            if "any" in holder.get(key, ()) and len(holder[key]["any"]) > 1:
                del holder[key]["any"][at % len(holder[key]["any"])]


def _a_limit(document: Document, _extra: Document, at: int) -> None:
    document["limits"] = {"l": {"key": ["user"], "rate": "1/minute"}}
    document["routes"][at % len(document["routes"])]["limits"] = ["l"]


_NARROWINGS: dict[str, Callable[[Document, Document, int], None]] = {
    "more_for_a_route": _more_for_a_route,
    "more_for_a_model": _more_for_a_model,
    "private": _private,
    "fewer_roles": _fewer_roles,
    "a_limit": _a_limit,
}


class _Known:
    """Recognises one caller."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def cached(self, _authorization: str) -> Identity:
        return self._identity

    async def authenticate(self, _authorization: tuple[str, ...], _grace: float = 0, /) -> Identity:
        return self._identity


class _UsedUp:
    """Every limit is."""

    async def settle(self, ask: Ask) -> Answer:
        outcome = Outcome.LIMITED if ask.takes else Outcome.OK
        return Answer(outcome, 0, (0,) * len(ask.takes), (1,) * len(ask.takes), 1)

    def record(self, event: bytes) -> None:
        """Nobody reads it."""


def _allowed(policy: Policy, identity: Identity, call: Call) -> bool:
    method, path, host, headers = call
    check = Check(policy, _Known(identity), _UsedUp(), DecisionIds(FakeClock()))
    request = Request(method, host, path, authorization=("Bearer t",), headers=headers)
    return isinstance(asyncio.run(check.decide(request)), Allow)


# no text harms the loader


_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["infer", "/a/{b}"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["name", "any", "call", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    [*yaml.safe_load(GOOD), "flood", "experiments", "failure", "responses", "explain", "client_address"]
)
_CHANGED = st.tuples(_KEYS, _VALUES).map(lambda change: yaml.safe_dump(yaml.safe_load(GOOD) | {change[0]: change[1]}))
_SPLICED = st.builds(
    lambda at, until, text: GOOD[:at] + text + GOOD[until:],
    st.integers(0, len(GOOD)),
    st.integers(0, len(GOOD)),
    st.one_of(
        st.text(max_size=10), st.sampled_from(["[" * 90, "{a: ", "&a [*a]", "<<: ", "${X}", "!!python/x ", "\n- "])
    ),
)


@given(text=st.one_of(st.text(max_size=200), _SPLICED, _CHANGED))
@often
def test_any_text_is_a_policy_or_a_fault_and_soon(place: Path, text: str) -> None:
    file = place / "fuzzed.yaml"
    file.write_bytes(text.encode(errors="surrogatepass"))
    began = time.perf_counter()
    with suppress(ConfigError):
        assert load_policy(file, {"X": "x"}).issuers
    assert time.perf_counter() - began < 1
