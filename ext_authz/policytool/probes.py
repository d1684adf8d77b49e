"""Sample requests for every route: what the real route table does with them shows what a route is good for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ext_authz.errors import Denied
from ext_authz.policy.kserve import surface
from ext_authz.policy.model import Match, Route
from ext_authz.policy.routes import RouteTable

_NAME = "some-name"
"""Stands for whatever a caller writes: no literal of a policy is called so."""
_PLACEHOLDER = re.compile(r"\{([a-z_]+)(=\*\*)?\}")


class Probe(NamedTuple):
    """One request that fits the route by itself, and what came of it among all routes."""

    asked: str
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
