"""Our subset of Envoy's API is the official one on the wire: numbers, types, labels, oneofs, enum values, method."""

from __future__ import annotations

from types import ModuleType

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.json_format import MessageToDict

from ext_authz.decision import Allow, Deny, Principal, Quota, Reason
from ext_authz.edge.request import TARGET, parse
from ext_authz.edge.response import Responder
from ext_authz.gen.tollgate.envoy.accesslog.v3 import access_log_pb2 as log_subset
from ext_authz.gen.tollgate.envoy.v3 import external_auth_pb2 as subset
from ext_authz.ledger.access_log import STREAM
from ext_authz.policy.model import Responses
from ext_authz.server.rpc import CHECK
from tests.contract.official_api import OfficialApi, dump_official_descriptors

OFFICIAL_NAMES = {
    "CheckRequest": "envoy.service.auth.v3.CheckRequest",
    "AttributeContext": "envoy.service.auth.v3.AttributeContext",
    "CheckResponse": "envoy.service.auth.v3.CheckResponse",
    "DeniedHttpResponse": "envoy.service.auth.v3.DeniedHttpResponse",
    "OkHttpResponse": "envoy.service.auth.v3.OkHttpResponse",
    "Address": "envoy.config.core.v3.Address",
    "SocketAddress": "envoy.config.core.v3.SocketAddress",
    "Metadata": "envoy.config.core.v3.Metadata",
    "HeaderMap": "envoy.config.core.v3.HeaderMap",
    "HeaderValue": "envoy.config.core.v3.HeaderValue",
    "HeaderValueOption": "envoy.config.core.v3.HeaderValueOption",
    "HttpStatus": "envoy.type.v3.HttpStatus",
    "StatusCode": "envoy.type.v3.StatusCode",
    "Status": "google.rpc.Status",
    "StreamAccessLogsMessage": "envoy.service.accesslog.v3.StreamAccessLogsMessage",
    "StreamAccessLogsResponse": "envoy.service.accesslog.v3.StreamAccessLogsResponse",
    "HTTPAccessLogEntry": "envoy.data.accesslog.v3.HTTPAccessLogEntry",
    "AccessLogCommon": "envoy.data.accesslog.v3.AccessLogCommon",
    "ResponseFlags": "envoy.data.accesslog.v3.ResponseFlags",
    "HTTPRequestProperties": "envoy.data.accesslog.v3.HTTPRequestProperties",
    "HTTPResponseProperties": "envoy.data.accesslog.v3.HTTPResponseProperties",
}
FILES = subset, log_subset
OUR_PACKAGES = [file.DESCRIPTOR.package for file in FILES]
DECISION_ID = "c2a5a3a1-3f3e-4b7a-9f6e-0b7b6a0f9d10"


@pytest.fixture(scope="module")
def official() -> OfficialApi:
    return OfficialApi(dump_official_descriptors())


def _official_name(ours: str) -> str:
    """Names of our package to Envoy's; google.protobuf's stay."""
    ours = ours.removeprefix(".")
    for package in OUR_PACKAGES:
        if ours.startswith(f"{package}."):
            top, *nested = ours.removeprefix(f"{package}.").split(".")
            return ".".join([OFFICIAL_NAMES[top], *nested])
    return ours


def _messages(descriptors: list[Descriptor]) -> list[Descriptor]:
    nested = [inner for descriptor in descriptors for inner in descriptor.nested_types]
    return descriptors + (_messages(nested) if nested else [])


def _enums() -> list[EnumDescriptor]:
    nested = [enum for message in MESSAGES for enum in message.enum_types]
    return [*subset.DESCRIPTOR.enum_types_by_name.values(), *nested]


MESSAGES = _messages([message for file in FILES for message in file.DESCRIPTOR.message_types_by_name.values()])


def _proto(descriptor: Descriptor) -> DescriptorProto:
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    return proto


def _wire(field: FieldDescriptorProto, message: DescriptorProto) -> tuple[object, ...]:
    """All of a field that decides what its bytes mean."""
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
    packed = field.options.packed if field.options.HasField("packed") else None
    type_name = _official_name(field.type_name)
    return field.number, field.type, field.label, type_name, oneof, packed, field.proto3_optional, field.json_name


@pytest.mark.parametrize("ours", MESSAGES, ids=lambda message: message.full_name)
def test_every_field_is_the_official_one(official: OfficialApi, ours: Descriptor) -> None:
    theirs = _proto(official.descriptor(_official_name(ours.full_name)))
    their_fields = {field.name: _wire(field, theirs) for field in theirs.field}
    proto = _proto(ours)
    our_fields = {field.name: _wire(field, proto) for field in proto.field}

    assert our_fields or not their_fields
    assert our_fields == {name: their_fields.get(name) for name in our_fields}
    assert proto.options.map_entry == theirs.options.map_entry


@pytest.mark.parametrize("ours", _enums(), ids=lambda enum: enum.full_name)
def test_every_enum_value_is_the_official_one(official: OfficialApi, ours: EnumDescriptor) -> None:
    theirs = {value.name: value.number for value in official.enum(_official_name(ours.full_name)).values}

    assert {value.name: value.number for value in ours.values}.items() <= theirs.items()


@pytest.mark.parametrize(("file", "path", "streams"), [(subset, CHECK, False), (log_subset, STREAM, True)])
def test_the_method_is_the_official_one(official: OfficialApi, file: ModuleType, path: str, *, streams: bool) -> None:
    proto = FileDescriptorProto()
    file.DESCRIPTOR.CopyToProto(proto)
    ((service,),) = [proto.service]
    ((ours,),) = [service.method]
    theirs = official.service(path.split("/")[1])

    assert theirs.name == service.name
    assert [method.name for method in theirs.methods] == [ours.name] == [path.split("/")[2]]
    assert _official_name(ours.input_type) == theirs.methods[0].input_type.full_name
    assert _official_name(ours.output_type) == theirs.methods[0].output_type.full_name
    assert (ours.client_streaming, ours.server_streaming) == (streams, False)


def test_our_names_cannot_clash_with_another_copy_of_the_api() -> None:
    assert {message.full_name.startswith("tollgate.envoy.") for message in MESSAGES} == {True}
    assert {file.DESCRIPTOR.name.startswith("tollgate/") for file in FILES} == {True}


def _full_check(official: OfficialApi, *, raw_headers: bool) -> bytes:
    """With everything set that Envoy can set, also what the subset leaves out."""
    message = official.new("envoy.service.auth.v3.CheckRequest")
    attributes = message.attributes
    for peer in (attributes.source, attributes.destination):
        peer.address.socket_address.address, peer.address.socket_address.port_value = "203.0.113.9", 443
        peer.service, peer.principal, peer.certificate = "service", "spiffe://mesh/ns/a/sa/b", "-----BEGIN"
        peer.labels["app"] = "gateway"
    request = attributes.request
    request.time.seconds = 1_763_640_000
    http = request.http
    http.id, http.method, http.path, http.host = "1", "POST", "/v2/models/m/infer?x=1", "models.example"
    http.scheme, http.query, http.fragment, http.size, http.protocol = "https", "q", "f", 12, "HTTP/2"
    http.body, http.raw_body = "body", b"\xff"
    for key, value in {"authorization": "Bearer t", "content-type": "application/grpc", "cookie": "c"}.items():
        if raw_headers:
            http.header_map.headers.add(key=key, raw_value=value.encode())
        else:
            http.headers[key] = value
    attributes.context_extensions["class"] = "models"
    target = attributes.metadata_context.filter_metadata[TARGET]
    target["model"], target["version"] = "sentiment", "1"
    attributes.metadata_context.typed_filter_metadata["x"].value = b"any"
    attributes.route_metadata_context.filter_metadata["y"].get_or_create_list("z")
    attributes.tls_session.sni = "models.example"
    serialised: bytes = message.SerializeToString()
    return serialised


@pytest.mark.parametrize("raw_headers", [False, True], ids=["map", "header_map"])
def test_a_full_official_check_is_read(official: OfficialApi, *, raw_headers: bool) -> None:
    request = parse(_full_check(official, raw_headers=raw_headers))

    assert (request.method, request.host, request.path, request.query) == (
        "POST",
        "models.example",
        "/v2/models/m/infer",
        "x=1",
    )
    assert (request.authorization, request.content_type) == (("Bearer t",), "application/grpc")
    assert (request.source, request.models, request.versions) == ("203.0.113.9", ("sentiment",), ("1",))


@pytest.mark.parametrize("raw_headers", [False, True], ids=["map", "header_map"])
def test_an_official_check_loses_nothing_in_the_subset(official: OfficialApi, *, raw_headers: bool) -> None:
    sent = _full_check(official, raw_headers=raw_headers)
    back = official.new("envoy.service.auth.v3.CheckRequest")
    back.ParseFromString(subset.CheckRequest.FromString(sent).SerializeToString())
    original = official.new("envoy.service.auth.v3.CheckRequest")
    original.ParseFromString(sent)

    assert back == original


def _as_envoy_reads(official: OfficialApi, message: bytes) -> dict[str, object]:
    theirs = official.new("envoy.service.auth.v3.CheckResponse")
    theirs.ParseFromString(message)
    return MessageToDict(theirs)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.ALLOWED])
@pytest.mark.parametrize("grpc", [False, True], ids=["http", "grpc"])
def test_envoy_reads_our_refusals_as_we_mean_them(official: OfficialApi, reason: Reason, *, grpc: bool) -> None:
    message = Responder("r", Responses("urn:p:"), "h").build(
        Deny(DECISION_ID, reason, "code", "detail"), request_is_grpc=grpc
    )

    assert _as_envoy_reads(official, message) == MessageToDict(subset.CheckResponse.FromString(message))


def test_envoy_reads_the_joined_parts_of_an_allow_as_one_message(official: OfficialApi) -> None:
    allow = Allow(
        DECISION_ID, Principal("i", "s", "c", ("a", "b"), "t"), "route", "model", (Quota("user", 10, 60, 9, 1),)
    )
    message = Responder("r", Responses("urn:p:"), "h").build(allow, request_is_grpc=False)
    ours = subset.CheckResponse.FromString(message)

    assert _as_envoy_reads(official, message) == MessageToDict(ours)
    assert len(ours.ok_response.headers) == 9
    assert len(ours.ok_response.response_headers_to_add) == 3
    assert len(ours.dynamic_metadata.fields) == 10
