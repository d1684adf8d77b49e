"""What SERVING stands for."""

from __future__ import annotations

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ext_authz.server.messages import Report
from ext_authz.server.rpc import Code, Health, RpcFailure


async def status(health: Health, service: str) -> int:
    answer = await health.check(HealthCheckRequest(service=service).SerializeToString())
    return HealthCheckResponse.FromString(answer).status


def health_of(up: dict[str, bool]) -> Health:
    return Health(lambda: Report(up=up, lacking=tuple(name for name, works in up.items() if not works)))


async def test_not_serving_until_every_dependency_has_answered() -> None:
    up = {"redis": False, "postgres": True}
    health = health_of(up)
    assert not health.serving
    up["redis"] = True
    assert health.serving


async def test_a_dependency_that_goes_away_is_reported_and_does_not_take_the_server_out() -> None:
    up = {"redis": True}
    health = health_of(up)
    assert health.serving
    up["redis"] = False
    assert await status(health, "redis") == HealthCheckResponse.NOT_SERVING
    assert await status(health, "") == HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", ["", "envoy.service.auth.v3.Authorization"])
async def test_draining_is_not_serving(service: str) -> None:
    health = health_of({})
    assert await status(health, service) == HealthCheckResponse.SERVING
    health.draining = True
    assert await status(health, service) == HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(
    ("message", "code"),
    [(HealthCheckRequest(service="mysql").SerializeToString(), Code.NOT_FOUND), (b"\xff", Code.INTERNAL)],
)
async def test_refusals(message: bytes, code: Code) -> None:
    with pytest.raises(RpcFailure) as failure:
        await health_of({}).check(message)
    assert failure.value.code is code
