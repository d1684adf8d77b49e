"""The parts of Envoy's configuration that carry the policy, alike for Envoy alone and for Istio's gateway."""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from ext_authz.policy.model import Policy
from ext_authz.render import headers
from ext_authz.render.bounds import Json
from ext_authz.render.surface import Surface

EXTENSIONS = "type.googleapis.com/envoy.extensions"
EXTRACTION = "envoy.filters.http.grpc_field_extraction"
EXT_AUTHZ = "envoy.filters.http.ext_authz"
BUFFER = "envoy.filters.http.buffer"
ROUTER = "envoy.filters.http.router"
HEADER_MUTATION = "envoy.filters.http.header_mutation"

NOBODY_IS_INTERNAL: Json = {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]}
"""Without a range Envoy takes every private address for one of its own; nobody has this one."""

_DESCRIPTORS = Path(__file__).resolve().parents[1] / "gen" / "kserve.binpb"
_NAMES = ("model_name", "model_version", "name", "version")


def named(name: str, kind: str, config: Json) -> Json:
    """One filter or extension; `kind` is its message below `envoy.extensions`."""
    return {"name": name, "typed_config": {"@type": f"{EXTENSIONS}.{kind}", **config}}


def field_extraction(surface: Surface) -> Json:
    """Reads the model's name out of gRPC messages. The last of repeated fields wins, here as in Triton."""
    extractions: Json = {
        path[1:].replace("/", "."): {"request_field_extractions": {name: {} for name in _naming_fields()[path]}}
        for path in surface.naming_rpcs
    }
    descriptors = base64.b64encode(_DESCRIPTORS.read_bytes()).decode()
    config = {"descriptor_set": {"inline_bytes": descriptors}, "extractions_by_method": extractions}
    return named(EXTRACTION, "filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig", config)


@lru_cache(maxsize=1)
def _naming_fields() -> dict[str, list[str]]:
    """Path of every RPC to the fields of its message that name a model, where it has a model."""
    (file,) = FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes()).file
    fields = {
        f".{file.package}.{message.name}": [field.name for field in message.field] for message in file.message_type
    }
    return {
        f"/{file.package}.{service.name}/{method.name}": [name for name in _NAMES if name in fields[method.input_type]]
        for service in file.service
        for method in service.method
    }


def check(policy: Policy) -> Json:
    """What every check says and what its answer may do, beyond where to ask."""
    names = headers.asked(policy)
    return {
        "metadata_context_namespaces": [EXTRACTION],
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


def buffer(max_request_bytes: int) -> Json:
    """Limits REST bodies, after the authorizer: nobody without a pass makes us hold one."""
    return named(BUFFER, "filters.http.buffer.v3.Buffer", {"max_request_bytes": max_request_bytes})


def unbuffered() -> Json:
    """For routes of gRPC calls, whose size is limited elsewhere and whose streams cannot be held."""
    return {BUFFER: {"@type": f"{EXTENSIONS}.filters.http.buffer.v3.BufferPerRoute", "disabled": True}}


def variant_is(variant: str) -> Json:
    """Envoy's header match."""
    return {"name": headers.VARIANT, "string_match": {"exact": variant}}
