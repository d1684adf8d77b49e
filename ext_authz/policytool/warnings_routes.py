"""Warnings about what routes can and cannot reach: shown by what the real route table does with sample requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ext_authz.errors import Denied
from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.faults import Step, shown
from ext_authz.policy.kserve import Kind, ModelScope, surface
from ext_authz.policy.model import Match, Policy, Route
from ext_authz.policy.routes import RouteTable

_INFERS = frozenset({Kind.INFER, Kind.STREAM, Kind.GENERATE})
_NAME = "some-name"
"""Stands for whatever a caller writes: no literal of a policy is called so."""
_PLACEHOLDER = re.compile(r"\{([a-z_]+)(=\*\*)?\}")


class Warned(NamedTuple):
    """Path into the policy, stable code, what is dangerous, what would be right."""

    path: tuple[Step, ...]
    code: str
    what: str
    hint: str


def route_warnings(document: PolicyDocument, policy: Policy) -> Iterator[Warned]:
    """Of all routes and models."""
    probed = probes(policy.routes, RouteTable(policy.routes))
    for index, route in enumerate(policy.routes):
        matches = _matches(probed, route)
        if not matches:
            yield Warned(("routes", index), "unreachable_route", *_shadowed(route, probed[route.name]))
        elif route.public:
            yield from _public(index, route, matches)
        elif not route.limits and any(match.operation in _INFERS for match in matches):
            what = f"the route {shown(route.name)} infers without any limit"
            yield Warned(("routes", index), "unlimited_inference", what, "name at least one limit under limits")
        yield from _condition(index, route)
    yield from _unreached(document, policy, probed)


def _matches(probed: Mapping[str, Sequence[Probe]], route: Route) -> list[Match]:
    return [found for _, found in probed[route.name] if isinstance(found, Match) and found.route is route]


def _shadowed(route: Route, probed: Sequence[Probe]) -> tuple[str, str]:
    """What is wrong and what would be right."""
    if not probed:
        what = f"nothing can match the route {shown(route.name)}: its path is under /v2/ but no call of KServe"
        return what, "write the path of a call, or an operation"
    found = probed[0].found
    taken = found.code if isinstance(found, Denied) else f"the route {shown(found.route.name)}"
    what = f"no request reaches the route {shown(route.name)}: {probed[0].call} ends at {taken}"
    return what, "remove it, or make it more specific than the other"


def _public(index: int, route: Route, matches: Sequence[Match]) -> Iterator[Warned]:
    if any(match.scope is not ModelScope.NONE for match in matches):
        what = f"the public route {shown(route.name)} also matches calls that concern a model, and refuses them"
        hint = "write a route of its own, which is not public, for the calls about models"
        yield Warned(("routes", index, "public"), "public_route_to_model", what, hint)


def _condition(index: int, route: Route) -> Iterator[Warned]:
    constant = None if route.when is None else route.when.constant()
    if constant is not None:
        effect = "so it changes nothing" if constant else "so every call of the route is refused"
        what = f"the condition is always {str(constant).lower()}, {effect}"
        yield Warned(("routes", index, "when"), "constant_condition", what, "leave it out, or use the request in it")


def _unreached(document: PolicyDocument, policy: Policy, probed: Mapping[str, Sequence[Probe]]) -> Iterator[Warned]:
    matches = [match for route in policy.routes if not route.public for match in _matches(probed, route)]
    if any(map(_reaches_any, matches)):
        return
    rules = [policy.models.rule(match.model) for match in matches if match.scope is ModelScope.ONE]
    reached = {rule.name for rule in rules if rule}
    for name in document.models:
        if name not in reached:
            what = f"no route reaches the model {shown(name)}"
            yield Warned(("models", name), "unreached_model", what, "add a route, for example operation: infer")


def _reaches_any(match: Match) -> bool:
    """Whatever the model is called: unless the path of the route names one."""
    by_name = match.scope is ModelScope.ONE and match.route.operation is None and "{model}" not in match.route.path
    return match.model_from_message or (match.scope is not ModelScope.NONE and not by_name)


class Probe(NamedTuple):
    """One request that fits the route by itself, and what came of it among all routes."""

    call: str
    found: Match | Denied


def probes(routes: Sequence[Route], table: RouteTable) -> dict[str, list[Probe]]:
    """By the name of the route."""
    return {route.name: [*_of(route, table)] for route in routes}


def _of(route: Route, table: RouteTable) -> Iterator[Probe]:
    alone = RouteTable((route,))
    headers = dict.fromkeys(route.headers, "")
    for host in map(_sample_host, route.hosts or (_NAME,)):
        for method, path in _calls(route):
            if _fits(alone, method, path, host, headers):
                yield Probe(f"{method} {path}", _found(table, method, path, host, headers))


def _calls(route: Route) -> Iterator[tuple[str, str]]:
    """Method and path: one of its own, and every call of the surface, of which some may fit."""
    for method in sorted(route.methods):
        yield method, _filled(route.path)
    if route.operation is not None or "{" in route.path:
        for method, template in surface():
            yield method, _filled(template)


def _filled(template: str) -> str:
    return _PLACEHOLDER.sub(lambda found: "1" if found[1] == "version" else _NAME, template)


def _sample_host(host: str) -> str:
    return host.replace("*", _NAME)


def _fits(alone: RouteTable, method: str, path: str, host: str, headers: dict[str, str]) -> bool:
    return isinstance(_found(alone, method, path, host, headers), Match)


def _found(table: RouteTable, method: str, path: str, host: str, headers: dict[str, str]) -> Match | Denied:
    try:
        return table.match(method, path, host, headers)
    except Denied as refusal:
        return refusal
