"""The parts of Envoy's configuration that carry the policy, alike for Envoy alone and for Istio's gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ext_authz.edge.request import TARGET
from ext_authz.policy.kserve import naming_fields
from ext_authz.policy.model import Policy
from ext_authz.render import headers
from ext_authz.render.bounds import Json
from ext_authz.render.surface import Surface

EXTENSIONS = "type.googleapis.com/envoy.extensions"
EXT_AUTHZ = "envoy.filters.http.ext_authz"
BUFFER = "envoy.filters.http.buffer"
ROUTER = "envoy.filters.http.router"
HEADER_MUTATION = "envoy.filters.http.header_mutation"

NOBODY_IS_INTERNAL: Json = {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]}
"""Without a range Envoy takes every private address for one of its own; nobody has this one."""

_READER = Path(__file__).parent / "target.lua"


def named(name: str, kind: str, config: Json) -> Json:
    """One filter or extension; `kind` is its message below `envoy.extensions`."""
    return {"name": name, "typed_config": {"@type": f"{EXTENSIONS}.{kind}", **config}}


def target_reader(surface: Surface) -> Json:
    """Tells the authorizer which model a gRPC message names (`target.lua`)."""
    named_by = "".join(f"  [{json.dumps(path)}] = {_in_lua(naming_fields(path))},\n" for path in surface.naming_rpcs)
    code = f"local SPACE = {json.dumps(TARGET)}\nlocal NAMED = {{\n{named_by}}}\n\n{_READER.read_text()}"
    return named(TARGET, "filters.http.lua.v3.Lua", {"default_source_code": {"inline_string": code}})


def _in_lua(fields: Mapping[int, str]) -> str:
    return f"{{ {', '.join(f'[{number}] = {json.dumps(what)}' for number, what in fields.items())} }}"


def check(policy: Policy) -> Json:
    """What every check says and what its answer may do, beyond where to ask."""
    names = headers.asked(policy)
    return {
        "metadata_context_namespaces": [TARGET],
        # Repeated headers stay apart, and bytes stay bytes.
        "encode_raw_headers": True,
        # The variant is chosen by the authorizer, so the route is chosen after it.
        "clear_route_cache": True,
        **(
            {"disallowed_headers": _exactly(headers.CREDENTIALS)}
            if names is None
            else {"allowed_headers": _exactly(names)}
        ),
    }


def _exactly(names: tuple[str, ...]) -> Json:
    return {"patterns": [{"exact": name, "ignore_case": True} for name in names]}


def early_header_mutation(policy: Policy) -> Json:
    """Before Envoy looks at a request at all: what only the authorizer or Envoy may say is not there."""
    mutations: list[Json] = [{"remove": name} for name in headers.refused(policy)]
    mutations.append(_without({"prefix": headers.RESERVED_PREFIX, "ignore_case": True}))
    kind = "http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return named("envoy.http.early_header_mutation.header_mutation", kind, {"mutations": mutations})


def header_mutation() -> Json:
    """What Envoy itself says about a request is not for upstreams; no more are the trailers of a request.

    Trailers come after the verdict: nobody has judged them, and a gRPC server may take them for headers. Stands before
    the authorizer, the only one that may give Envoy an order.
    """
    mutations = {
        "request_mutations": [
            _without({"prefix": headers.RESERVED_PREFIX, "ignore_case": True}),
            {"remove": "trailer"},
        ],
        "request_trailers_mutations": [_without({"safe_regex": {"regex": ".*"}})],
    }
    return named(HEADER_MUTATION, "filters.http.header_mutation.v3.HeaderMutation", {"mutations": mutations})


def _without(names: Json) -> Json:
    return {"remove_on_match": {"key_matcher": names}}


def router() -> Json:
    return named(ROUTER, "filters.http.router.v3.Router", {"suppress_envoy_headers": True})


def local_replies(max_grpc_bytes: int) -> Json:
    """What Envoy answers by itself, in words of use to a caller: a gRPC message that is too large (Envoy's own answer
    would be UNKNOWN), and no verdict from the authorizer, which is away or has more to do than it can (Envoy's own
    answer would be empty). Where the authorizer did answer, its words stay."""
    is_grpc = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
    too_large = {
        "filter": _all(_status(413, "too_large"), is_grpc),
        "body": {"inline_string": f"the message is larger than {max_grpc_bytes} bytes"},
        "headers_to_add": [_header("grpc-status", "8")],  # RESOURCE_EXHAUSTED
    }
    no_verdict = _status(503, "no_verdict"), {"response_flag_filter": {"flags": ["UAEX"]}}, _NO_ANSWER
    to_grpc = {
        "filter": _all(*no_verdict, is_grpc),
        "body": {"inline_string": f"unavailable: {_NO_VERDICT}"},
        "headers_to_add": [_header("retry-after", "1"), _header("cache-control", "no-store")],
    }
    to_rest = {
        "filter": _all(*no_verdict),
        "body_format_override": {"json_format": _PROBLEM, "content_type": "application/problem+json"},
        "headers_to_add": to_grpc["headers_to_add"],
    }
    return {"mappers": [too_large, to_grpc, to_rest]}


_NO_VERDICT = "the request could not be decided, try again"
_PROBLEM = {
    "type": "urn:tollgate:problem:unavailable",
    "title": "Unavailable",
    "status": 503,
    "detail": _NO_VERDICT,
    "code": "unavailable",
}
_NO_ANSWER = {
    "extension_filter": {
        "name": "envoy.access_loggers.extension_filters.cel",
        "typed_config": {
            "@type": f"{EXTENSIONS}.access_loggers.filters.cel.v3.ExpressionFilter",
            "expression": "!('cache-control' in response.headers)",
        },
    }
}
"""Every refusal of ours has that header; an error of the call to us, or no answer in time, has none."""


def _status(code: int, name: str) -> Json:
    return {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": f"tollgate.{name}"}}
        }
    }


def _header(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}}


def _all(*wanted: Json) -> Json:
    return {"and_filter": {"filters": list(wanted)}}


def buffer(max_request_bytes: int) -> Json:
    """Limits REST bodies, after the authorizer: nobody without a pass makes us hold one."""
    return named(BUFFER, "filters.http.buffer.v3.Buffer", {"max_request_bytes": max_request_bytes})


def unbuffered() -> Json:
    """For routes of gRPC calls, whose size is limited elsewhere and whose streams cannot be held."""
    return {BUFFER: {"@type": f"{EXTENSIONS}.filters.http.buffer.v3.BufferPerRoute", "disabled": True}}


def variant_is(variant: str) -> Json:
    """Envoy's header match."""
    return {"name": headers.VARIANT, "string_match": {"exact": variant}}
