"""What holds for every policy, caller and call: lists equal rights, and narrower never allows more."""

from __future__ import annotations

import asyncio
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
from ext_authz.decision import Allow, DecisionIds, Request
from ext_authz.errors import ConfigError
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import may
from ext_authz.policy.kserve import Right
from ext_authz.policy.load import examine, load_policy
from ext_authz.policy.model import Policy
from ext_authz.settlement.model import Outcome, SettleRequest, SettleResult
from tests.fakes import FakeClock
from tests.unit.policy import random_policies as some
from tests.unit.policy.writing import GOOD, write

Document = dict[str, Any]
Call = tuple[str, str, str, dict[str, str]]

often = settings(max_examples=100, suppress_health_check=[HealthCheck.filter_too_much])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


def compiled(place: Path, document: Document) -> Policy:
    """Parts that do not go together make no example."""
    found = examine(write(place, yaml.safe_dump(document)), {})
    assume(found.policy is not None)
    assert found.policy is not None
    return found.policy


# rights


@given(models=some.models, identity=some.identities)
@often
def test_who_may_see_a_model_sees_it(place: Path, models: Document, identity: Identity) -> None:
    policy = compiled(
        place, yaml.safe_load(GOOD) | {"models": models, "routes": [{"name": "m", "operation": "metadata"}]}
    )
    seen = [name for name in some.MODELS if _allowed(policy, identity, ("GET", f"/v2/models/{name}", "h", {}))]
    assert [name for name in some.MODELS if may(identity, Right.SEE, name, "", policy)] == seen


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
@pytest.mark.parametrize(
    "narrow", ["more_for_a_route", "more_for_a_model", "private", "fewer_roles", "a_limit", "a_closer_route"]
)
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


def _a_closer_route(document: Document, extra: Document, at: int) -> None:
    """As near as possible to some route, over all methods, and for fewer callers than any."""
    near = document["routes"][at % len(document["routes"])]
    place = near.get("path", "/v2/models/cat/infer").removesuffix("/{rest=**}").rstrip("/")
    path = place.replace("{x}", "a") + ("", "/", "/{rest=**}", "/b/{rest=**}", "/{y}", "/a")[at]
    document["routes"].append(
        {"name": "closer", "path": path or "/", "methods": ["GET", "POST"], "permission": {"all": [extra, _NOBODY]}}
    )


_NOBODY: Document = {"principal": "nobody"}


def _a_limit(document: Document, _extra: Document, at: int) -> None:
    document["limits"] = {"l": {"key": ["user"], "rate": "1/minute"}}
    document["routes"][at % len(document["routes"])]["limits"] = ["l"]


_NARROWINGS: dict[str, Callable[[Document, Document, int], None]] = {
    "more_for_a_route": _more_for_a_route,
    "more_for_a_model": _more_for_a_model,
    "private": _private,
    "fewer_roles": _fewer_roles,
    "a_limit": _a_limit,
    "a_closer_route": _a_closer_route,
}


class _Known:
    """Recognises one caller."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def cached(self, _authorization: str, _grace: float) -> Identity:
        return self._identity

    async def authenticate(self, _authorization: tuple[str, ...], _grace: float, _request: Request, /) -> Identity:
        return self._identity


class _UsedUp:
    """Every limit is."""

    async def settle(self, ask: SettleRequest) -> SettleResult:
        outcome = Outcome.LIMITED if ask.quota_requests else Outcome.OK
        return SettleResult(outcome, 0, (0,) * len(ask.quota_requests), (1,) * len(ask.quota_requests), 1)

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
    began = time.process_time()
    with suppress(ConfigError):
        assert load_policy(file, {"X": "x"}).issuers
    assert time.process_time() - began < 1
