"""CheckRequest messages as Envoy sends them, in both header forms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ext_authz.edge.request import TARGET
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import AttributeContext, CheckRequest

BROWSER_HEADERS = (
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate, br"),
    ("content-length", "412"),
    ("user-agent", "python-requests/2.32.3"),
    ("x-envoy-external-address", "203.0.113.9"),
    ("x-forwarded-for", "203.0.113.9"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "c2a5a3a1-3f3e-4b7a-9f6e-0b7b6a0f9d10"),
)
"""What comes with nearly every request and decides nothing."""


def check_request(
    method: str = "POST",
    path: str = "/v2/models/sentiment/infer",
    *,
    host: str = "models.example",
    token: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    content_type: str | None = "application/json",
    source: str = "203.0.113.9",
    models: Sequence[str] | None = None,
    versions: Sequence[str] = (),
    raw_headers: bool = False,
) -> bytes:
    """One serialised CheckRequest.

    `models` is what the front read from the gRPC message (None: it did not); `raw_headers` chooses the form
    that `encode_raw_headers: true` makes. A header that occurs twice in `headers` is one that the caller sent twice.
    """
    pseudo = ((":method", method), (":path", path), (":authority", host), (":scheme", "https"))
    sent = [*pseudo, *BROWSER_HEADERS]
    if content_type is not None:
        sent.append(("content-type", content_type))
    if token is not None:
        sent.append(("authorization", f"Bearer {token}"))
    message = CheckRequest()
    _fill_http(message.attributes.request.http, method, path, host)
    _fill_headers(message.attributes.request.http, [*sent, *headers], raw_headers=raw_headers)
    message.attributes.source.address.socket_address.address = source
    message.attributes.source.address.socket_address.port_value = 40512
    message.attributes.destination.address.socket_address.address = "10.0.0.2"
    message.attributes.destination.address.socket_address.port_value = 8080
    if models is not None:
        _fill_models(message.attributes, models, versions)
    return message.SerializeToString()


def grpc_check_request(
    method: str = "ModelInfer",
    *,
    token: str | None = None,
    models: Sequence[str] | None = ("sentiment",),
    versions: Sequence[str] = (),
    headers: Iterable[tuple[str, str]] = (),
    raw_headers: bool = False,
) -> bytes:
    """One serialised CheckRequest for a method of the inference service."""
    return check_request(
        path=f"/inference.GRPCInferenceService/{method}",
        token=token,
        models=models,
        versions=versions,
        headers=[("te", "trailers"), *headers],
        content_type="application/grpc",
        raw_headers=raw_headers,
    )


def _fill_http(http: AttributeContext.HttpRequest, method: str, path: str, host: str) -> None:
    http.id = "13359530607844510314"
    http.method, http.path, http.host = method, path, host
    http.scheme, http.protocol, http.size = "https", "HTTP/2", -1


def _fill_headers(http: AttributeContext.HttpRequest, headers: Iterable[tuple[str, str]], *, raw_headers: bool) -> None:
    for key, value in headers:
        if raw_headers:
            http.header_map.headers.add(key=key, raw_value=value.encode())
        else:
            http.headers[key] = f"{http.headers[key]},{value}" if key in http.headers else value


def _fill_models(attributes: AttributeContext, models: Sequence[str], versions: Sequence[str]) -> None:
    target = attributes.metadata_context.filter_metadata[TARGET]
    for name, texts in {"model": models, "version": versions}.items():
        if len(texts) == 1:
            target[name] = texts[0]
        elif texts:
            target.get_or_create_list(name).extend(texts)  # as no front writes it
