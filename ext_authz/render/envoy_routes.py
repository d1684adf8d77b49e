"""Envoy's routes: what the policy serves, the variants of experiments first; and a route for all the rest.

A route, not the lack of one: without a route the authorizer would not be asked (and CONNECT would hang).
"""

from __future__ import annotations

from ext_authz.render.bounds import Bounds, Json, duration
from ext_authz.render.envoy_clusters import triton_cluster
from ext_authz.render.filters import unbuffered, variant_is
from ext_authz.render.surface import Surface


def routes(surface: Surface, bounds: Bounds) -> list[Json]:
    return [
        *(route for variant in surface.variants for route in _served(surface, bounds, variant)),
        *_served(surface, bounds, ""),
        no_such_path({"prefix": "/"}),
        no_such_path({"connect_matcher": {}}),
    ]


def _served(surface: Surface, bounds: Bounds, variant: str) -> list[Json]:
    """All of the policy's paths, by one variant; of none, what no experiment is about."""
    return [
        *(_grpc(paths, variant, bounds, timeout=0) for paths in surface.streams),
        *(_grpc(paths, variant, bounds, timeout=bounds.request) for paths in surface.rpcs),
        *(_rest(paths, variant, bounds) for paths in surface.rest),
    ]


def _grpc(paths: str, variant: str, bounds: Bounds, timeout: float) -> Json:
    return {
        "match": {**_match(paths, variant), "grpc": {}},
        "route": _action("grpc", variant, timeout),
        "request_body_buffer_limit": bounds.grpc_bytes,
        "typed_per_filter_config": unbuffered(),
    }


def _rest(paths: str, variant: str, bounds: Bounds) -> Json:
    return {
        "match": _match(paths, variant),
        "route": _action("http", variant, bounds.request),
        # Triton parses a body that is called a form, and dies of a big one.
        "request_headers_to_add": [_header("content-type", "application/json")],
    }


def _match(paths: str, variant: str) -> Json:
    match: Json = {"safe_regex": {"regex": paths}}
    return {**match, "headers": [variant_is(variant)]} if variant else match


def _action(protocol: str, variant: str, timeout: float) -> Json:
    # Client mistakes are 500 at Triton: repeating them would only repeat them.
    retries = {"retry_on": "connect-failure", "num_retries": 2}
    return {"cluster": triton_cluster(protocol, variant), "timeout": duration(timeout), "retry_policy": retries}


def no_such_path(match: Json) -> Json:
    return {
        "match": match,
        "direct_response": {"status": 404, "body": {"inline_string": NO_SUCH_PATH}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


NO_SUCH_PATH = '{"error":"no such path"}\n'


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
