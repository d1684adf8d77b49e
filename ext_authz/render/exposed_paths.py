"""Which paths of Triton a policy exposes. Envoy routes no others to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from ext_authz.policy.kserve import Kind, classify, rest_paths, rpc_paths
from ext_authz.policy.model import Experiment, Policy, Route
from ext_authz.policy.names import RESERVED, Encoding
from ext_authz.policy.templates import PLACEHOLDER, REST, VERB

LONGEST_PATTERN = 1024
"""Istio refuses longer ones. Shorter ones keep RE2 on its fast machine, too."""


OWN = rf"/{re.escape(RESERVED)}(?:/.*)?"
"""What the authorizer answers itself: no upstream, in front of all routes however wide they are."""


class Copies(Struct, frozen=True):
    """Of the calls of one model by one variant, `percent` go to another variant as well."""

    model: str
    variant: str
    to: str
    percent: int


class ExposedPaths(Struct, frozen=True):
    """In the order of the policy. Patterns are RE2 and take whole paths."""

    rest: tuple[str, ...]
    """Patterns of REST calls."""
    rpcs: tuple[str, ...]
    """Patterns of gRPC calls but streams."""
    streams: tuple[str, ...]
    """Patterns of gRPC streams. They are checked once, when they open."""
    naming_rpcs: tuple[str, ...]
    """Paths of the gRPC calls whose only message names a model."""
    variants: tuple[str, ...]
    """Of all experiments. A name that two of them use stands for one deployment."""
    copies: tuple[Copies, ...]
    """Of calls to models in experiments."""
    console: bool
    """Whether there is one."""
    upstreams: Mapping[str, tuple[str, ...]]
    """Of each application, patterns of what it serves."""

    @property
    def has_cookies(self) -> bool:
        """Whether browsers have cookies for this host: then no model gets one, and none sets one."""
        return self.console or bool(self.upstreams)

    def copies_of(self, variant: str) -> list[Copies]:
        return [copies for copies in self.copies if copies.variant == variant]


def exposed_paths(policy: Policy) -> ExposedPaths:
    """Paths only: hosts, headers and methods of a route are compared by the authorizer."""
    rpcs, streams = exposed_rpcs(policy)
    return ExposedPaths(
        rest=_served_by("", policy.routes),
        rpcs=together(map(pattern, rpcs)),
        streams=together(map(pattern, streams)),
        naming_rpcs=tuple(path for path in (*rpcs, *streams) if names_model(path)),
        variants=_variants(policy.experiments.values()),
        copies=_copies(policy.experiments.values()),
        console=policy.tokens is not None,
        upstreams={name: _served_by(name, policy.routes) for name in _upstreams(policy.routes)},
    )


def _served_by(upstream: str, routes: Iterable[Route]) -> tuple[str, ...]:
    ours = [route for route in routes if route.upstream == upstream]
    return together(pattern(path, route.encoding) for route in ours for path in rest_of(route))


def _upstreams(routes: Iterable[Route]) -> list[str]:
    return [*dict.fromkeys(route.upstream for route in routes if route.upstream)]


def exposed_rpcs(policy: Policy) -> tuple[list[str], list[str]]:
    """Templates of the paths of gRPC calls: all but streams, and streams."""
    rpcs = dict.fromkeys(path for route in policy.routes for path in _rpcs(route))
    return [path for path in rpcs if not _is_stream(path)], [path for path in rpcs if _is_stream(path)]


def rest_of(route: Route) -> Sequence[str]:
    """Templates of its REST calls."""
    if route.operation is not None:
        return rest_paths(route.operation)
    return () if route.grpc else (route.path,)


def _rpcs(route: Route) -> Sequence[str]:
    if route.operation is not None:
        return rpc_paths(route.operation)
    if not route.grpc:
        return ()
    service, _, method = route.path.rpartition("/")
    # A wildcard over Triton's service stands for its known methods: the authorizer refuses others.
    known = [path for path in rpc_paths() if path.startswith(f"{service}/")]
    return known if known and PLACEHOLDER.fullmatch(method) else (route.path,)


def _is_stream(path: str) -> bool:
    operation = classify("POST", path)
    return operation is not None and operation.kind is Kind.STREAM


def names_model(path: str) -> bool:
    operation = classify("POST", path)
    return operation is not None and operation.model_from_message


def together(patterns: Iterable[str]) -> tuple[str, ...]:
    """Several paths in each: Envoy tries its routes one by one, and all paths of one pattern at once."""
    found: list[str] = []
    # Templates that differ in the names of their placeholders only give one pattern.
    for each in dict.fromkeys(patterns):
        if found and len(found[-1]) + 1 + len(each) <= LONGEST_PATTERN:
            found[-1] += f"|{each}"
        else:
            found.append(each)
    return tuple(found)


def pattern(template: str, encoding: Encoding = Encoding.STRICT) -> str:
    """RE2 has no lookahead: which escapes a path may have, and what else is canonical, the authorizer decides."""
    escape = "%" if encoding is Encoding.STRICT else ""
    return "/".join(_segment(text, escape) for text in template.split("/"))


def _segment(text: str, refused: str) -> str:
    if REST.fullmatch(text):
        return f"[^{refused}]+" if refused else ".+"
    if verb := VERB.fullmatch(text):
        return f"[^/:{refused}]+:{verb[1]}"
    return f"[^/{refused}]+" if PLACEHOLDER.fullmatch(text) else re.escape(text)


def _copies(experiments: Iterable[Experiment]) -> tuple[Copies, ...]:
    return tuple(
        Copies(experiment.model, next(iter(experiment.weights)), experiment.mirror.to, experiment.mirror.percent)
        for experiment in experiments
        if experiment.mirror
    )


def _variants(experiments: Iterable[Experiment]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(variant for experiment in experiments for variant in experiment.weights))
