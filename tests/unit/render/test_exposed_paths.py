"""From the policy to what is routed at all."""

from __future__ import annotations

import re

import pytest

from ext_authz.policy.kserve import Kind, classify, rest_paths, rpc_paths
from ext_authz.policy.model import Route
from ext_authz.policy.names import Encoding
from ext_authz.render.exposed_paths import exposed_paths
from tests.unit.render.policies import CANARY, at, of_kinds, policy


def quota_requests(patterns: tuple[str, ...], path: str) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)


@pytest.mark.parametrize(
    ("template", "taken", "not_taken"),
    [
        ("/v2/health/live", ["/v2/health/live"], ["/v2/health/live/", "/v2/health/liveX", "/X/v2/health/live"]),
        ("/a.b/{x}", ["/a.b/1"], ["/aXb/1", "/a.b/", "/a.b/1/2"]),
        ("/a/{x}/c", ["/a/b/c"], ["/a//c", "/a/b/b/c", "/a/%20/c"]),
        ("/files/{rest=**}", ["/files/a", "/files/a/b"], ["/files/", "/files", "/files/%20"]),
        ("/m/{model}:go", ["/m/a:go"], ["/m/:go", "/m/a", "/m/a:b:go", "/m/a:go/", "/m/a%3Ab:go", "/m/a/b:go"]),
        ("/a(b)+$/{x}", ["/a(b)+$/1"], ["/ab/1"]),
    ],
)
def test_templates(template: str, taken: list[str], not_taken: list[str]) -> None:
    found = exposed_paths(policy(at(template))).rest
    assert [path for path in taken if not quota_requests(found, path)] == []
    assert [path for path in not_taken if quota_requests(found, path)] == []


@pytest.mark.parametrize("encoding", [Encoding.OPAQUE, Encoding.DECODED])
@pytest.mark.parametrize(
    ("template", "taken", "not_taken"),
    [
        ("/a/{x}", ["/a/b%20c", "/a/b"], ["/a/b%20c/", "/a"]),
        ("/files/{rest=**}", ["/files/%20/%C3%A9", "/files/a"], ["/files/", "/files"]),
        ("/m/{model}:go", ["/m/a%20b:go"], ["/m/:go", "/m/a:b:go"]),
    ],
)
def test_escapes(template: str, taken: list[str], not_taken: list[str], encoding: Encoding) -> None:
    route = Route("escapes", template, frozenset({"GET"}), encoding=encoding)
    found = exposed_paths(policy(route)).rest
    assert [path for path in taken if not quota_requests(found, path)] == []
    assert [path for path in not_taken if quota_requests(found, path)] == []


def test_one_path_is_one_pattern_whatever_its_placeholders_are_called() -> None:
    found = exposed_paths(policy(at("/a/{x}"), at("/a/{y}"), at("/b"))).rest
    assert found == ("/a/[^/%]+|/b",)


def test_many_paths_are_few_patterns() -> None:
    """Istio takes none of more than 1024 characters."""
    found = exposed_paths(policy(*(at(f"/team-{number}/{{model}}") for number in range(120)))).rest
    assert [len(pattern) for pattern in found] == [1009, 1021, 17]
    assert quota_requests(found, "/team-119/x")
    assert not quota_requests(found, "/team-120/x")


def test_an_operation_is_its_rest_and_its_grpc_calls() -> None:
    found = exposed_paths(of_kinds(Kind.INFER))
    assert quota_requests(found.rest, "/v2/models/m/versions/1/infer")
    assert quota_requests(found.rpcs, "/inference.GRPCInferenceService/ModelInfer")
    assert found.streams == ()
    assert found.naming_rpcs == ("/inference.GRPCInferenceService/ModelInfer",)


@pytest.mark.parametrize("kind", Kind)
def test_every_call_of_a_kind_is_one_of_that_kind(kind: Kind) -> None:
    calls = [(method, path) for path in rest_paths(kind) for method in ("GET", "POST")]
    calls += [("POST", path) for path in rpc_paths(kind)]
    said = {path: classify(method, path.format(model="m", version="1", region="r")) for method, path in calls}
    assert {operation.kind for operation in said.values() if operation} == {kind}


def test_all_methods_of_tritons_service_are_those_that_we_know() -> None:
    found = exposed_paths(policy(at("/inference.GRPCInferenceService/{method}", grpc=True)))
    assert quota_requests(found.rpcs, "/inference.GRPCInferenceService/RepositoryModelLoad")
    assert not quota_requests(found.rpcs, "/inference.GRPCInferenceService/Anything")
    assert quota_requests(found.streams, "/inference.GRPCInferenceService/ModelStreamInfer")
    assert "/inference.GRPCInferenceService/RepositoryModelLoad" in found.naming_rpcs
    assert "/inference.GRPCInferenceService/TraceSetting" not in found.naming_rpcs
    assert "/inference.GRPCInferenceService/ModelStreamInfer" not in found.naming_rpcs


def test_all_methods_of_another_service_are_any() -> None:
    found = exposed_paths(policy(at("/acme.Ranker/{method}", grpc=True)))
    assert quota_requests(found.rpcs, "/acme.Ranker/Rank")
    assert not quota_requests(found.rpcs, "/acme.Ranker/Rank/x")
    assert found.rest == found.naming_rpcs == ()


def test_variants_of_all_experiments_by_name() -> None:
    assert exposed_paths(of_kinds(Kind.INFER, experiments={"sentiment": CANARY, "x": CANARY})).variants == (
        "stable",
        "canary",
    )
