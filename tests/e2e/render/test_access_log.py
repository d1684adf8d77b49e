"""What became of an allowed call reaches the usage worker under the id of its decision, which no caller can choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import uuid4

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2

from ext_authz.decision import Deny, Reason
from tests.e2e.render.test_local_replies import BOUNDS, CALL, INFER, LOST, VARIANTS
from tests.e2e.render.world import HANGS, RENDERERS, World, running_world
from tests.services import wait_for
from tests.unit.render.policies import EVERYDAY, of_kinds


@pytest.fixture(scope="module", params=RENDERERS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    policy = of_kinds(*EVERYDAY, experiments={"sentiment": VARIANTS})
    with running_world(request.param, policy, tmp_path_factory.mktemp("outcomes"), BOUNDS) as world:
        yield world


@pytest.mark.parametrize(
    ("path", "headers", "status", "flag", "details"),
    [
        (INFER, {}, 200, "", "via_upstream"),
        (INFER, {HANGS: "1"}, 504, "upstream_request_timeout", "response_timeout"),
        (INFER, LOST, 503, "upstream_connection_", "upstream_reset_before_response_started"),
        ("/v2/not-rendered", {}, 404, "", "direct_response"),
    ],
)
def test_the_outcome_is_what_the_caller_got(
    world: World, path: str, headers: Mapping[str, str], status: int, flag: str, details: str
) -> None:
    answer = httpx.post(world.url + path, content=b"x" * 100, headers=headers)
    outcome = world.usage_worker.outcome(answer.headers["x-decision-id"])

    assert answer.status_code == outcome.status == status
    assert flag in outcome.flags
    assert outcome.details.startswith(details)
    assert outcome.bytes_out == len(answer.content)
    assert (status == 504) == (outcome.duration_ms >= 490)  # timers may be early by a part of a millisecond
    if status == 200:
        assert outcome.bytes_in == 100
        assert "triton" in outcome.upstream
        assert outcome.upstream_address.startswith("127.0.0.")


@pytest.mark.parametrize(("hangs", "status"), [(False, 0), (True, 4)])
def test_a_call_over_grpc_has_the_status_of_grpc(world: World, *, hangs: bool, status: int) -> None:
    message = service_pb2.ModelInferRequest(model_name="sentiment").SerializeToString()
    with grpc.insecure_channel(world.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CALL)
        ended = call.future(message, metadata=((HANGS, "1"),) if hangs else ())
        assert ended.code().value[0] == status, ended.details()
        metadata = dict((*ended.initial_metadata(), *ended.trailing_metadata()))
    outcome = world.usage_worker.outcome(str(metadata["x-decision-id"]))
    assert (outcome.status, outcome.grpc_status) == (200, status)


def test_an_id_that_a_caller_sends_is_nobodys(world: World) -> None:
    forged = str(uuid4())
    headers = dict.fromkeys(("x-decision-id", "x-request-id", "x-authz-decision-id", "x-envoy-metadata"), forged)
    answer = httpx.post(world.url + INFER, content=b"{}", headers=headers)
    real = answer.headers["x-decision-id"]

    assert real != forged
    assert world.usage_worker.outcome(real).status == 200
    assert forged not in {str(one.decision_id) for one in world.usage_worker.outcomes if one}


def test_refused_and_unchecked_calls_have_no_outcome(world: World) -> None:
    world.authorizer.fails = Deny(str(uuid4()), Reason.FORBIDDEN, "role_missing", "no")
    assert httpx.post(world.url + INFER, content=b"{}").status_code == 403
    world.authorizer.fails = None
    assert httpx.post(world.url + INFER, content=b"x" * ((1 << 20) + 1)).status_code == 413
    last = httpx.post(world.url + INFER, content=b"{}").headers["x-decision-id"]
    wait_for(lambda: bool(world.usage_worker.outcome(last)))

    assert None not in world.usage_worker.outcomes, "Envoy sends no others"
