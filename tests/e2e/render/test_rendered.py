"""What the rendered configuration does in a real Envoy: alone, and as the gateway of a mesh."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2

from ext_authz.decision import Deny, Reason
from ext_authz.policy.kserve import Kind
from ext_authz.policy.model import Policy, Route
from ext_authz.render.endpoints import Timeouts
from tests.e2e.render.world import RENDERERS, World, running_world, sent
from tests.services import wait_for
from tests.unit.render.policies import CANARY, EVERYDAY, at, demo, of_kinds, policy

INFER = "/v2/models/sentiment/infer"
OTHER = "/v2/models/cancer/infer"
USERS = [f"user-{number}" for number in range(200)]
EXPERIMENT = of_kinds(*EVERYDAY, experiments={"sentiment": CANARY})


@pytest.fixture(scope="module", params=RENDERERS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(request.param, EXPERIMENT, tmp_path_factory.mktemp("rendered")) as world:
        yield world


def post(caller: httpx.Client, path: str, user: str, **headers: str) -> tuple[str, dict[str, str]]:
    """Who answered, and the headers that reached it."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = caller.post(path, json={}, headers={"authorization": f"Bearer {user}", **given}).raise_for_status().json()
    return answer["model"], answer["headers"]


def test_a_user_stays_with_one_variant_and_the_share_is_near_the_weight(world: World, caller: httpx.Client) -> None:
    with ThreadPoolExecutor(4) as callers:  # a client may be shared
        answers = list(callers.map(lambda user: (user, post(caller, INFER, user)[0]), USERS * 20))
    seen = {user: {variant for of, variant in answers if of == user} for user in USERS}
    assert len(answers) == 4000
    assert [user for user, variants in seen.items() if len(variants) > 1] == []
    share = Counter(variant for variants in seen.values() for variant in variants)
    # 20 of 200 are expected; 6 standard deviations would be 25 more.
    assert 5 <= share["canary"] <= 40
    assert seen == {user: {world.authorizer.variant(user)} for user in USERS}


def test_a_forged_variant_is_powerless(world: World, caller: httpx.Client) -> None:
    for user in USERS[:20]:
        for forged in ("canary", "stable", "x"):
            assert post(caller, INFER, user, x_model_variant=forged)[0] == world.authorizer.variant(user)
            # This model is in no experiment.
            model, headers = post(caller, OTHER, user, x_model_variant=forged)
            assert (model, headers["x-model-variant"]) == ("stable", "-")


def test_a_forged_variant_is_powerless_even_where_the_authorizer_sets_none(world: World, caller: httpx.Client) -> None:
    world.authorizer.is_silent = True
    model, headers = post(caller, INFER, "alice", x_model_variant="canary")
    assert model == "stable"
    assert "x-model-variant" not in headers


def test_a_caller_who_may_chooses_the_variant(world: World, caller: httpx.Client) -> None:
    assert {post(caller, INFER, user, x_experiment="canary")[0] for user in USERS[:20]} == {"canary"}
    assert {world.authorizer.variant(user) for user in USERS[:20]} >= {"stable"}


def test_the_variant_of_a_grpc_call_is_that_of_the_model_in_its_message(world: World) -> None:
    with grpc.insecure_channel(world.address) as channel:
        infer = _infer(channel)
        for user in USERS[:40]:
            metadata = (("authorization", f"Bearer {user}"), ("x-model-variant", "canary"))
            assert infer(_request("sentiment"), metadata=metadata) == world.authorizer.variant(user)
            assert infer(_request("cancer"), metadata=metadata) == "stable"
    assert world.canary.reached


def _infer(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable[service_pb2.ModelInferRequest, str]:
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=bytes.decode,
    )


def _request(model: str, size: int = 0) -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[bytes(size)])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2/repository/index",
        "/v2/repository/models/sentiment/load",
        "/v2/systemsharedmemory/status",
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/models/sentiment/trace/setting",
        "/v2/models/sentiment/infer/",
        "/v2/models/sentiment/infer/x",
        "/V2/models/sentiment/infer",
        "/inference.GRPCInferenceService/RepositoryModelLoad",
        "/inference.GRPCInferenceService/ModelInfer",  # not called as gRPC
    ],
)
def test_a_path_of_no_route_is_checked_and_reaches_no_model(world: World, caller: httpx.Client, path: str) -> None:
    answer = caller.post(path, json={}, headers={"x-model-variant": "canary"})
    assert answer.status_code == 404
    assert [attributes.request.http.path for attributes in world.authorizer.asked] == [path]
    assert world.reached() == []


def test_no_rpc_that_no_rule_serves_reaches_anybody(world: World) -> None:
    with grpc.insecure_channel(world.address) as channel:
        for name in ("RepositoryModelLoad", "RepositoryIndex", "LogSettings", "SystemSharedMemoryRegister"):
            with pytest.raises(grpc.RpcError) as refused:
                _call(channel, f"/inference.GRPCInferenceService/{name}")
            assert isinstance(refused.value, grpc.Call)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert len(world.authorizer.asked) == 4
    assert world.reached() == []


def _call(channel: grpc.Channel, path: str) -> bytes:
    rpc = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
    return rpc(b"")


@pytest.mark.parametrize("path", ["/v2/models/sentiment%2finfer", "/v2/models/x%2f..%2fsentiment/infer"])
def test_an_escaped_slash_is_refused_before_anybody_reads_it(world: World, caller: httpx.Client, path: str) -> None:
    assert caller.post(path, json={}).status_code == 400
    assert world.authorizer.asked == []
    assert world.reached() == []


def test_the_authorizer_is_shown_what_the_policy_asks_about_and_nothing_else(
    world: World, caller: httpx.Client
) -> None:
    model, headers = post(
        caller, OTHER, "alice", cookie="session=1", x_secret="1", x_experiment="canary", user_agent="a"
    )
    (asked,) = world.authorizer.asked
    shown = sent(asked)
    assert set(shown) == {"authorization", "content-length", "content-type", "x-experiment", "x-forwarded-for"}
    assert shown["authorization"] == ["Bearer alice"]
    # The form that `encode_raw_headers` selects, and only that one.
    assert dict(asked.request.http.headers) == {}
    assert (asked.request.http.method, asked.request.http.path, asked.request.http.host) == (
        "POST",
        OTHER,
        world.address,
    )
    assert (model, headers["cookie"], headers["x-secret"]) == ("stable", "session=1", "1")


def test_callers_cannot_set_headers_of_the_authorizer_or_of_envoy(world: World, caller: httpx.Client) -> None:
    forged = {
        "x_client_id": "f",
        "x_user_id": "f",
        "x_user_roles": "f",
        "x_token_issuer": "f",
        "x_authz_model": "f",
        "x_authz_version": "f",
        "x_decision_id": "f",
        "X_Envoy_Auth_Partial_Body": "f",
        "x_envoy_auth_failure_mode_allowed": "f",
        "x_envoy_upstream_rq_timeout_ms": "1",
        "x_envoy_retry_on": "5xx",
        "x_envoy_original_path": "/f",
    }
    _, headers = post(caller, OTHER, "alice", **forged)
    assert (headers["x-user-id"], headers["x-client-id"], headers["x-authz-model"]) == ("alice", "web-app", "cancer")
    assert not {"f", "5xx", "/f"} & set(headers.values())

    world.authorizer.is_silent = True
    _, headers = post(caller, OTHER, "alice", **forged)
    assert not {"f", "5xx", "/f"} & set(headers.values())
    assert not {name for name in headers if name.startswith(("x-user", "x-client", "x-envoy-auth"))}


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_without_a_verdict_the_caller_learns_what_to_do(
    world: World, caller: httpx.Client, status: grpc.StatusCode
) -> None:
    """Of an authorizer that is away, or has no time."""
    world.authorizer.fails = status
    answer = caller.post(INFER, json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (503, "unavailable")
    assert "try again" in problem["detail"]
    refused = rpc_error(world)
    assert (refused.code(), refused.details()) == (grpc.StatusCode.UNAVAILABLE, f"unavailable: {problem['detail']}")
    assert world.reached() == []


def test_envoy_itself_refuses_more_checks_than_may_be_in_flight(tmp_path: Path) -> None:
    with (
        running_world("envoy", EXPERIMENT, tmp_path, Timeouts(checks=2)) as world,
        httpx.Client(base_url=world.url, timeout=10) as caller,
        ThreadPoolExecutor(2) as callers,
    ):
        world.authorizer.may_answer.clear()
        first = [callers.submit(post, caller, INFER, "alice") for _ in range(2)]
        wait_for(lambda: len(world.authorizer.asked) == 2)
        refused = caller.post(INFER, json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["code"] == "unavailable"
        world.authorizer.may_answer.set()
        assert [each.result()[0] for each in first] == ["stable"] * 2
        assert len(world.authorizer.asked) == 2


def test_the_authorizers_answer_about_an_outage_is_not_replaced(world: World, caller: httpx.Client) -> None:
    outage = Deny(str(uuid.uuid4()), Reason.UNAVAILABLE, "unavailable", "redis is away", retry_after=7)
    world.authorizer.fails = outage
    answer = caller.post(INFER, json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["decision_id"] == outage.decision_id
    metadata = cast("tuple[tuple[str, str], ...]", rpc_error(world).trailing_metadata())
    assert ("x-decision-id", outage.decision_id) in metadata


def rpc_error(world: World) -> grpc.RpcError:
    with grpc.insecure_channel(world.address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
            service_pb2.ModelInferRequest(model_name="sentiment").SerializeToString(), timeout=5
        )
    return refused.value


def test_the_body_of_a_rest_call_is_json_and_small(world: World, caller: httpx.Client) -> None:
    _, headers = post(caller, OTHER, "alice", content_type="application/x-www-form-urlencoded")
    assert headers["content-type"] == "application/json"
    assert caller.post(OTHER, content=b"x" * 9_000_000).status_code == 413
    assert world.reached() == [OTHER]


def test_a_grpc_message_may_be_large_but_not_endless(world: World) -> None:
    with grpc.insecure_channel(world.address, [("grpc.max_send_message_length", -1)]) as channel:
        infer = _infer(channel)
        assert infer(_request("cancer", 30_000_000)) == "stable"
        with pytest.raises(grpc.RpcError, match="larger than 67108864 bytes") as refused:
            infer(_request("cancer", 70_000_000))
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(world.reached()) == len(world.authorizer.asked) == 1


_NO_LIMIT = "There is no configured limit to the number of allowed active downstream connections"
"""What Envoy says without an overload manager."""
POLICIES = {
    "demo": demo(),
    "everything": of_kinds(*Kind, experiments={"sentiment": CANARY}),
    "all of a service": policy(at("/inference.GRPCInferenceService/{method}", grpc=True), at("/files/{rest=**}")),
    "another service": policy(at("/acme.Ranker/{method}", grpc=True)),
    "thousands": policy(*(at(f"/v2/teams/team-{number}/{{model}}/{{rest=**}}") for number in range(3000))),
    "a long path": policy(at("/" + "/".join(["a" * 100] * 9))),
    "odd characters": policy(Route("odd", path="/a.b~c!$&'()*+,=:@-/{x}", methods=frozenset({"GET"}))),
}


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("rendered", POLICIES.values(), ids=POLICIES)
def test_envoy_takes_it(rendered: Policy, renderer: str, tmp_path: Path) -> None:
    """With nothing deprecated, and nothing unknown."""
    with running_world(renderer, rendered, tmp_path) as world, httpx.Client(base_url=world.url) as caller:
        assert caller.post("/of-no-route").status_code == 404
    if renderer == "envoy":
        logged = (tmp_path / "envoy.log").read_text().splitlines()
        assert [line for line in logged if not line.endswith("caught ENVOY_SIGTERM") and _NO_LIMIT not in line] == []
