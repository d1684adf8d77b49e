"""From a request as an operator writes it to the request that the door sees."""

from __future__ import annotations

from collections.abc import Mapping

from ext_authz.decision import Request
from ext_authz.policytool.cases import RequestDocument

GRPC = "application/grpc"


def as_seen(document: RequestDocument, authorization: str | None) -> Request:
    """`authorization` stands for the caller; a header of that name comes besides it."""
    path, _, query = (document.path or f"/{document.grpc}").partition("?")
    headers = _headers(document, authorization)
    values = [value for value in (authorization, document.headers.get("authorization")) if value is not None]
    return Request(
        method="POST" if document.grpc else document.method or "GET",
        host=document.host,
        path=path,
        query=query if document.query is None else document.query,
        authorization=tuple(part for value in values for part in value.split(",")),
        content_type=content_type(headers),
        headers=headers,
        source=document.source,
        models=() if document.model is None else (document.model,),
        versions=() if document.version is None else (document.version,),
    )


def _headers(document: RequestDocument, authorization: str | None) -> Mapping[str, str]:
    headers = {"content-type": GRPC} if document.grpc else {}
    if authorization is not None:
        headers["authorization"] = authorization
    return headers | document.headers


def content_type(headers: Mapping[str, str]) -> str:
    """As `ext_authz.edge.request` reads it."""
    return headers.get("content-type", "").partition(";")[0].rstrip().lower()
