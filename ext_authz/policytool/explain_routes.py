"""Phase 1 explained: which route applies, and what keeps every other one from it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ext_authz.decision import Request
from ext_authz.errors import Denied
from ext_authz.policy.kserve import classify
from ext_authz.policy.model import Policy, Route
from ext_authz.policy.routes import RouteTable
from ext_authz.policytool.account import Statement

_MOST_SHOWN = 30


def routes(policy: Policy, chosen: Route | None, request: Request) -> tuple[Statement, ...]:
    """The routes whose path fits, the chosen one first; how many others there are."""
    is_near = _fits_path if chosen else _is_near
    near = [route for route in policy.routes if route is not chosen and is_near(route, request)]
    found = [Statement(_named(chosen), holds=True, note=_described(chosen))] if chosen else []
    found += [Statement(_named(route), holds=False, note=_obstacle(route, chosen, request)) for route in near]
    others = len(policy.routes) - len(found)
    left_out = len(found) - _MOST_SHOWN
    if left_out > 0:
        found[_MOST_SHOWN:] = [Statement(f"{left_out} more routes", holds=False, note="less specific, or as above")]
    if others:
        found.append(Statement(f"{others} other routes", holds=False, note="their path or operation is another"))
    return tuple(found)


def _named(route: Route) -> str:
    return f"route {route.name}"


def _obstacle(route: Route, chosen: Route | None, request: Request) -> str:
    """The first of spelling, method, host and headers in which a route and a request differ whose path fits."""
    if not _fits_path(route, request):
        return "is closest to the path, does not take this spelling of it, and keeps wider routes away"
    if not _fits(replace(route, hosts=(), headers=frozenset()), request):
        return f"takes {', '.join(sorted(route.methods))}, not {request.method}"
    if not _fits(replace(route, headers=frozenset()), request):
        return f"serves the hosts {', '.join(route.hosts)}, not {request.host}"
    if not _fits(route, request):
        missing = ", ".join(sorted(name for name in route.headers if name not in request.headers))
        return f"needs the header {missing}"
    return f"less specific than {chosen.name}" if chosen else "the call is refused before it"


def _is_near(route: Route, request: Request) -> bool:
    return _fits_path(route, request) or _keeps_others_away(route, request)


def _keeps_others_away(route: Route, request: Request) -> bool:
    """Only where no wider route would serve the path: `/{rest=**}` is the widest."""
    canonical = _fits(Route("widest", path="/{rest=**}", methods=frozenset({request.method})), request)
    return canonical and RouteTable((replace(route, hosts=()),)).keeps_others_away(request.path)


def _fits_path(route: Route, request: Request) -> bool:
    if route.operation is not None:
        operation = classify(request.method, request.path)
        return operation is not None and operation.kind is route.operation
    anyhow = replace(route, hosts=(), headers=frozenset(), methods=frozenset({request.method}))
    return _fits(anyhow, request)


def _fits(route: Route, request: Request) -> bool:
    """By itself: what the real table says of this route alone."""
    try:
        RouteTable((route,)).match(request.method, request.path, request.host, request.headers)
    except Denied:
        return False
    return True


def _described(route: Route) -> str:
    return "; ".join(_conditions(route))


def _conditions(route: Route) -> Iterator[str]:
    if route.operation is not None:
        yield f"operation {route.operation}"
    else:
        yield f"{', '.join(sorted(route.methods))} {route.path}"
    if route.hosts:
        yield f"hosts {', '.join(route.hosts)}"
    if route.headers:
        yield f"headers {', '.join(sorted(route.headers))}"
    if route.public:
        yield "public"
