"""CheckRequest -> Request. Protocol types stop here; what the request may do is decided elsewhere.

Runs on every check: only the fields that a decision reads are touched.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value

from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import AttributeContext, CheckRequest, HeaderValue, Metadata

TARGET = "tollgate.target"
"""Where the front puts the model and version that a gRPC message names for certain (`render/target.lua`)."""

_Headers = tuple[tuple[str, ...], str, Mapping[str, str]]
"""Every Authorization value, the content type, and all headers."""


def parse(message: bytes) -> Request:
    """Read one serialised CheckRequest. The path and the credential are not validated here.

    Raises:
        Denied: BAD_REQUEST, for what no Envoy says about an HTTP request.
    """
    try:
        attributes = CheckRequest.FromString(message).attributes
    except DecodeError:
        raise Denied(Reason.BAD_REQUEST, "malformed_check", "the authorization request is malformed") from None
    request = attributes.request
    if not request.HasField("http"):
        raise Denied(Reason.BAD_REQUEST, "not_http", "only HTTP and gRPC requests can be authorized")
    return _read(attributes, request.http)


def seems_grpc(message: bytes) -> bool:
    """Of a message that cannot be read: whether a refusal had better be one for gRPC. It decides about nothing else."""
    return b"application/grpc" in message


def media_type(content_type: str) -> str:
    """Without parameters, in lower case."""
    return content_type.partition(";")[0].rstrip().lower()


def _read(attributes: AttributeContext, http: AttributeContext.HttpRequest) -> Request:
    read_headers = _read_raw_headers if http.HasField("header_map") else _read_headers
    authorization, content_type, headers = read_headers(http)
    path, _, query = http.path.partition("?")
    models, versions = (
        _read_target(attributes.metadata_context) if attributes.HasField("metadata_context") else ((), ())
    )
    return Request(
        method=http.method,
        host=http.host,
        path=path,
        query=query,
        authorization=authorization,
        content_type=media_type(content_type),
        headers=headers,
        source=attributes.source.address.socket_address.address,
        scheme=http.scheme,
        certificate=attributes.source.certificate,
        models=models,
        versions=versions,
    )


def _read_headers(http: AttributeContext.HttpRequest) -> _Headers:
    """The default form: a map with lower-case names, the values of a repeated header joined with commas."""
    headers = http.headers
    authorization = headers.get("authorization")
    # No bearer token holds a comma: one in here means that the caller sent several values.
    return () if authorization is None else tuple(authorization.split(",", 1)), headers.get("content-type", ""), headers


def _read_raw_headers(http: AttributeContext.HttpRequest) -> _Headers:
    """The form of `encode_raw_headers`: a list of names and bytes. Envoy joins repeated Authorization here too."""
    if http.headers:
        raise Denied(Reason.BAD_REQUEST, "ambiguous_headers", "the headers were given in two forms")
    values: dict[str, list[str]] = {}
    for header in http.header_map.headers:
        values.setdefault(header.key, []).append(_value(header))
    headers = {name: ",".join(several) for name, several in values.items()}
    authorization = tuple(",".join(values["authorization"]).split(",", 1)) if "authorization" in values else ()
    return authorization, headers.get("content-type", ""), headers


def _value(header: HeaderValue) -> str:
    # Latin-1 cannot fail and maps no two byte strings to one text.
    return header.raw_value.decode("latin-1") or header.value


def _read_target(metadata: Metadata) -> tuple[tuple[str, ...], tuple[str, ...]]:
    namespaces = metadata.filter_metadata
    if TARGET not in namespaces:
        return (), ()
    fields = namespaces[TARGET].fields
    return _text(fields, "model"), _text(fields, "version")


def _text(fields: Mapping[str, Value], name: str) -> tuple[str, ...]:
    """Anything but a text reads as nothing, and nothing names no model."""
    if name not in fields or fields[name].WhichOneof("kind") != "string_value":
        return ()
    return (fields[name].string_value,)
