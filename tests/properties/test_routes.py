"""Which route applies, for every table of routes and every call: the closest one, and never a wider one instead."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ext_authz.errors import Denied
from ext_authz.policy.kserve import Kind, classify
from ext_authz.policy.model import Route
from ext_authz.policy.routes import AmbiguousRoutes, RouteTable
from tests.unit.policy import random_policies as some

Document = dict[str, Any]
Call = tuple[str, str, str, dict[str, str]]

often = settings(max_examples=400, deadline=None)

# In a world of few segments, and of many slashes at the end.
_segments = st.lists(st.sampled_from(["a", "b", "{x}"]), max_size=3).filter(lambda parts: parts.count("{x}") < 2)
_paths = st.builds(
    lambda parts, tail: "/".join(["", *parts, *tail]),
    _segments,
    st.sampled_from([(), ("",), ("{rest=**}",)]),
).filter(bool)
_path_routes = st.lists(_paths, max_size=8, unique=True).map(
    lambda paths: tuple(Route(path, path=path, methods=frozenset({"GET"})) for path in paths)
)
_called = st.builds(
    lambda parts, tail: "/".join(["", *parts, *tail]),
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=4),
    st.sampled_from([(), ("",)]),
).filter(bool)


@given(paths=_path_routes, path=_called)
@often
def test_the_closest_path_decides(paths: tuple[Route, ...], path: str) -> None:
    assert _served(paths, path) == _most_specific(paths, "GET", path, "", {})


@given(documents=some.routes, calls=st.lists(some.calls, min_size=5, max_size=10))
@often
def test_so_do_the_host_the_operation_and_the_headers(documents: list[Document], calls: list[Call]) -> None:
    routes = tuple(map(_route, documents))
    table = _table(routes)
    for call in calls:
        assert _matched(table, call) == _most_specific(routes, *call)


@given(paths=_path_routes, path=_called)
@often
def test_a_slash_at_the_end_never_leads_to_a_wider_route(paths: tuple[Route, ...], path: str) -> None:
    """Either both spellings end at one route, or each at a template that is written like it, or one is refused."""
    plain, slashed = _served(paths, path.rstrip("/")), _served(paths, path.rstrip("/") + "/")
    assert plain == slashed or not plain or not slashed or not (plain + slashed).count("=**}")


@given(paths=_path_routes, another=_paths, path=_called)
@often
def test_another_route_leads_no_call_to_a_route_that_did_not_serve_it(
    paths: tuple[Route, ...], another: str, path: str
) -> None:
    added = Route("another", path=another, methods=frozenset({"GET", "POST"}))
    assert _served((*paths, added), path) in {"", "another", _served(paths, path)}


def _route(document: Document) -> Route:
    kind = document.get("operation")
    return Route(
        document["name"],
        path=document.get("path", ""),
        methods=frozenset(document.get("methods", ())),
        operation=Kind(kind) if kind else None,
        hosts=tuple(document.get("hosts", ())),
        headers=frozenset(document.get("headers", ())),
    )


def _table(routes: tuple[Route, ...]) -> RouteTable:
    """Routes that contradict each other make no example."""
    try:
        return RouteTable(routes)
    except AmbiguousRoutes:
        assume(condition=False)
        raise


def _served(routes: tuple[Route, ...], path: str) -> str:
    return _matched(_table(routes), ("GET", path, "h", {}))


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
        if route.operation or (method in route.methods and re.fullmatch(_regex(route.path), path))
        if route.headers <= headers.keys()
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
    place, takes_rest = route.path.removesuffix("/{rest=**}").rstrip("/"), route.path.endswith("=**}")
    if not re.fullmatch(_regex(place) + ("(?:/.*)?" if takes_rest else "/?"), path):
        return None
    shape = tuple(1 if segment.startswith("{") else 2 for segment in place.split("/")[1:])
    return (max(fitting), 1, (*shape, 0 if takes_rest else 3))  # what ends here goes before what goes on


def _regex(template: str) -> str:
    return "/".join(map(_regex_of_segment, template.split("/")))


def _regex_of_segment(segment: str) -> str:
    if "=**" in segment:
        return r"[^/]+(?:/.*)?"
    return "[^/]+" if segment.startswith("{") else re.escape(segment)


def _rank_of_host(pattern: str, host: str) -> tuple[int, int] | None:
    if pattern.startswith("*."):
        return (1, len(pattern)) if host.endswith(pattern[1:]) else None
    return (2, 0) if pattern == host else None
