"""EnvoyFilters of the gateway: the settings of Envoy that Istio has no field for; the same as in `envoy.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ext_authz.policy.model import Policy
from ext_authz.render import filters, upstreams
from ext_authz.render.console import BODY_BYTES, PREFIX, settings
from ext_authz.render.documents import documents
from ext_authz.render.endpoints import CHECK_RETRIES, CONNECTION_BYTES, HTTP2_WINDOWS, Json, Timeouts, duration
from ext_authz.render.envoy import document_route, no_such_path, too_large
from ext_authz.render.exposed_paths import ExposedPaths
from ext_authz.render.headers import UPSTREAM
from ext_authz.render.istio.manifest import NAME, Manifest, manifest
from ext_authz.render.istio.mesh import Mesh
from ext_authz.render.istio.routes import (
    CONSOLE,
    CONSOLE_RPC,
    TO_HTTPS,
    application_route,
    applications,
    route_name,
)
from ext_authz.render.local_replies import local_replies, proxy_too_old

_TOO_OLD = r"^(0|1\.(\d|1\d|2[0-8]))(\.|-|$)"
"""Istio's version, of which Envoy's follows: releases go one by one, 1.29 with Envoy 1.37."""
CONNECTIONS = "envoy.filters.network.http_connection_manager"
MANAGER = "filters.network.http_connection_manager.v3.HttpConnectionManager"

_PREVIOUS = "envoy.retry_host_predicates.previous_hosts"
_ELSEWHERE = [filters.named(_PREVIOUS, "retry.host.previous_hosts.v3.PreviousHostsPredicate", {})]
_CHECK_RETRIES: Json = {
    **CHECK_RETRIES,
    # How the sidecar of a dead authorizer answers. The authorizer's own outage travels over a call that succeeded, and
    # what it refuses under overload has no status of gRPC: neither is tried again.
    "retry_on": f"{CHECK_RETRIES['retry_on']},unavailable",
    # Elsewhere: the dead one has the fewest calls in flight, and would get the retry too.
    "retry_host_predicate": _ELSEWHERE,
    "host_selection_retry_max_attempts": 8,
}


def gateway_filters(policy: Policy, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Iterator[Manifest]:
    """Each has a priority of its own, because Istio merges them by priority, then by time of creation: the same chain
    of filters whenever one of them was replaced. What is inserted first in a chain comes last here."""
    why = (
        "Tollgate needs Envoy 1.37, which Istio has since 1.29: an older Envoy drops what the authorizer answers "
        "during an outage. A gateway of an older version answers every request with 503 and says so, without a check."
    )
    yield envoy_filter(15, "versions", 5, _versions(policy), mesh, why)
    why = (
        "How the gateway reads requests: one spelling per path, no headers that only the authorizer or Envoy may set, "
        "no request trailers (they come after the check), bounded waiting and buffers, no CONNECT and no WebSocket. "
        "What the gateway answers by itself has the form of a refusal."
    )
    yield envoy_filter(20, "connections", 30, _connections(policy, timeouts), mesh, why)
    why = (
        "What a check contains and what its answer may do: raw headers, only those that the policy reads, the model "
        "that a gRPC message names; and the route is chosen after it, by the header of the variant that the authorizer "
        "sets. Istio's provider has no fields for these. What it allowed for an application reaches no model."
    )
    yield envoy_filter(35, "check", 20, _check(policy, exposed, mesh), mesh, why)
    why = (
        "Limits of sizes: a REST body that announces more is refused before the check, and any other after it; a gRPC "
        "message is limited by the buffer of its route. Errors of Triton get the form of refusals."
    )
    yield envoy_filter(55, "bodies", 10, _bodies(policy, exposed, mesh, timeouts), mesh, why)


def pods(exposed: ExposedPaths, hosts: Iterable[str], mesh: Mesh) -> Manifest:
    """`hosts`: of the Services of Triton."""
    why = (
        "The pod of a user is chosen by a hash. Istio has no field for a bound, by which a pod with more than 1.5 "
        "times the mean of calls in flight gets no further ones, so that one heavy user does not saturate it. And with "
        "a hash Istio would try a failed connection again at the same pod, which is dead."
    )
    return envoy_filter(62, "pods", 15, _pods(exposed, hosts), mesh, why)


def envoy_filter(number: int, name: str, priority: int, patches: Iterator[Json], mesh: Mesh, why: str) -> Manifest:
    # With a priority, it is merged after filters without one: where a patch is inserted depends on what is there.
    spec = {**mesh.gateway_only(selector="workloadSelector"), "priority": priority, "configPatches": list(patches)}
    return manifest(number, "EnvoyFilter", f"{NAME}-{name}", mesh.gateway_namespace, spec, why=why)


def _versions(policy: Policy) -> Iterator[Json]:
    """Merged before the others, so that its reply comes before theirs."""
    old = {"proxy": {"proxyVersion": _TOO_OLD}}
    manager = filters.named(CONNECTIONS, MANAGER, {"local_reply_config": proxy_too_old(policy)})
    yield patch("NETWORK_FILTER", {**old, **in_chain()}, "MERGE", manager)
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 503}}
    unchecked = filters.unchecked()
    yield patch("HTTP_ROUTE", old, "INSERT_FIRST", {**answer, "typed_per_filter_config": unchecked})


def _connections(policy: Policy, timeouts: Timeouts) -> Iterator[Json]:
    yield patch("LISTENER", {}, "MERGE", {"per_connection_buffer_limit_bytes": CONNECTION_BYTES})
    settings = {
        "early_header_mutation_extensions": [filters.early_header_mutation(policy)],
        # One spelling per path: two parsers may repair a path differently.
        "normalize_path": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_stream_duration": filters.longest(policy, timeouts),
        },
        "http2_protocol_options": HTTP2_WINDOWS,
        # No address is trusted because it looks like one of ours.
        "internal_address_config": filters.NOBODY_IS_INTERNAL,
        # The policy counts the entry that Envoy adds itself.
        **({"xff_num_trusted_hops": policy.trusted_hops - 1} if policy.trusted_hops > 1 else {}),
        "stream_idle_timeout": duration(timeouts.request),
        "request_headers_timeout": "10s",
        # The check is made when the headers are here: the body must not arrive long after.
        "request_timeout": duration(timeouts.request),
        "local_reply_config": local_replies(policy, timeouts),
    }
    yield patch("NETWORK_FILTER", in_chain(), "MERGE", filters.named(CONNECTIONS, MANAGER, settings))
    yield patch("HTTP_FILTER", in_chain(), "INSERT_FIRST", filters.header_mutation())
    yield patch("HTTP_FILTER", in_chain(filters.ROUTER), "MERGE", filters.router())
    # A VirtualService cannot name CONNECT, and a request without a route is not checked: it would hang.
    yield patch("HTTP_ROUTE", {}, "INSERT_FIRST", _no_tunnel({"connect_matcher": {}}))
    # Istio lets a caller upgrade to a WebSocket: what follows would be bytes for the model that nothing checks.
    upgrade = {"prefix": "/", "headers": [{"name": "upgrade", "present_match": True}]}
    yield patch("HTTP_ROUTE", {}, "INSERT_FIRST", _no_tunnel(upgrade))


def _no_tunnel(match: Json) -> Json:
    """Neither buffered nor read: such a request has no end to wait for."""
    return {**no_such_path(match), "typed_per_filter_config": filters.unbuffered() | filters.unread()}


def _check(policy: Policy, exposed: ExposedPaths, mesh: Mesh) -> Iterator[Json]:
    if exposed.naming_rpcs:
        yield patch("HTTP_FILTER", in_chain(), "INSERT_FIRST", filters.target_reader(exposed))
    settings = {**filters.check(policy), "grpc_service": {"retry_policy": _CHECK_RETRIES}}
    config = filters.named(filters.EXT_AUTHZ, "filters.http.ext_authz.v3.ExtAuthz", settings)
    yield patch("HTTP_FILTER", in_chain(filters.EXT_AUTHZ), "MERGE", config)
    # Envoy collects changes of health for a second, and calls an authorizer for so long that failed again at once.
    service = {"cluster": {"service": mesh.host(mesh.authorizer), "portNumber": mesh.authorizer_port}}
    yield patch("CLUSTER", service, "MERGE", {"common_lb_config": {"update_merge_window": "0s"}})
    # As routes of Envoy: nobody else's route can have the setting by which they are not checked.
    for document in reversed(list(documents(policy))):
        yield patch("HTTP_ROUTE", {}, "INSERT_FIRST", document_route(document, policy))
    if mesh.redirects:
        # A request that is redirected is checked over HTTPS. Any other route of this name becomes a redirect, too.
        redirect = {"redirect": {"https_redirect": True}, "typed_per_filter_config": filters.unchecked()}
        yield patch("HTTP_ROUTE", route_named(TO_HTTPS), "MERGE", redirect)
    if policy.cors:
        # A corsPolicy of the VirtualService would act behind the check, on requests that carry a token.
        yield patch("HTTP_FILTER", in_chain(), "INSERT_FIRST", filters.cors())
        yield patch("VIRTUAL_HOST", {}, "MERGE", filters.cors_host(policy))
    of_none = {"match": {"headers": [{"name": UPSTREAM, "present_match": True, "invert_match": True}]}}
    for name in names_of_routes(exposed, "stream", "grpc", "rest"):
        yield patch("HTTP_ROUTE", route_named(name), "MERGE", of_none)


def _bodies(policy: Policy, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Iterator[Json]:
    yield patch("HTTP_FILTER", in_chain(filters.ROUTER), "INSERT_BEFORE", filters.buffer(timeouts.rest_bytes))
    yield patch("HTTP_FILTER", in_chain(filters.ROUTER), "INSERT_BEFORE", filters.answers(policy, timeouts))
    yield patch("HTTP_ROUTE", {}, "INSERT_FIRST", too_large(policy, timeouts.rest_bytes))
    if exposed.console:
        yield patch("HTTP_ROUTE", {}, "INSERT_FIRST", too_large(policy, BODY_BYTES, PREFIX))
        for name in (CONSOLE, CONSOLE_RPC):
            yield patch("HTTP_ROUTE", route_named(name), "MERGE", {"typed_per_filter_config": settings(policy)})
    for name in applications(exposed, mesh):
        of_application = {"typed_per_filter_config": upstreams.settings(policy, name)}
        yield patch("HTTP_ROUTE", route_named(application_route(name)), "MERGE", of_application)
    whole = {"request_body_buffer_limit": timeouts.grpc_bytes, "typed_per_filter_config": filters.unbuffered()}
    for name in names_of_routes(exposed, "stream", "grpc"):
        yield patch("HTTP_ROUTE", route_named(name), "MERGE", whole)


def _pods(exposed: ExposedPaths, hosts: Iterable[str]) -> Iterator[Json]:
    bound = {"common_lb_config": {"consistent_hashing_lb_config": {"hash_balance_factor": 150}}}
    for host in hosts:  # with all ports and subsets
        yield patch("CLUSTER", {"cluster": {"service": host}}, "MERGE", bound)
    # Each attempt is the next place of the ring, which may be another one of the same pod: Istio's 5 are too few.
    retries = {"retry_host_predicate": _ELSEWHERE, "host_selection_retry_max_attempts": 16}
    for name in names_of_routes(exposed, "stream", "grpc", "rest"):
        yield patch("HTTP_ROUTE", route_named(name), "MERGE", {"route": {"retry_policy": retries}})


def names_of_routes(exposed: ExposedPaths, *kinds: str) -> Iterator[str]:
    """In the order of the VirtualService."""
    paths = {"stream": exposed.streams, "grpc": exposed.rpcs, "rest": exposed.rest}
    for kind in filter(paths.get, kinds):
        for variant in (*exposed.variants, ""):
            if kind != "stream":
                yield from (route_name(kind, variant, copies.model) for copies in exposed.copies_of(variant))
            yield route_name(kind, variant)


def route_named(name: str) -> Json:
    return {"routeConfiguration": {"vhost": {"route": {"name": name}}}}


def in_chain(http_filter: str = "") -> Json:
    """The connection manager, or one filter in it."""
    chosen = {"name": CONNECTIONS, **({"subFilter": {"name": http_filter}} if http_filter else {})}
    return {"listener": {"filterChain": {"filter": chosen}}}


def patch(to: str, match: Json, operation: str, value: Json) -> Json:
    patch = {"operation": operation, "value": value}
    return {"applyTo": to, "match": {"context": "GATEWAY", **match}, "patch": patch}
