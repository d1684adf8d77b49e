"""Matches a call to exactly one route, in a walk over host and segments whose cost does not grow with the routes.

Only the most specific route applies: by host first (exact, then the longest `*.suffix`, then any), then by path
(segment by segment: literal, `{placeholder}`, `{rest=**}`; routes by operation last), then by headers (more before
fewer).

The most specific template is found without the slash at the end, and with `{rest=**}` for no segment too, because many
upstreams treat `/files/hr`, `/files/hr/` and what is below as one resource. Only then must the path match the template
exactly. Where the most specific routes do not have the spelling or the method, the call is refused: a wider route never
serves what a more specific one leaves out, so next to `/files/hr/{rest=**}` neither `/files/{rest=**}` nor
`/files/{name}` serves `/files/hr` or `/files/hr/`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations

from msgspec import Struct, field

from ext_authz.bounded import BoundedCache
from ext_authz.decision import Reason
from ext_authz.errors import ConfigError, Denied
from ext_authz.policy.kserve import Kind, ModelScope, Operation, Right, classify
from ext_authz.policy.model import Failure, Match, Route
from ext_authz.policy.names import (
    Encoding,
    bare_host,
    ensure_model,
    ensure_short,
    ensure_version,
    not_canonical,
    reading,
)
from ext_authz.policy.own_routes import own_routes
from ext_authz.policy.templates import Node, closest, grown, value_of

OPTIONS = "options"
"""The code of a call that asks for the methods of a path. It is answered with them, and passes on to no upstream."""
_CACHE_BYTES = 4 << 20
_UNPROVEN_BYTES = 256 << 10
_MATCH_BYTES = 200
_MOST_ALIKE = 32
"""Routes that differ by their headers only."""
_FAILURE = Failure()
OF_V1 = "/v1/models/"
OF_MODELS = ("/v2/", "/inference.GRPCInferenceService/", OF_V1)
"""How the paths of KServe's calls begin, but for `/v2` and `/v1/models` alone."""
_NO_HEADERS: Mapping[str, str] = {}
_Call = tuple[str, str, str]
"""Method, path and host."""
_Found = Match | list[Match]
_ByMethod = Mapping[str, list[Route]]


class _Site(Struct):
    """The routes of one host, one suffix, or of all hosts."""

    root: Node = field(default_factory=Node)
    operations: dict[Kind, list[Route]] = field(default_factory=dict)


class AmbiguousRoutes(ConfigError):
    """Routes of equal precedence that can match one request."""

    def __init__(self, pairs: Sequence[tuple[Route, Route, str]]) -> None:
        self.pairs = tuple(pairs)
        """The two, and what both match."""
        one, two, what = self.pairs[0]
        super().__init__(f"routes {one.name!r} and {two.name!r} both match {what}")


class RouteTable:
    """Immutable after construction, except for a cache."""

    def __init__(
        self,
        routes: Sequence[Route],
        failure: Failure = _FAILURE,
        documents: Collection[str] = (),
        *,
        console: bool = False,
    ) -> None:
        """`failure`: for Tollgate's own paths. `documents`: paths that the proxy serves for GET by itself. `console`:
        whether there is one.

        Raises AmbiguousRoutes with every two routes of which neither takes precedence.
        """
        self.quota, models, *others = own_routes(failure, console=console)
        self.reads = frozenset({self.quota, models})  # what `GET /.tollgate/quota` and `/.tollgate/models` match
        self._documents = documents
        self._own = _Site()
        self._anywhere = _Site()
        self._exact: dict[str, _Site] = {}
        self._below: dict[str, _Site] = {}
        self._cache: BoundedCache[_Call, _Found] = BoundedCache(_CACHE_BYTES)
        self._unproven: BoundedCache[_Call, _Found] = BoundedCache(_UNPROVEN_BYTES)
        """Calls that were never allowed: however many paths are tried, those in use stay in the other cache."""
        for own in (self.quota, models, *others):
            grown(self._own.root, own.path).update({method: [own] for method in own.methods})
        self._add(routes)
        self._by_host = bool(self._exact or self._below)

    def match(self, method: str, path: str, host: str = "", headers: Mapping[str, str] = _NO_HEADERS) -> Match:
        """The one route and what the call is. `headers`: by lower-case name.

        Raises:
            Denied: BAD_REQUEST, NO_ROUTE or METHOD_NOT_ALLOWED (`scope` lists the allowed ones).
        """
        ensure_short(host)
        key = (method, path, host if self._by_host else "")
        found = self._cache.get(key) or self._unproven.get(key)
        if found is None:
            found = self._find(*key)
            self._unproven.put(key, found, _size(key, found))
        return found if isinstance(found, Match) else _by_headers(found, headers)

    def prove(self, method: str, path: str, host: str) -> None:
        """This call was allowed, so its match is worth keeping."""
        key = (method, path, host if self._by_host else "")
        if key not in self._cache and (found := self._unproven.pop(key)):
            self._cache.put(key, found, _size(key, found))

    def _add(self, routes: Sequence[Route]) -> None:
        crowded: list[tuple[list[Route], str]] = []
        for route in routes:
            for bucket, what in self._buckets(route):
                bucket.append(route)
                if len(bucket) == 2:
                    crowded.append((bucket, what))
        if ambiguous := [(one, two, what) for bucket, what in crowded for one, two in _ranked(bucket)]:
            raise AmbiguousRoutes(ambiguous)

    def _buckets(self, route: Route) -> Iterator[tuple[list[Route], str]]:
        for host in route.hosts or ("",):
            at = f" on {host}" if host else ""
            site = self._site(host)
            if route.operation is not None:
                yield site.operations.setdefault(route.operation, []), f"the operation {route.operation}{at}"
            else:
                ending = grown(site.root, route.path)
                for method in route.methods:
                    yield ending.setdefault(method, []), f"{method} {route.path}{at}"

    def _site(self, host: str) -> _Site:
        if not host:
            return self._anywhere
        if host.startswith("*."):
            return self._below.setdefault(host[2:], _Site())
        return self._exact.setdefault(host, _Site())

    def _find(self, method: str, path: str, host: str) -> Match | list[Match]:
        segments, read = path[1:].split("/"), reading(method, path)
        operation = classify(method, path)
        for site in (self._own,) if segments[0] in self._own.root.literals else self._sites(host):
            served = closest(site.root, segments)
            if read is not path:
                served = _of_escapes(site, served, read)
            if served is None and operation is None:
                served = _by_operation(site, path) or None
            routes = _with_method(method, served) if served is not None else _of_kind(site, operation)
            if routes:
                matches = [_match(route, path, read, segments, operation) for route in routes]
                return matches if matches[0].route.headers else matches[0]
        if path in self._documents and method not in ("GET", "HEAD"):
            raise _not_allowed(method, {"GET"})
        raise _unknown() if read is path else not_canonical()

    def most_specific(self, path: str, host: str = "") -> list[Route] | None:
        """The routes of the template that is so close to this canonical path that no wider one may serve it.

        Empty where they do not have its spelling; None: there is no such template.
        """
        found = (closest(site.root, path[1:].split("/")) for site in self._sites(host))
        by_method = next((each for each in found if each is not None), None)
        return None if by_method is None else [route for routes in by_method.values() for route in routes]

    def _sites(self, host: str) -> Iterator[_Site]:
        if self._by_host:
            bare = bare_host(host)
            if exact := self._exact.get(bare):
                yield exact
            while "." in bare:
                _, _, bare = bare.partition(".")
                if below := self._below.get(bare):
                    yield below
        yield self._anywhere


def _ranked(alike: list[Route]) -> Iterator[tuple[Route, Route]]:
    """Sort those with more headers first, and yield each two of which neither takes precedence."""
    alike.sort(key=lambda route: -len(route.headers))
    if len(alike) > _MOST_ALIKE:
        yield alike[0], alike[_MOST_ALIKE]
        return
    required = {route.headers for route in alike}
    for one, two in combinations(alike, 2):
        # A request with the headers of both matches both, unless a third route requires exactly these.
        if one.headers == two.headers or one.headers | two.headers not in required:
            yield one, two


def _of_escapes(site: _Site, served: _ByMethod | None, read: str) -> _ByMethod | None:
    """Those that take escapes. They must serve the path both as it was sent and as it is read.

    Raises:
        Denied: BAD_REQUEST, `path_not_canonical`.
    """
    if closest(site.root, read[1:].split("/")) is not served:
        raise not_canonical()
    if served is None:
        return None
    strict = {method for method, routes in served.items() for route in routes if route.encoding is Encoding.STRICT}
    found = {method: routes for method, routes in served.items() if method not in strict}
    if not found:
        raise not_canonical()
    return found


def _of_kind(site: _Site, operation: Operation | None) -> list[Route]:
    return site.operations.get(operation.kind, []) if operation and not operation.by_path else []


def _by_operation(site: _Site, path: str) -> _ByMethod:
    """By method: the routes by operation for this path."""
    operations = {method: classify(method, path) for method in ("GET", "POST")}
    routes = {method: _of_kind(site, operation) for method, operation in operations.items()}
    return {method: found for method, found in routes.items() if found}


def _with_method(method: str, served: _ByMethod) -> list[Route]:
    """GET serves HEAD too, where no route is for HEAD; OPTIONS without a route is answered with the methods."""
    if not served:
        raise _unknown()
    routes = served.get(method) or (served.get("GET") if method == "HEAD" else None)
    if routes is None:
        raise _not_allowed(method, served)
    return routes


def _not_allowed(method: str, served: Collection[str]) -> Denied:
    allowed = ", ".join(sorted({*served, "OPTIONS", *(["HEAD"] if "GET" in served else [])}))
    if method == "OPTIONS":
        return Denied(Reason.METHOD_NOT_ALLOWED, OPTIONS, f"this path allows {allowed}", scope=allowed)
    return Denied(Reason.METHOD_NOT_ALLOWED, "method_not_allowed", f"this path allows {allowed}", scope=allowed)


def _unknown() -> Denied:
    return Denied(
        Reason.NO_ROUTE, "route_unknown", "no route of the policy serves this path: GET / lists what is served"
    )


def _match(route: Route, path: str, read: str, segments: Sequence[str], operation: Operation | None) -> Match:
    model, version = value_of("{model}", route.path, segments), value_of("{version}", route.path, segments)
    is_very_path = path == route.path and path != OF_V1
    if is_very_path and path.startswith(OF_V1):
        model = segments[2].partition(":")[0]
    if model:
        ensure_model(model)
    ensure_version(version)
    if operation is not None:
        return _match_of_operation(route, path, operation)
    # Triton repairs spellings that are no operation here (`versions/01`): only a route with this very path serves it.
    # Other servers have more calls than KServe v1 below /v1/models: a route that names their model serves them, and
    # they take the right to call it.
    is_of_models = path in ("/v2", "/v1/models") or path.startswith(OF_MODELS)
    if is_of_models and not is_very_path and not route.path.startswith(f"{OF_V1}{{model}}"):
        raise Denied(Reason.NO_ROUTE, "operation_unknown", "this is not a call of the KServe API")
    scope = ModelScope.ONE if model else ModelScope.NONE
    path_read = read if route.encoding is Encoding.DECODED else ""
    return Match(route, model, version, right=Right.CALL, scope=scope, grpc=route.grpc, path=path_read)


def _match_of_operation(route: Route, path: str, operation: Operation) -> Match:
    return Match(
        route,
        operation.model,
        operation.version,
        operation=operation.kind,
        right=operation.right,
        scope=operation.scope,
        grpc=route.grpc if route.operation is None else not path.startswith("/v2"),
        model_from_message=operation.model_from_message,
    )


def _size(key: _Call, found: _Found) -> int:
    """In bytes. What was decoded may take four per character."""
    matches = (found,) if isinstance(found, Match) else found
    texts = (*key, *(text for each in matches for text in (each.model, each.version, each.path)))
    return sum(len(text) if text.isascii() else 4 * len(text) for text in texts) + _MATCH_BYTES * len(matches)


def _by_headers(matches: Sequence[Match], headers: Mapping[str, str]) -> Match:
    for match in matches:
        if all(name in headers for name in match.route.headers):
            return match
    wanted = " or ".join(sorted(" and ".join(sorted(match.route.headers)) for match in matches))
    raise Denied(Reason.NO_ROUTE, "header_missing", f"this path is served only with the header {wanted}")
