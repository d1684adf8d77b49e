"""Which route applies, for every table of routes and every call: the closest one, and never a wider one instead."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ext_authz.errors import Denied
from ext_authz.policy.kserve import Kind, ModelScope, classify
from ext_authz.policy.model import Route
from ext_authz.policy.names import Encoding
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
    st.sampled_from([(), ("",), ("{rest=**}",), ("{y}:go",), ("{y}:stop",)]),
).filter(bool)
_path_routes = st.lists(_paths, max_size=8, unique=True).map(
    lambda paths: tuple(Route(path, path=path, methods=frozenset({"GET"})) for path in paths)
)
_called = st.builds(
    lambda parts, tail: "/".join(["", *parts, *tail]),
    st.lists(st.sampled_from(["a", "b", "c", "c:go", "c:stop", "c:halt"]), max_size=4),
    st.sampled_from([(), ("",), (":go",), ("a:b:go",), ("a:go", "")]),
).filter(bool)

# With escapes, of which some are of characters that a template may have.
_encoded_segments = st.lists(st.sampled_from(["a", "b", "a@b", "a:go", "{x}", "{y}:go"]), min_size=1, max_size=2)
_encoded_routes = st.lists(
    st.builds(
        lambda parts, tail, encoding: ("/".join(["", *parts, *tail]), encoding),
        _encoded_segments.filter(lambda parts: len(set(parts)) == len(parts) and "{y}:go" not in parts[:-1]),
        st.sampled_from([(), ("",), ("{rest=**}",)]),
        st.sampled_from(Encoding),
    ).filter(lambda made: not re.search(":go/", made[0].replace("a:go", ""))),
    max_size=8,
    unique_by=lambda made: re.sub(r"\{.", "{", made[0]),
).map(lambda found: tuple(Route(path, path, frozenset({"GET"}), encoding=encoding) for path, encoding in found))
_pieces = ["a", "b", "@", ":go", ":", "/", "%20", "%40", "%3A", "%3Ago", "%C3%A9", "%C3", "%3a", "%2F", "%25", "%61"]
_encoded_calls = st.lists(st.sampled_from(_pieces), min_size=1, max_size=6).map(lambda found: "/" + "".join(found))


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


@given(routes=_encoded_routes, path=_encoded_calls)
@often
def test_a_path_with_escapes_is_served_by_the_route_that_serves_it_decoded_and_as_it_is(
    routes: tuple[Route, ...], path: str
) -> None:
    taking = {route.path for route in routes if route.encoding is not Encoding.STRICT}
    read = _decoded(path)
    expected = _most_specific(routes, "GET", path, "", {}) if read is not None else ""
    if read is not None and read != path and (expected not in taking or _matching(routes, read) != expected):
        expected = ""
    assert _served(routes, path) == expected


_of_models = RouteTable(
    [
        Route(path, path, frozenset({method}), encoding=encoding)
        for path, method, encoding in [
            ("/v1/models/{model}:predict", "POST", Encoding.DECODED),
            ("/v1/models/{model}", "GET", Encoding.OPAQUE),
            ("/v1/models/{model}/{rest=**}", "POST", Encoding.DECODED),
            ("/v1/{a}/{model}", "POST", Encoding.DECODED),
            ("/v1/{rest=**}", "POST", Encoding.OPAQUE),
            ("/{rest=**}", "POST", Encoding.DECODED),
        ]
    ]
)
_model_pieces = [
    "v1",
    "models",
    "m",
    "n",
    "/",
    ":predict",
    ":x",
    ":",
    ".",
    "-",
    "%3A",
    "%20",
    "%C3%A9",
    "%2F",
    "versions",
]


@given(parts=st.lists(st.sampled_from(_model_pieces), max_size=6), method=st.sampled_from(["GET", "POST"]))
@often
def test_no_path_below_the_models_is_served_without_its_model(parts: list[str], method: str) -> None:
    path = "/v1/models/" + "".join(parts)
    try:
        match = _of_models.match(method, path)
    except Denied:
        return
    read = _decoded(path)
    assert read is not None
    named = re.fullmatch(r"/v1/models/([A-Za-z0-9_.-]+)(?::(?:predict|explain)|/.+|)", read)
    assert named is not None
    assert named[1] not in {".", "..", "-"}
    assert (match.scope, match.model) == (ModelScope.ONE, named[1])


def _decoded(path: str) -> str | None:
    """The grammar of escapes once more, octet by octet; None for a path that is refused."""
    octets, rest = bytearray(), path
    while rest:
        escaped, rest = (rest[1:3], rest[3:]) if rest[0] == "%" else ("", rest)
        if escaped:
            octet = int(escaped, 16)
            if (
                escaped != escaped.upper()
                or octet < 32
                or chr(octet) in "/\\%;"
                or re.match("[A-Za-z0-9_.~-]", chr(octet))
            ):
                return None
            octets.append(octet)
        else:
            octets += rest[0].encode()
            rest = rest[1:]
    try:
        read = octets.decode()
    except UnicodeDecodeError:
        return None
    parts = path[1:].split("/")
    return None if {"", ".", ".."} & set(parts[:-1]) or {".", ".."} & {parts[-1]} else read


def _matching(routes: tuple[Route, ...], path: str) -> str:
    return _most_specific(routes, "GET", path, "", {})


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
    # What ends with the verb is close to it, whatever stands before.
    near = _regex(place).replace("[^/:]+:", "[^/]*:")
    if not re.fullmatch(near + ("(?:/.*)?" if takes_rest else "/?"), path, re.DOTALL):
        return None
    shape = tuple(map(_rank_of_segment, place.split("/")[1:]))
    return (max(fitting), 1, (*shape, 0 if takes_rest else 4))  # what ends here goes before what goes on


def _rank_of_segment(segment: str) -> int:
    return 3 if "{" not in segment else 2 if ":" in segment else 1


def _regex(template: str) -> str:
    return "/".join(map(_regex_of_segment, template.split("/")))


def _regex_of_segment(segment: str) -> str:
    if "=**" in segment:
        return r"[^/]+(?:/.*)?"
    if "}:" in segment:
        return f"[^/:]+:{segment.partition(':')[2]}"
    return "[^/]+" if segment.startswith("{") else re.escape(segment)


def _rank_of_host(pattern: str, host: str) -> tuple[int, int] | None:
    if pattern.startswith("*."):
        return (1, len(pattern)) if host.endswith(pattern[1:]) else None
    return (2, 0) if pattern == host else None
