"""Documents that everyone may read: Envoy answers them by itself, without a token, a check and a ledger event."""

from __future__ import annotations

import json
from collections.abc import Iterator

from msgspec import Struct

from ext_authz.policy.model import RESOURCE_METADATA, Policy, Resource
from ext_authz.render.endpoints import Json

READS = "GET|HEAD"
JSON_WANTED = ".*application/json.*"
"""Of the header `accept`."""
_GRPC_SERVICE = "inference.GRPCInferenceService"


class Document(Struct, frozen=True):
    """One representation of one path, served for GET and HEAD."""

    name: str
    path: str
    content_type: str
    body: str
    if_json_is_wanted: bool = False
    """Served to those who ask for JSON; the next document of the same path is for others."""


def documents(policy: Policy) -> Iterator[Document]:
    """A path that the policy serves itself is left to it."""
    if not any(route.path == "/" for route in policy.routes):
        about = _about(policy)
        yield Document("about-json", "/", "application/json", _text(about), if_json_is_wanted=True)
        yield Document("about", "/", "text/plain; charset=utf-8", _for_people(about))
    if policy.resource:
        metadata = _text(_metadata(policy, policy.resource))
        yield Document("resource-metadata", RESOURCE_METADATA, "application/json", metadata)


def _about(policy: Policy) -> Json:
    resource, health = (
        policy.resource,
        [route.path for route in policy.routes if route.public and "{" not in route.path],
    )
    about: Json = {
        "name": (resource and resource.title) or policy.realm,
        "description": "Models behind Tollgate. Every call needs a token: Authorization: Bearer TOKEN",
        "documentation": resource and resource.documentation,
        "resource_metadata": resource and resource.metadata_url,
        "authorization_servers": _issuers(policy),
        "apis": _apis(policy),
        "without_token": [path for path in health if not path.startswith(f"/{_GRPC_SERVICE}")],
    }
    return {name: value for name, value in about.items() if value}


def _apis(policy: Policy) -> list[str]:
    paths = [route.path for route in policy.routes]
    by_operation = any(route.operation for route in policy.routes)
    rest, grpc = "KServe v2 over REST, under /v2", f"KServe v2 over gRPC, {_GRPC_SERVICE}"
    kserve = {rest: "/v2", grpc: f"/{_GRPC_SERVICE}"}
    return [name for name, start in kserve.items() if by_operation or any(path.startswith(start) for path in paths)]


def _for_people(about: Json) -> str:
    shown = dict(about)
    lines = [f"{shown.pop('name')}", "", f"{shown.pop('description')}", ""]
    for name, value in shown.items():
        title = "APIs" if name == "apis" else name.replace("_", " ").capitalize()
        lines += [f"{title}: {value}"] if isinstance(value, str) else [f"{title}:", *(f"  {one}" for one in value)]
    return "\n".join([*lines, ""])


def _metadata(policy: Policy, resource: Resource) -> Json:
    """RFC 9728 section 2."""
    metadata: Json = {
        "resource": resource.url,
        "authorization_servers": _issuers(policy),
        "scopes_supported": resource.scopes,
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": policy.responses.dpop,
        "tls_client_certificate_bound_access_tokens": bool(policy.responses.dpop),
        "resource_name": resource.title,
        "resource_documentation": resource.documentation,
    }
    return {name: value for name, value in metadata.items() if value}


def _issuers(policy: Policy) -> list[str]:
    return [issuer.issuer for issuer in policy.issuers if not issuer.asap]


def _text(document: Json) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
