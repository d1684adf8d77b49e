"""The gateway limits requests by the address of the caller, before anybody is asked."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import httpx
import pytest
from msgspec.structs import replace
from tritonclient.grpc import service_pb2

from ext_authz.policy.model import Cors
from tests.e2e.render.test_rendered import INFER
from tests.e2e.render.world import MESH, MESHES, World, running_world
from tests.unit.render.policies import EVERYDAY, of_kinds

RPC = "/inference.GRPCInferenceService/ModelInfer"
RATE = 5
MANY = 3 * RATE
PAGE = "https://app.example"


@pytest.fixture(scope="module", params=MESHES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Behind one proxy of ours."""
    policy = of_kinds(*EVERYDAY, trusted_hops=2, cors=Cors(origins=(PAGE,)))
    directory = tmp_path_factory.mktemp("addresses")
    with running_world(request.param, policy, directory, mesh=replace(MESH, address_rate=RATE)) as world:
        yield world


def calls(world: World, forwarded_for: str) -> list[httpx.Response]:
    headers = {"x-forwarded-for": forwarded_for, "authorization": "Bearer alice", "origin": PAGE}
    with httpx.Client(base_url=world.url, headers=headers, timeout=10) as caller:
        return [caller.post(INFER, json={}) for _ in range(MANY)]


def test_a_flood_is_refused_before_the_check_and_others_are_served(world: World) -> None:
    answers = calls(world, "192.0.2.1")
    served = [answer for answer in answers if answer.status_code == httpx.codes.OK]
    refused = [answer for answer in answers if answer.status_code != httpx.codes.OK]
    assert len(served) >= RATE
    assert refused
    assert len(world.authorizer.asked) == len(served)
    assert {answer.status_code for answer in refused} == {httpx.codes.TOO_MANY_REQUESTS}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert {answer.headers["access-control-allow-origin"] for answer in refused} == {PAGE}
    assert {answer.headers["content-type"] for answer in refused} == {"application/problem+json"}
    assert {answer.json()["code"] for answer in refused} == {"address_rate_limited"}
    assert calls(world, "192.0.2.2")[0].status_code == httpx.codes.OK


def test_what_a_caller_writes_left_of_our_proxies_entry_does_not_count(world: World) -> None:
    statuses = [call.status_code for n in range(3) for call in calls(world, f"198.51.100.{n}, 192.0.2.3")]
    assert httpx.codes.TOO_MANY_REQUESTS in statuses[: 2 * RATE]


def test_addresses_of_one_network_of_ipv6_count_together(world: World) -> None:
    statuses = [calls(world, f"2001:db8::{n}")[-1].status_code for n in range(1, 4)]
    assert httpx.codes.TOO_MANY_REQUESTS in statuses
    assert calls(world, "2001:db8:0:1::1")[0].status_code == httpx.codes.OK


def test_over_grpc_it_is_a_status(world: World) -> None:
    message = service_pb2.ModelInferRequest(model_name="sentiment").SerializeToString()
    refused = set()
    with grpc.insecure_channel(world.address) as channel:
        for _ in range(MANY):
            try:
                channel.unary_unary(RPC)(message, timeout=5)
            except grpc.RpcError as error:
                refused.add((error.code(), error.details()))
    detail = "address_rate_limited: too many requests from this address, try again"
    assert refused == {(grpc.StatusCode.RESOURCE_EXHAUSTED, detail)}
