"""Every call of the surface is classified, and nothing that only looks like one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.policy.kserve import Kind, ModelScope, Operation, Right, classify, naming_fields, surface

GRPC = "/inference.GRPCInferenceService/"

REST_ROWS = """
GET  /v2                                            metadata   see        none
GET  /v2/health/live                                health     see        none
GET  /v2/health/ready                               health     see        none
GET  /v2/models/stats                               metadata   see        all
GET  /v2/models/m                                   metadata   see        one  m
GET  /v2/models/m/versions/7                        metadata   see        one  m 7
GET  /v2/models/m/config                            metadata   see        one  m
GET  /v2/models/m/versions/7/config                 metadata   see        one  m 7
GET  /v2/models/m/stats                             metadata   see        one  m
GET  /v2/models/m/versions/7/stats                  metadata   see        one  m 7
GET  /v2/models/m/ready                             health     see        one  m
GET  /v2/models/m/versions/7/ready                  health     see        one  m 7
POST /v2/models/m/infer                             infer      call       one  m
POST /v2/models/m/versions/7/infer                  infer      call       one  m 7
POST /v2/models/m/generate                          generate   call       one  m
POST /v2/models/m/versions/7/generate               generate   call       one  m 7
POST /v2/models/m/generate_stream                   generate   call       one  m
POST /v2/models/m/versions/7/generate_stream        generate   call       one  m 7
POST /v2/repository/index                           repository see        all
POST /v2/repository/models/m/load                   repository administer one  m
POST /v2/repository/models/m/unload                 repository administer one  m
GET  /v2/models/m/trace/setting                     admin      administer all  m
POST /v2/models/m/trace/setting                     admin      administer all  m
GET  /v2/trace/setting                              admin      administer all
POST /v2/trace/setting                              admin      administer all
GET  /v2/logging                                    admin      administer all
POST /v2/logging                                    admin      administer all
GET  /v2/systemsharedmemory/status                  admin      administer all
GET  /v2/systemsharedmemory/region/r/status         admin      administer all
POST /v2/systemsharedmemory/register                admin      administer all
POST /v2/systemsharedmemory/region/r/register       admin      administer all
POST /v2/systemsharedmemory/unregister              admin      administer all
POST /v2/systemsharedmemory/region/r/unregister     admin      administer all
GET  /v2/cudasharedmemory/status                    admin      administer all
GET  /v2/cudasharedmemory/region/r/status           admin      administer all
POST /v2/cudasharedmemory/register                  admin      administer all
POST /v2/cudasharedmemory/region/r/register         admin      administer all
POST /v2/cudasharedmemory/unregister                admin      administer all
POST /v2/cudasharedmemory/region/r/unregister       admin      administer all
"""

GRPC_ROWS = """
ServerLive                    health     see        none
ServerReady                   health     see        none
ServerMetadata                metadata   see        none
ModelReady                    health     see        one
ModelMetadata                 metadata   see        one
ModelConfig                   metadata   see        one
ModelStatistics               metadata   see        one
ModelInfer                    infer      call       one
ModelStreamInfer              stream     call       all
RepositoryIndex               repository see        all
RepositoryModelLoad           repository administer one
RepositoryModelUnload         repository administer one
TraceSetting                  admin      administer all
LogSettings                   admin      administer all
SystemSharedMemoryStatus      admin      administer all
SystemSharedMemoryRegister    admin      administer all
SystemSharedMemoryUnregister  admin      administer all
CudaSharedMemoryStatus        admin      administer all
CudaSharedMemoryRegister      admin      administer all
CudaSharedMemoryUnregister    admin      administer all
"""


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


@pytest.mark.parametrize("row", rows(REST_ROWS), ids=lambda row: " ".join(row[:2]))
def test_every_rest_call(row: list[str]) -> None:
    method, path, kind, right, scope, model, version = [*row, "", ""][:7]
    assert classify(method, path) == Operation(Kind(kind), Right(right), ModelScope(scope), model, version)


@pytest.mark.parametrize("row", rows(GRPC_ROWS), ids=lambda row: row[0])
def test_every_rpc(row: list[str]) -> None:
    name, kind, right, scope = row
    expected = Operation(Kind(kind), Right(right), ModelScope(scope), model_from_message=scope == "one")
    assert classify("POST", GRPC + name) == expected


def test_grpc_health_checks_are_health() -> None:
    assert classify("POST", "/grpc.health.v1.Health/Check") == Operation(Kind.HEALTH, Right.SEE, ModelScope.NONE)
    assert classify("POST", "/grpc.health.v1.Health/Watch") is None  # Triton does not serve it


@pytest.mark.parametrize("row", rows(REST_ROWS), ids=lambda row: " ".join(row[:2]))
def test_near_misses_of_every_rest_call_are_no_operation(row: list[str]) -> None:
    method, path = row[:2]
    misses = [path + "/", "/" + path, path.upper(), path[1:], path + "/x", path + "?x=1", path + "\n", path + ";a=b"]
    misses += [path.replace("/v2/", "/v2//"), path.replace("/m", "/%6d"), path.replace("/m", "/m%2f")]
    assert [miss for miss in misses if miss != path and classify(method, miss) is not None] == []


@pytest.mark.parametrize("row", rows(REST_ROWS), ids=lambda row: " ".join(row[:2]))
def test_only_the_methods_that_triton_takes(row: list[str]) -> None:
    path = row[1]
    served = {method for method, served_path, *_ in rows(REST_ROWS) if served_path == path}
    served |= {"HEAD"} if "GET" in served else set()
    methods = {"GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "get", "post", ""}
    assert {method for method in methods if classify(method, path)} == served


@pytest.mark.parametrize("name", [row[0] for row in rows(GRPC_ROWS)])
def test_near_misses_of_every_rpc_are_no_operation(name: str) -> None:
    path = GRPC + name
    misses = [path[1:], path + "/", "/" + path, path.lower(), path.upper(), GRPC + "/" + name, f"{path}2", path + "?x"]
    assert [miss for miss in misses if classify("POST", miss) is not None] == []
    assert [method for method in ("GET", "PUT", "post", "") if classify(method, path) is not None] == []


@pytest.mark.parametrize("version", ["01", "0", "-1", "+1", "1abc", " 1", "1.9", "", "x", "٣", "1" * 19])
def test_a_version_has_one_spelling(version: str) -> None:
    """Triton serves most of these as version 1 (facts/triton.md 3.5)."""
    assert classify("POST", f"/v2/models/m/versions/{version}/infer") is None


@pytest.mark.parametrize("name", ["", ".", "..", "-", "a%5fb", "a b", "a;b", "é", "a\\b", "a\x00", "x" * 129, "a+b"])
def test_a_name_is_one_that_a_policy_can_speak_of(name: str) -> None:
    assert classify("POST", f"/v2/models/{name}/infer") is None
    assert classify("POST", f"/v2/repository/models/{name}/load") is None


@pytest.mark.parametrize("name", ["stats", "versions", "infer", "a.b", "...", "--", "_", "1", "x" * 128])
def test_odd_names_are_names(name: str) -> None:
    operation = classify("POST", f"/v2/models/{name}/versions/12/infer")
    assert operation == Operation(Kind.INFER, Right.CALL, ModelScope.ONE, name, "12")


def test_the_repository_may_not_be_named() -> None:
    """Triton lists everything under any repository name; one spelling of a call is enough."""
    assert classify("POST", "/v2/repository/any/index") is None
    assert classify("POST", "/v2/repository/any/models/m/load") is None


def test_every_rpc_of_tritonclient_is_classified() -> None:
    from tritonclient.grpc import service_pb2

    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    forgotten = [rpc.name for rpc in service.methods if classify("POST", f"/{service.full_name}/{rpc.name}") is None]
    assert forgotten == []
    assert {rpc.name for rpc in service.methods} == {row[0] for row in rows(GRPC_ROWS)}


def test_the_model_is_read_from_every_unary_message_that_names_one() -> None:
    from tritonclient.grpc import service_pb2

    for rpc in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        operation = classify("POST", GRPC + rpc.name)
        assert operation is not None
        fields = rpc.input_type.fields_by_name
        names_one = {"model_name", "name"} & set(fields) and not rpc.client_streaming
        assert operation.model_from_message == (bool(names_one) and operation.kind is not Kind.ADMIN), rpc.name
        if operation.model_from_message:
            said = {"model_name": "model", "name": "model", "model_version": "version", "version": "version"}
            named = {field.number: said[name] for name, field in fields.items() if name in said}
            assert naming_fields(GRPC + rpc.name) == named, rpc.name


# What Triton 2.51 (and its main branch in 2026) answers, written down from the patterns in facts/protocol.md 2.3.
TRITON = [
    "/v2(?:/health/(?:live|ready))?",
    "/v2/models/[^/]+(?:/versions/[0-9]+)?(?:/(?:infer|generate|generate_stream|ready|config|stats))?",
    "/v2/models/[^/]+/trace/setting",
    "/v2/repository(?:/[^/]+)?/(?:index|models/[^/]+/(?:load|unload))",
    "/v2/(?:system|cuda)sharedmemory(?:/region/[^/]+)?/(?:status|register|unregister)",
    "/v2/(?:trace/setting|logging|models/stats)",
]
PIECES = [
    "",
    "v2",
    "models",
    "m",
    "versions",
    "1",
    "infer",
    "ready",
    ".",
    "..",
    "%41",
    "stats",
    "trace",
    "setting",
    "load",
]
STRICTER = re.compile(r"/v2/repository/[^/]+/(?:index|models/.*)")
CANONICAL = {"[^/]+": "-?[A-Za-z0-9_][A-Za-z0-9_-]{0,11}", "[0-9]+": "[1-9][0-9]{0,4}"}


def canonical(pattern: str) -> str:
    for loose, strict in CANONICAL.items():
        pattern = pattern.replace(loose, strict)
    return pattern


@settings(max_examples=60)
@given(st.one_of([st.from_regex(canonical(pattern), fullmatch=True) for pattern in TRITON]))
def test_whatever_triton_serves_is_classified(path: str) -> None:
    expected_none = STRICTER.fullmatch(path) and not re.fullmatch("/v2/repository/models/[^/]+/(?:load|unload)", path)
    assert (not classify("GET", path) and not classify("POST", path)) == bool(expected_none)


@settings(max_examples=60)
@given(st.text(max_size=40), st.lists(st.sampled_from(PIECES)))
def test_whatever_is_classified_triton_serves(text: str, words: list[str]) -> None:
    for path in (text, "/" + "/".join(words), "/v2/models/" + text, "/v2/models/m/" + text):
        if classify("GET", path) or classify("POST", path):
            assert any(re.fullmatch(pattern, path) for pattern in TRITON)


def test_the_surface_names_every_call_once() -> None:
    calls = list(surface())
    assert len(calls) == len(set(calls))
    assert ("POST", "/inference.GRPCInferenceService/ModelInfer") in calls
    for method, template in calls:
        assert classify(method, template.format(model="m", version="1", region="r")) is not None
