"""What holds for every policy that ships, whatever is asked: exhaustively over its calls, and for random requests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ext_authz.decision import Allow, Deny, Reason, Request
from ext_authz.policy.kserve import ModelScope, surface
from ext_authz.policy.model import Policy
from ext_authz.policy.rights import Trait
from ext_authz.policytool.callers import IdentityDocument, given_claims
from ext_authz.policytool.simulator import SimulatedCheck, Simulator
from ext_authz.revocation.entry import Kind
from tests.fuzz.choices import Choices
from tests.fuzz.fuzz_match import a_request, traits
from tests.fuzz.policies import policies, policy_files

_NOON = 1_767_268_800.0
"""On a Thursday."""
_UNKNOWN = "no-entry-names-me"
_TEAMS = re.compile(r"\{([a-z_]+)(=\*\*)?\}")
POLICIES = [pytest.param(*found, id=found[1].parent.name) for found in zip(policies(), policy_files(), strict=True)]
every_policy = pytest.mark.parametrize(("policy", "file"), POLICIES)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


def ask(
    runner: asyncio.Runner,
    policy: Policy,
    request: Request,
    identity: IdentityDocument | None,
    revoked: frozenset[Kind] = frozenset(),
) -> SimulatedCheck:
    """One request in a fresh simulator."""
    simulator = Simulator(policy, _NOON)
    simulator.counters.revoked |= revoked
    if identity is not None:
        token = simulator.callers.present(given_claims(identity, policy.issuers, _NOON))
        request = replace(request, authorization=(token,))
    return runner.run(simulator.check(request))


def callers(policy: Policy) -> list[IdentityDocument]:
    return [*people(policy), *(IdentityDocument(issuer=issuer.name) for issuer in policy.issuers if issuer.asap)]


def people(policy: Policy) -> list[IdentityDocument]:
    """For every issuer and client somebody with every other trait that the policy asks for."""
    known, claims = traits(policy), {"tenant": "acme", "plan": "silver", "department": "risk"}
    return [
        IdentityDocument(
            issuer=issuer.name,
            client=client,
            roles=tuple(known[Trait.ROLE]),
            scopes=tuple(known[Trait.SCOPE]),
            groups=tuple(known[Trait.GROUP]),
            claims={name: claims[name] for name in issuer.claims.keep if name in claims},
        )
        for issuer in policy.issuers
        if not issuer.asap
        for client in (None, *([] if issuer.clients else known[Trait.CLIENT]))
    ]


def calls(policy: Policy, model: str) -> Iterator[Request]:
    """Every call of the surface and every path of the policy, at every host, about this model."""
    templates = {*surface(), *((method, route.path) for route in policy.routes for method in route.methods)}
    hosts = {host.replace("*", "www") for route in policy.routes for host in route.hosts} | {"models.example"}
    headers = {"x-tenant": "acme"} | {name: "1" for route in policy.routes for name in route.headers - {"x-tenant"}}
    for method, template in sorted(templates):
        path = _TEAMS.sub(lambda found: {"model": model, "version": "1"}.get(found[1], "acme"), template)
        grpc = "/v2" not in path and "." in path.split("/")[1]
        for host in sorted(hosts):
            yield Request(
                method=method,
                host=host,
                path=path,
                content_type="application/grpc" if grpc else "application/json",
                headers=headers,
                source="192.0.2.1",
                models=(model,) if grpc else (),
            )


def a_model(policy: Policy) -> str:
    return policy.models.all[0].name.replace("*", "x")


def is_public(policy: Policy, asked: SimulatedCheck) -> bool:
    return asked.decision.route in {route.name for route in policy.routes if route.public}


@every_policy
def test_a_caller_with_all_rights_is_allowed_something(policy: Policy, file: str, runner: asyncio.Runner) -> None:
    """Or the tests below would hold for a policy that nothing can match."""
    asked = [ask(runner, policy, call, who) for who in callers(policy) for call in calls(policy, a_model(policy))]
    allowed = {one.decision.route for one in asked if isinstance(one.decision, Allow)}
    assert allowed - {route.name for route in policy.routes if route.public}, file


@every_policy
def test_without_a_token_only_public_routes_are_served(policy: Policy, file: str, runner: asyncio.Runner) -> None:
    for call in calls(policy, a_model(policy)):
        asked = ask(runner, policy, call, None)
        assert isinstance(asked.decision, Deny) or is_public(policy, asked), (file, call.path)


@every_policy
def test_a_model_that_no_entry_names_is_not_reachable(policy: Policy, file: str, runner: asyncio.Runner) -> None:
    if policy.models.rule(_UNKNOWN) is not None:
        assert any(rule.name == "*" for rule in policy.models.all)
        return
    for who in callers(policy):
        for call in calls(policy, _UNKNOWN):
            asked = ask(runner, policy, call, who)
            match = asked.context.match
            if match is not None and match.scope is ModelScope.ONE and match.model in ("", _UNKNOWN):
                assert isinstance(asked.decision, Deny), (file, call.path)


@every_policy
def test_a_revocation_always_refuses(policy: Policy, file: str, runner: asyncio.Runner) -> None:
    tried = set()
    for who in people(policy):  # those of a GitLab have no session
        for call in calls(policy, a_model(policy)):
            before = ask(runner, policy, call, who)
            if (
                isinstance(before.decision, Allow)
                and not is_public(policy, before)
                and before.decision.route not in tried
            ):
                tried.add(before.decision.route)
                identity = before.context.identity
                for kind in set(Kind) - (set() if identity and identity.session else {Kind.SESSION}):
                    after = ask(runner, policy, call, who, frozenset({kind})).decision
                    assert isinstance(after, Deny), (file, call.path, kind)
                    assert after.reason is Reason.REVOKED


@given(st.integers(0, len(POLICIES) - 1), st.binary(min_size=10, max_size=120), st.sampled_from([None, *Kind]))
@settings(max_examples=300, deadline=None)
def test_the_same_for_random_requests(runner: asyncio.Runner, index: int, data: bytes, kind: Kind | None) -> None:
    policy, request = policies()[index], a_request(Choices(data))
    anonymous = ask(runner, policy, request, None)
    assert isinstance(anonymous.decision, Deny) or is_public(policy, anonymous)
    if kind is not None:
        for who in people(policy):  # those of a GitLab have no session
            asked = ask(runner, policy, request, who, frozenset({kind}))
            assert isinstance(asked.decision, Deny) or is_public(policy, asked)
