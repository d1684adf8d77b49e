"""Reads serialised CheckResponses as Envoy does."""

from __future__ import annotations

from collections.abc import Iterable

from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse, HeaderValueOption

DECISION_ID = "c2a5a3a1-3f3e-4b7a-9f6e-0b7b6a0f9d10"


def read(message: bytes) -> CheckResponse:
    return CheckResponse.FromString(message)


def refusal(message: bytes) -> DeniedHttpResponse:
    """The one of the two refusing kinds that is there."""
    answer = read(message)
    kind = answer.WhichOneof("http_response")
    assert kind in ("denied_response", "error_response")
    return answer.denied_response if kind == "denied_response" else answer.error_response


def headers(options: Iterable[HeaderValueOption]) -> dict[str, str]:
    """Every name stands once."""
    pairs = [(option.header.key, option.header.value) for option in options]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def metadata(message: bytes) -> dict[str, str]:
    return {name: value.string_value for name, value in read(message).dynamic_metadata.fields.items()}


def every_header(message: bytes) -> list[HeaderValueOption]:
    answer = read(message)
    groups = (
        answer.ok_response.headers,
        answer.ok_response.response_headers_to_add,
        answer.denied_response.headers,
        answer.error_response.headers,
    )
    return [option for group in groups for option in group]
