"""Envoy's configuration: one listener for REST and gRPC, and its routes.

Order of a request: reserved headers removed, canonical path or 400, no trailers, the model's name out of the gRPC
message, the check, the variant's route, the size of a REST body, the upstream. Every request has a route, because Envoy
calls the authorizer only where there is one: also a request that then gets 404 is checked.
"""

from __future__ import annotations

from collections.abc import Collection

from ext_authz.policy.model import Policy
from ext_authz.render import filters
from ext_authz.render.clusters import clusters, envoy_address, triton_cluster
from ext_authz.render.console import BODY_BYTES, COOKIES, PREFIX, console_routes
from ext_authz.render.documents import JSON_WANTED, READS, Document, documents
from ext_authz.render.endpoints import (
    CHECK_RETRIES,
    CONNECTION_BYTES,
    HTTP2_WINDOWS,
    Endpoints,
    Json,
    Timeouts,
    duration,
)
from ext_authz.render.exposed_paths import OWN, Copies, ExposedPaths, exposed_paths
from ext_authz.render.headers import ANY_VERSION, LOGGED, MODEL, VARIANT, VERSION
from ext_authz.render.local_replies import local_replies
from ext_authz.render.overload import overload
from ext_authz.render.tls import PLAIN, Tls, TlsOfAll, accepted
from ext_authz.render.upstreams import upstream_routes


def bootstrap(
    policy: Policy,
    endpoints: Endpoints,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    tls: TlsOfAll = PLAIN,
) -> Json:
    """The whole of it, for `envoy --config-path`."""
    exposed = exposed_paths(policy)
    return {
        "node": {"id": "tollgate", "cluster": "tollgate"},
        **({"admin": {"address": envoy_address(endpoints.admin)}} if endpoints.admin else {}),
        # Envoy would refuse a pattern of more than about three paths; Istio sets the same.
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 32768}}]
        },
        "overload_manager": overload(timeouts),
        "static_resources": {
            "listeners": [_listener(policy, exposed, endpoints, timeouts, tls.listen)],
            "clusters": clusters(exposed, endpoints, timeouts, tls),
        },
    }


def _listener(policy: Policy, exposed: ExposedPaths, endpoints: Endpoints, timeouts: Timeouts, tls: Tls | None) -> Json:
    connections = filters.named(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        _connection_manager(policy, exposed, endpoints, timeouts),
    )
    return {
        "name": "models",
        "address": envoy_address(endpoints.listen),
        "per_connection_buffer_limit_bytes": CONNECTION_BYTES,
        "filter_chains": [{"filters": [connections], **accepted(tls)}],
    }


def _connection_manager(policy: Policy, exposed: ExposedPaths, endpoints: Endpoints, timeouts: Timeouts) -> Json:
    return {
        "stat_prefix": "models",
        "server_name": "tollgate",
        "early_header_mutation_extensions": [filters.early_header_mutation(policy)],
        # One spelling per path: two parsers may repair a path differently.
        "normalize_path": True,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": "300s",
            "max_stream_duration": filters.longest(policy, timeouts),
        },
        "http2_protocol_options": HTTP2_WINDOWS,
        # The peer is the client: nothing that it claims about the origin of the request is trusted.
        "use_remote_address": True,
        "internal_address_config": filters.NOBODY_IS_INTERNAL,
        "stream_idle_timeout": duration(timeouts.request),
        "request_headers_timeout": "10s",
        # The check is made when the headers are here: the body must not arrive long after.
        "request_timeout": duration(timeouts.request),
        "local_reply_config": local_replies(policy, timeouts),
        "access_log": [
            _access_log(endpoints.access_log),
            *([_access_log_service()] if endpoints.usage_worker else []),
        ],
        "http_filters": _http_filters(policy, exposed, timeouts),
        "route_config": _route_config(policy, exposed, endpoints.upstreams, timeouts),
    }


def _http_filters(policy: Policy, exposed: ExposedPaths, timeouts: Timeouts) -> list[Json]:
    return [
        *([filters.cors()] if policy.cors else []),
        filters.header_mutation(),
        *([filters.target_reader(exposed)] if exposed.naming_rpcs else []),
        filters.named(filters.EXT_AUTHZ, "filters.http.ext_authz.v3.ExtAuthz", _ext_authz(policy, timeouts)),
        filters.buffer(timeouts.rest_bytes),
        filters.answers(policy, timeouts),
        filters.router(),
    ]


def _ext_authz(policy: Policy, timeouts: Timeouts) -> Json:
    return {
        "transport_api_version": "V3",
        "grpc_service": {
            "envoy_grpc": {"cluster_name": "authorizer"},
            "timeout": duration(timeouts.check),
            "retry_policy": CHECK_RETRIES,
        },
        "failure_mode_allow": False,
        "status_on_error": {"code": "ServiceUnavailable"},
        **filters.check(policy),
    }


def _access_log(path: str) -> Json:
    """A line of JSON per request; `decision` is metadata from the authorizer. No query: it may hold secrets."""
    line = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ:PATH)%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "milliseconds": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "upstream": "%UPSTREAM_CLUSTER%",
        "variant": f"%REQ({VARIANT})%",
        "source": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "decision": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%",
    }
    config = {"path": path, "log_format": {"json_format": line}}
    return filters.named("envoy.access_loggers.file", "access_loggers.file.v3.FileAccessLog", config)


def _access_log_service() -> Json:
    """The outcome of each call that the authorizer allowed, by the metadata that came with its answer."""
    common = {
        "log_name": "tollgate",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "usage_worker"}},
    }
    config = {
        "common_config": common,
        "additional_response_headers_to_log": LOGGED,
        "additional_response_trailers_to_log": LOGGED,
    }
    is_allowed = {"path": [{"key": "code"}], "value": {"string_match": {"exact": "allowed"}}}
    log = filters.named("envoy.access_loggers.http_grpc", "access_loggers.grpc.v3.HttpGrpcAccessLogConfig", config)
    only = {"matcher": {"filter": filters.EXT_AUTHZ, **is_allowed}, "match_if_key_not_found": False}
    return {**log, "filter": {"metadata_filter": only}}


def _route_config(policy: Policy, exposed: ExposedPaths, upstreams: Collection[str], timeouts: Timeouts) -> Json:
    open_to_all = list(documents(policy))
    virtual_host = {
        "name": "models",
        "domains": ["*"],
        "routes": [
            *([too_large(policy, BODY_BYTES, PREFIX)] if exposed.console else []),
            too_large(policy, timeouts.rest_bytes),
            *(document_route(document, policy) for document in open_to_all),
            *_routes(policy, exposed, upstreams, timeouts),
        ],
        **filters.cors_host(policy),
    }
    most = max(4096, *(len(document.body.encode()) for document in open_to_all), 0)
    return {"name": "models", "virtual_hosts": [virtual_host], "max_direct_response_body_size_bytes": most}


def _routes(policy: Policy, exposed: ExposedPaths, upstreams: Collection[str], timeouts: Timeouts) -> list[Json]:
    return [
        # The authorizer answers these in place of the check. Envoy's CORS filter acts only where a route has a cluster.
        {"match": _match(OWN, ""), "route": {"cluster": "authorizer"}},
        *console_routes(policy, timeouts),
        *upstream_routes(policy, exposed, upstreams, timeouts),
        *(route for variant in exposed.variants for route in _variant_routes(exposed, timeouts, variant)),
        *_variant_routes(exposed, timeouts, ""),
        no_such_path({"prefix": "/"}),
        no_such_path({"connect_matcher": {}}),
    ]


def document_route(document: Document, policy: Policy) -> Json:
    headers: list[Json] = [{"name": ":method", "string_match": {"safe_regex": {"regex": READS}}}]
    if document.if_json_is_wanted:
        headers.append({"name": "accept", "string_match": {"safe_regex": {"regex": JSON_WANTED}}})
    return {
        "match": {"path": document.path, "headers": headers},
        "direct_response": {"status": 200, "body": {"inline_string": document.body}},
        "response_headers_to_add": [
            _header("content-type", document.content_type),
            _header("vary", "accept"),
            *_for_pages(policy),
        ],
        "typed_per_filter_config": filters.unchecked(),
    }


def _variant_routes(exposed: ExposedPaths, timeouts: Timeouts, variant: str) -> list[Json]:
    """All of the policy's paths, by one variant; without one, for calls that no experiment covers."""
    copies = exposed.copies_of(variant)
    rpcs = [_grpc(paths, variant, timeouts, timeout=timeouts.request) for paths in exposed.rpcs]
    rest = [_rest(paths, variant, timeouts) for paths in exposed.rest]
    found = [
        *(_grpc(paths, variant, timeouts, timeout=0) for paths in exposed.streams),
        *(_copied(route, "grpc", each) for each in copies for route in rpcs),
        *rpcs,
        *(_copied(route, "http", each) for each in copies for route in rest),
        *rest,
    ]
    return [route | COOKIES for route in found] if exposed.has_cookies else found


def _grpc(paths: str, variant: str, timeouts: Timeouts, timeout: float) -> Json:
    return {
        "match": {**_match(paths, variant), "grpc": {}},
        "route": _action("grpc", variant, timeout),
        "request_body_buffer_limit": timeouts.grpc_bytes,
        "typed_per_filter_config": filters.unbuffered(),
    }


def _rest(paths: str, variant: str, timeouts: Timeouts) -> Json:
    return {
        "match": _match(paths, variant),
        "route": _action("http", variant, timeouts.request),
        "typed_per_filter_config": filters.unnamed(),
    }


def _copied(route: Json, protocol: str, copies: Copies) -> Json:
    """The route for one model, as the authorizer names it; Envoy forgets the answers to copies."""
    named = ((MODEL, copies.model), (VERSION, ANY_VERSION))
    of_model = [{"name": name, "string_match": {"exact": value}} for name, value in named]
    fraction = {"default_value": {"numerator": copies.percent, "denominator": "HUNDRED"}}
    mirror = {"cluster": triton_cluster(protocol, copies.to), "runtime_fraction": fraction}
    match = {**route["match"], "headers": [*route["match"]["headers"], *of_model]}
    return {**route, "match": match, "route": {**route["route"], "request_mirror_policies": [mirror]}}


def _match(paths: str, variant: str) -> Json:
    match: Json = {"safe_regex": {"regex": paths}}
    return {**match, "headers": [{"name": VARIANT, "string_match": {"exact": variant}}]} if variant else match


def _action(protocol: str, variant: str, timeout: float) -> Json:
    # Triton answers 500 to mistakes of clients: a retry would repeat them.
    retries = {"retry_on": "connect-failure", "num_retries": 2}
    return {"cluster": triton_cluster(protocol, variant), "timeout": duration(timeout), "retry_policy": retries}


def no_such_path(match: Json) -> Json:
    return {"match": match, "direct_response": {"status": 404}}


def _for_pages(policy: Policy) -> list[Json]:
    return [_header(*header) for header in filters.readable_by_pages(policy).items()]


def too_large(policy: Policy, most: int, prefix: str = "/") -> Json:
    """A REST call that announces a body of more than `most` bytes: it is not checked, and costs no quota."""
    is_grpc = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    # The greatest int64 that is also a float64: Istio reads numbers as floats.
    sizes = {"start": most + 1, "end": 2**63 - 1024}
    headers = [
        {"name": "content-length", "range_match": sizes},
        {**is_grpc, "invert_match": True, "treat_missing_header_as_empty": True},
    ]
    return {
        "match": {"prefix": prefix, "headers": headers},
        "direct_response": {"status": 413},
        "response_headers_to_add": _for_pages(policy),
        "typed_per_filter_config": filters.unchecked(),
    }


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
