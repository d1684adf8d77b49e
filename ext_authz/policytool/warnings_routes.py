"""Warnings about what routes can and cannot reach: shown by what the real route table does with sample requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from ext_authz.errors import Denied
from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.faults import Step, shown
from ext_authz.policy.kserve import Kind, ModelScope, Right
from ext_authz.policy.model import Match, Policy, Route
from ext_authz.policy.reach import probes
from ext_authz.policy.rights import NOBODY
from ext_authz.policy.routes import RouteTable

_INFERS = frozenset({Kind.INFER, Kind.STREAM, Kind.GENERATE})
_METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS")
_NO_MODEL = "no-such-name"


class Warned(NamedTuple):
    """Path into the policy, stable code, what is dangerous, what would be right."""

    path: tuple[Step, ...]
    code: str
    what: str
    hint: str


def route_warnings(document: PolicyDocument, policy: Policy) -> Iterator[Warned]:
    """Of all routes and models."""
    table = RouteTable(policy.routes)
    routes = {route.name: route for route in reversed(policy.routes)}.values()  # of two with one name, the first
    matches = {route.name: _matches(route, table) for route in routes}
    at = {route.name: index for index, route in reversed([*enumerate(document.routes)])}
    for route in routes:
        if route.public:
            yield from _public(at[route.name], route, matches[route.name])
        elif not document.routes[at[route.name]].limits and any(
            match.operation in _INFERS for match in matches[route.name]
        ):
            what = f"the route {shown(route.name)} infers without any limit"
            yield Warned(
                ("routes", at[route.name]), "unlimited_inference", what, "name at least one limit under limits"
            )
        if not route.public:
            yield from _named_model(at[route.name], route, policy, table)
        yield from _condition(at[route.name], route)
    yield from _of_models(
        document, policy, [each for route in routes if not route.public for each in matches[route.name]]
    )


def _matches(route: Route, table: RouteTable) -> list[Match]:
    found = [probe.found for probe in probes(route, table)]
    return [each for each in found if isinstance(each, Match) and each.route is route]


def _public(index: int, route: Route, matches: Sequence[Match]) -> Iterator[Warned]:
    if any(match.scope is not ModelScope.NONE for match in matches):
        what = f"the public route {shown(route.name)} also matches calls that concern a model, and refuses them"
        hint = "write a route of its own, which is not public, for the calls about models"
        yield Warned(("routes", index, "public"), "public_route_to_model", what, hint)


def _named_model(index: int, route: Route, policy: Policy, table: RouteTable) -> Iterator[Warned]:
    found = [(each.path, each.found) for each in probes(route, table) if isinstance(each.found, Match)]
    named = {(path, match.model) for path, match in found if match.route is route and not _reaches_any(match)}
    told = (model for path, model in named if policy.models.rule(model) and _is_told(route, path, model, table))
    for model in sorted({*told}):
        what = f"the answers of the route {shown(route.name)} tell who may not see the model {shown(model)} of it"
        hint = "write {model} in its path: then every other model is refused in the same way"
        yield Warned(("routes", index, "path"), "model_in_path", what, hint)


def _is_told(route: Route, path: str, model: str, table: RouteTable) -> bool:
    """Whether a call of a model that does not exist is answered in another way."""
    other = path.replace(f"/models/{model}", f"/models/{_NO_MODEL}", 1)
    return [*_answers(route, path, table)] != [*_answers(route, other, table)]


def _answers(route: Route, path: str, table: RouteTable) -> Iterator[object]:
    """To somebody who may not see the model of this path: what the refusal says, and what comes before it."""
    hosts = [host.replace("*", _NO_MODEL) for host in route.hosts or (_NO_MODEL,)]
    for method, host, ending, names in product(_METHODS, hosts, ("", "/"), ((), route.headers)):
        try:
            found = table.match(method, path + ending, host, dict.fromkeys(names, ""))
        except Denied as refusal:
            yield refusal.code, refusal.scope
        else:
            yield found.scope, found.right, found.route.permission


def _condition(index: int, route: Route) -> Iterator[Warned]:
    constant = None if route.when is None else route.when.constant()
    if constant is not None:
        effect = "so it changes nothing" if constant else "so every call of the route is refused"
        what = f"the condition is always {str(constant).lower()}, {effect}"
        yield Warned(("routes", index, "when"), "constant_condition", what, "leave it out, or use the request in it")


def _of_models(document: PolicyDocument, policy: Policy, matches: Sequence[Match]) -> Iterator[Warned]:
    calls = [match for match in matches if match.right is Right.CALL and match.scope is not ModelScope.NONE]
    if calls and all(rule.rights[Right.CALL] == NOBODY for rule in policy.models.all):
        what = (
            "no caller may call a model: none grants it"
            if document.models
            else "no caller may call a model: there is none"
        )
        yield Warned(
            ("models",), "nobody_may_call", what, "grant it under models, for example sentiment: {roles: [infer]}"
        )
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
