"""CheckRequest bytes -> Request: both header forms, and what is refused."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ext_authz.decision import Reason, Request
from ext_authz.edge.request import TARGET, parse
from ext_authz.errors import Denied
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckRequest
from tests.requests import check_request, grpc_check_request

both_forms = pytest.mark.parametrize("raw_headers", [False, True], ids=["map", "header_map"])


@both_forms
def test_reads_every_field_of_a_rest_call(*, raw_headers: bool) -> None:
    message = check_request(
        "POST", "/v2/models/m/infer?a=1?b", host="models.example:8443", token="t.t.t", raw_headers=raw_headers
    )

    assert replace(parse(message), headers={}) == Request(
        method="POST",
        host="models.example:8443",
        path="/v2/models/m/infer",
        query="a=1?b",
        authorization=("Bearer t.t.t",),
        content_type="application/json",
        source="203.0.113.9",
        scheme="https",
    )


def test_reads_the_certificate_of_the_caller() -> None:
    message = CheckRequest.FromString(check_request())
    message.attributes.source.certificate = "-----BEGIN%20CERTIFICATE"
    assert parse(message.SerializeToString()).certificate == "-----BEGIN%20CERTIFICATE"


@both_forms
def test_reads_every_header_by_its_name(*, raw_headers: bool) -> None:
    headers = parse(check_request(headers=[("x-a", "1"), ("x-a", "2")], raw_headers=raw_headers)).headers

    assert (headers["x-a"], headers["user-agent"]) == ("1,2", "python-requests/2.32.3")
    assert "x-b" not in headers


@both_forms
def test_reads_models_of_a_grpc_call(*, raw_headers: bool) -> None:
    request = parse(grpc_check_request(models=["sentiment"], versions=["2"], raw_headers=raw_headers))

    assert request.is_grpc
    assert request.path == "/inference.GRPCInferenceService/ModelInfer"
    assert (request.models, request.versions) == (("sentiment",), ("2",))


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics"])
def test_every_call_names_its_model_in_its_own_field(method: str) -> None:
    request = parse(grpc_check_request(method, models=["sentiment"], versions=["2"]))
    assert (request.models, request.versions) == (("sentiment",), ("2",))


@both_forms
def test_no_authorization_is_none(*, raw_headers: bool) -> None:
    assert parse(check_request(raw_headers=raw_headers)).authorization == ()


@both_forms
def test_two_authorization_headers_are_seen_as_two(*, raw_headers: bool) -> None:
    message = check_request(token="good", headers=[("authorization", "Bearer evil")], raw_headers=raw_headers)

    assert parse(message).authorization == ("Bearer good", "Bearer evil")


@both_forms
@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("Bearer a,Bearer b", ("Bearer a", "Bearer b")),
        ("Bearer a, Bearer b", ("Bearer a", " Bearer b")),
        ("Bearer a,", ("Bearer a", "")),
        ("", ("",)),
    ],
)
def test_a_comma_inside_authorization_means_two(*, raw_headers: bool, value: str, seen: tuple[str, ...]) -> None:
    """Envoy itself joins repeated Authorization headers, in both forms."""
    message = check_request(headers=[("authorization", value)], raw_headers=raw_headers)

    assert parse(message).authorization == seen


@both_forms
@pytest.mark.parametrize(
    ("sent", "seen", "is_grpc"),
    [
        ("application/grpc", "application/grpc", True),
        ("Application/GRPC+proto", "application/grpc+proto", True),
        ("application/grpc ; charset=utf-8", "application/grpc", True),
        ("application/grpc-web", "application/grpc-web", False),
        ("application/json; charset=utf-8", "application/json", False),
        (None, "", False),
    ],
)
def test_content_type_without_case_and_parameters(
    *, raw_headers: bool, sent: str | None, seen: str, is_grpc: bool
) -> None:
    request = parse(check_request(content_type=sent, raw_headers=raw_headers))

    assert (request.content_type, request.is_grpc) == (seen, is_grpc)


@both_forms
def test_two_content_types_are_not_one(*, raw_headers: bool) -> None:
    message = check_request(
        content_type="application/json", headers=[("content-type", "application/grpc")], raw_headers=raw_headers
    )

    assert parse(message).content_type == "application/json,application/grpc"


@both_forms
@pytest.mark.parametrize(
    ("given_path", "path", "query"),
    [("", "", ""), ("*", "*", ""), ("no-slash?x", "no-slash", "x"), ("?", "", ""), ("/a%2Fb#c?d#e", "/a%2Fb#c", "d#e")],
)
def test_a_path_is_split_and_not_validated(*, raw_headers: bool, given_path: str, path: str, query: str) -> None:
    """CONNECT has no path, OPTIONS may have "*": the route phase refuses them."""
    request = parse(check_request("CONNECT", given_path, raw_headers=raw_headers))

    assert (request.method, request.path, request.query) == ("CONNECT", path, query)


def test_raw_bytes_that_are_no_text_stay_distinct() -> None:
    message = CheckRequest.FromString(check_request(raw_headers=True))
    message.attributes.request.http.header_map.headers.add(key="authorization", raw_value=b"Bearer \xff\xfe\x00")

    assert parse(message.SerializeToString()).authorization == ("Bearer \xff\xfe\x00",)


def test_header_map_with_value_instead_of_raw_value() -> None:
    message = CheckRequest.FromString(check_request(raw_headers=True))
    message.attributes.request.http.header_map.headers.add(key="authorization", value="Bearer t")

    assert parse(message.SerializeToString()).authorization == ("Bearer t",)


def test_an_empty_header_map_is_a_request_without_headers() -> None:
    message = CheckRequest()
    message.attributes.request.http.path = "/"
    message.attributes.request.http.header_map.SetInParent()

    assert parse(message.SerializeToString()) == Request(method="", host="", path="/")


def test_a_peer_on_a_pipe_has_no_address() -> None:
    message = CheckRequest.FromString(check_request())
    message.attributes.source.ClearField("address")

    assert parse(message.SerializeToString()).source == ""


def _with_metadata(namespace: str, fields: dict[str, object]) -> bytes:
    message = CheckRequest.FromString(grpc_check_request(models=None))
    ParseDict(fields, message.attributes.metadata_context.filter_metadata[namespace])
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("namespace", "fields", "models"),
    [
        (TARGET, {"model": "a"}, ("a",)),
        (TARGET, {"model": "a", "version": ["1"]}, ("a",)),
        (TARGET, {"model": ""}, ("",)),
        (TARGET, {"model": None}, ()),
        (TARGET, {"model": {"a": "b"}}, ()),
        (TARGET, {"model": 1}, ()),
        (TARGET, {"model": ["a"]}, ()),
        (TARGET, {"name": "a"}, ()),
        ("envoy.filters.http.grpc_field_extraction", {"model_name": ["a"]}, ()),
        ("envoy.filters.http.jwt_authn", {"model": "a"}, ()),
    ],
)
def test_a_model_is_a_text_or_nothing(namespace: str, fields: dict[str, object], models: tuple[str, ...]) -> None:
    assert parse(_with_metadata(namespace, fields)).models == models


def test_metadata_without_namespaces_names_no_model() -> None:
    message = CheckRequest.FromString(check_request())
    message.attributes.metadata_context.SetInParent()

    assert parse(message.SerializeToString()).models == ()


def _tcp_check() -> bytes:
    message = CheckRequest()
    message.attributes.source.address.socket_address.address = "203.0.113.9"
    return message.SerializeToString()


def _invalid_utf8_path() -> bytes:
    return check_request(path="/v2/AAAA").replace(b"/v2/AAAA", b"/v2/\xff\xfe\xfd\xfc")


def _both_forms() -> bytes:
    message = CheckRequest.FromString(check_request(token="one"))
    message.attributes.request.http.header_map.headers.add(key="authorization", raw_value=b"Bearer two")
    return message.SerializeToString()


def _nested_struct(depth: int) -> bytes:
    message = CheckRequest.FromString(check_request())
    value = message.attributes.metadata_context.filter_metadata[TARGET].fields["model"]
    for _ in range(depth):
        value = value.list_value.values.add()
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\xff", "malformed_check"),
        (b"\x0a\xff\xff\xff\xff\x0f", "malformed_check"),
        (check_request()[:-1], "malformed_check"),
        (check_request() + b"\x00", "malformed_check"),
        (b"\x0b" * 10_000, "malformed_check"),
        (_invalid_utf8_path(), "malformed_check"),
        (b"", "not_http"),
        (CheckRequest().SerializeToString(), "not_http"),
        (_tcp_check(), "not_http"),
        (_both_forms(), "ambiguous_headers"),
    ],
    ids=["junk", "length", "truncated", "tag_zero", "groups", "utf8", "empty", "no_request", "tcp", "both_forms"],
)
def test_bad_messages_are_refused(message: bytes, code: str) -> None:
    with pytest.raises(Denied) as refused:
        parse(message)

    assert (refused.value.reason, refused.value.code) == (Reason.BAD_REQUEST, code)


def test_too_deep_a_message_is_refused() -> None:
    message = _nested_struct(60)  # protobuf reads 100 levels; each list is two
    with pytest.raises(Denied, match="malformed_check"):
        parse(message)


def _outcome(message: bytes) -> Reason | type[Request]:
    """Anything that is neither leaves as an exception."""
    try:
        return type(parse(message))
    except Denied as refused:
        return refused.reason


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(message: bytes) -> None:
    assert _outcome(message) in (Reason.BAD_REQUEST, Request)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_good_message_with_changed_bytes_parses_or_is_refused(changes: list[tuple[int, int]]) -> None:
    message = bytearray(grpc_check_request(token="t"))
    for position, byte in changes:
        message[position] = byte

    assert _outcome(bytes(message)) in (Reason.BAD_REQUEST, Request)
