"""Which calls reach a route: found out with sample calls on the real route table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ext_authz.errors import Denied
from ext_authz.policy.kserve import surface
from ext_authz.policy.model import Match, Route
from ext_authz.policy.routes import RouteTable

_NAME = "some-name"
"""Stands for whatever a caller writes: no literal of a policy is called so."""
_ESCAPED = "some%20name"
_PLACEHOLDER = re.compile(r"\{([a-z_]+)(=\*\*)?\}")
_SURFACE = tuple(surface())


class Probe(NamedTuple):
    """One call that a route matches by itself, and what becomes of it among all routes."""

    method: str
    path: str
    host: str
    found: Match | Denied


def probes(route: Route, table: RouteTable) -> Iterator[Probe]:
    """Each of these calls once; none where nothing can match the route."""
    alone = RouteTable((route,))
    for method, path, host in _samples(route):
        if isinstance(_found(alone, route, method, path, host), Match):
            yield Probe(method, path, host, _found(table, route, method, path, host))


def is_reached(route: Route, table: RouteTable) -> bool:
    found = (_found(table, route, *sample) for sample in _samples(route))
    return any(isinstance(each, Match) and each.route is route for each in found)


def takes_escapes(route: Route, table: RouteTable) -> bool:
    """Whether it is reached by a path with escapes."""
    path = _filled(route.path, _ESCAPED)
    hosts = [host.replace("*", _NAME) for host in route.hosts or (_NAME,)]
    found = (_found(table, route, method, path, host) for method in route.methods for host in hosts)
    return "%" in path and any(isinstance(each, Match) and each.route is route for each in found)


def takers(probed: Iterable[Probe], table: RouteTable) -> Iterator[Route]:
    """The routes at which these calls end, or that keep them from any other."""
    for probe in probed:
        if isinstance(probe.found, Match):
            yield probe.found.route
        else:
            yield from table.most_specific(probe.path, probe.host) or ()


def _samples(route: Route) -> Iterator[tuple[str, str, str]]:
    """Method, path and host: for each host the path of the route, and the calls of KServe that it could match."""
    for host in route.hosts or (_NAME,):
        for method in sorted(route.methods):
            yield method, _filled(route.path), host.replace("*", _NAME)
        if route.operation is not None or "{" in route.path:
            for method, template in _SURFACE:
                path = template if route.operation is not None else _common(route.path, template)
                if path is not None:
                    yield method, _filled(path), host.replace("*", _NAME)


def _common(route: str, call: str) -> str | None:
    """A template of the paths that match both."""
    ours, theirs = route.split("/"), call.split("/")
    if ours[-1].endswith("=**}") and len(ours) <= len(theirs):
        ours[-1:] = theirs[len(ours) - 1 :]
    common = [one if "{" in other else other for one, other in zip(ours, theirs, strict=False)]
    fits = all("{" in one or one == each for one, each in zip(ours, common, strict=False))
    return "/".join(common) if fits and len(ours) == len(theirs) else None


def _filled(template: str, name: str = _NAME) -> str:
    known = {"version": "1", "model": _NAME}
    return _PLACEHOLDER.sub(lambda found: known.get(found[1], name), template)


def _found(table: RouteTable, route: Route, method: str, path: str, host: str) -> Match | Denied:
    headers: Mapping[str, str] = dict.fromkeys(route.headers, "")
    try:
        return table.match(method, path, host, headers)
    except Denied as refusal:
        return refusal
