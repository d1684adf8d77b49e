"""From method and path to exactly one route. A walk over the segments: its cost does not grow with the routes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct, field

from ext_authz.decision import Reason
from ext_authz.errors import ConfigError, Denied
from ext_authz.policy.model import Match, Route
from ext_authz.policy.path import ensure_canonical

_CACHED_MATCHES = 4096
_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}", re.ASCII)


class _Node(Struct):
    literals: dict[str, _Node] = field(default_factory=dict)
    placeholder: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)
    """By method; not empty only where a template ends."""


class RouteTable:
    """Immutable after construction. Where a literal segment and a placeholder both fit, the literal wins."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Raises ConfigError when two routes claim the same method and path, naming both."""
        self._root = _Node()
        self._cache: dict[tuple[str, str], Match] = {}
        for route in routes:
            self._add(route)

    def match(self, method: str, path: str) -> Match:
        """The one route, or Denied: BAD_REQUEST, NO_ROUTE or METHOD_NOT_ALLOWED (`scope` lists the allowed ones)."""
        cached = self._cache.get((method, path))
        if cached is None:
            cached = self._find(method, path)
            if len(self._cache) >= _CACHED_MATCHES:
                self._cache.clear()
            self._cache[method, path] = cached
        return cached

    def _find(self, method: str, path: str) -> Match:
        ensure_canonical(method, path)
        segments = path[1:].split("/")
        node = _walk(self._root, segments)
        if node is None:
            raise Denied(Reason.NO_ROUTE, "route_unknown", "no route of the policy serves this path")
        route = node.routes.get(method)
        if route is None:
            allowed = ", ".join(sorted(node.routes))
            raise Denied(Reason.METHOD_NOT_ALLOWED, "method_not_allowed", f"this path takes {allowed}", scope=allowed)
        return _with_placeholders(route, segments)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.path[1:].split("/"):
            if _PLACEHOLDER.fullmatch(segment):
                node.placeholder = node = node.placeholder or _Node()
            else:
                node = node.literals.setdefault(segment, _Node())
        for method in route.methods:
            other = node.routes.setdefault(method, route)
            if other is not route:
                raise ConfigError(f"routes {other.name!r} and {route.name!r} both claim {method} {route.path}")


def _walk(node: _Node, segments: Sequence[str]) -> _Node | None:
    if not segments:
        return node if node.routes else None
    literal = node.literals.get(segments[0])
    found = _walk(literal, segments[1:]) if literal else None
    if found is None and node.placeholder and segments[0]:
        found = _walk(node.placeholder, segments[1:])
    return found


def _with_placeholders(route: Route, segments: Sequence[str]) -> Match:
    values: dict[str, str] = {}
    for template, segment in zip(route.path[1:].split("/"), segments, strict=True):
        if placeholder := _PLACEHOLDER.fullmatch(template):
            values[placeholder[1]] = segment
    version = values.get("version", "")
    ensure_version(version)
    return Match(route, model=values.get("model", ""), version=version)


def ensure_version(version: str) -> None:
    """Triton serves `01`, `1abc` and `+1` as version 1: only the plain spelling may pass, or none.

    Raises:
        Denied: BAD_REQUEST, `version_not_canonical`.
    """
    if version and _VERSION.fullmatch(version) is None:
        detail = "a model version is a whole number without sign or leading zero"
        raise Denied(Reason.BAD_REQUEST, "version_not_canonical", detail)
