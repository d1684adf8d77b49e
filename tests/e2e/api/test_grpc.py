"""The gRPC interface does what REST does; every cause has its status."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ext_authz.api.grpc_services import REVOCATIONS, TOKENS
from ext_authz.gen.tollgate.revocation.v1 import revocation_pb2
from ext_authz.gen.tollgate.tokens.v1 import tokens_pb2
from tests.e2e.api.world import World, admin, alice, bob
from tests.tokens import ALICE

BOBS = revocation_pb2.Target(kind=revocation_pb2.KIND_SESSION, issuer="demo", value="bobs-session")


async def called(world: World, method: str, token: str, **fields: Any) -> Any:  # noqa: ANN401 - an answer
    service, package = (
        (TOKENS, tokens_pb2) if hasattr(tokens_pb2, f"{method}Request") else (REVOCATIONS, revocation_pb2)
    )
    request, answer = getattr(package, f"{method}Request")(**fields), getattr(package, f"{method}Response")
    return await world.grpc(service, method, request, answer, token)


def days(number: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(days=number))
    return duration


async def test_a_grant_lives(world: World) -> None:
    choices = await called(world, "GetChoices", alice())
    assert (list(choices.models), choices.left) == (["sentiment", "fraud-*"], 5)
    made = await called(
        world, "CreateGrant", alice(), name="n", lifetime=days(1), models=tokens_pb2.Names(names=["sentiment"])
    )
    assert made.token.startswith("tgl_")
    assert (made.grant.owner.subject, made.grant.state) == (ALICE, tokens_pb2.GRANT_STATE_ACTIVE)
    renewed = await called(world, "RenewGrant", alice(), id=made.grant.id, grace=days(0), version=1)
    assert (renewed.grant.id, renewed.grant.version) == (made.grant.id, 2)
    for fields, code in (
        ({"id": made.grant.id, "version": 1}, grpc.StatusCode.ABORTED),
        ({"name": "n", "lifetime": days(1)}, grpc.StatusCode.ALREADY_EXISTS),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called(world, "RenewGrant" if "id" in fields else "CreateGrant", alice(), **fields)
        assert refused.value.code() is code
    assert len((await called(world, "GetGrant", alice(), id=made.grant.id)).grant.tokens) == 2
    await called(world, "RevokeGrant", alice(), id=made.grant.id, reason="done")
    listed = await called(world, "ListGrants", alice(), state=tokens_pb2.GRANT_STATE_REVOKED)
    assert [grant.id for grant in listed.grants] == [made.grant.id]
    audit = await called(world, "ListAuditEntries", admin(), object=f"grant:{made.grant.id}")
    assert {entry.via for entry in audit.entries} <= {"grpc"}


async def test_revocations(world: World) -> None:
    target = revocation_pb2.Target(kind=revocation_pb2.KIND_USER, issuer="demo", value=ALICE)
    of_alice = alice()
    assert not (await called(world, "Preview", admin(), target=target)).in_force
    made = await called(world, "Revoke", admin(), target=target, reason="left")
    assert (made.revocation.target.value, made.again) == (ALICE, False)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await called(world, "ListGrants", of_alice)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert len((await called(world, "ListRevocations", admin())).revocations) == 1
    await called(world, "Lift", admin(), target=target)
    assert (await called(world, "ListGrants", of_alice)).cursor == ""


@pytest.mark.parametrize(
    ("method", "caller", "fields", "code"),
    [
        ("ListGrants", str, {}, "UNAUTHENTICATED"),
        ("CreateGrant", alice, {"name": "n"}, "INVALID_ARGUMENT"),
        ("CreateGrant", alice, {"name": "n", "lifetime": Duration(seconds=10**14)}, "INVALID_ARGUMENT"),
        ("CreateGrant", alice, {"name": "n\0", "lifetime": days(1)}, "INVALID_ARGUMENT"),
        ("CreateGrant", alice, {"name": "n", "lifetime": days(1), "scopes": ["x" * 300]}, "INVALID_ARGUMENT"),
        ("CreateGrant", alice, {"name": "n", "lifetime": days(1), "scopes": ["admin"]}, "PERMISSION_DENIED"),
        ("GetGrant", alice, {"id": "1"}, "INVALID_ARGUMENT"),
        ("GetGrant", alice, {"id": "00000000-0000-4000-8000-000000000000"}, "NOT_FOUND"),
        ("ListGrants", alice, {"limit": 201}, "INVALID_ARGUMENT"),
        ("ListGrants", alice, {"issuer": "a\nb"}, "INVALID_ARGUMENT"),
        ("ListGrants", alice, {"state": 99}, "INVALID_ARGUMENT"),
        ("ListRevocations", admin, {"kind": 99}, "INVALID_ARGUMENT"),
        ("Revoke", admin, {"target": BOBS, "lifetime": Duration(seconds=283_824_000_000)}, "INVALID_ARGUMENT"),
        ("Revoke", admin, {"target": BOBS, "lifetime": Duration(seconds=-5)}, "INVALID_ARGUMENT"),
        ("Lift", admin, {"target": BOBS}, "NOT_FOUND"),
        ("ListGrants", bob, {"everybody": True}, "PERMISSION_DENIED"),
        ("ListRevocations", bob, {}, "PERMISSION_DENIED"),
        ("Revoke", admin, {}, "INVALID_ARGUMENT"),
    ],
)
async def test_every_cause_has_its_status(
    world: World, method: str, caller: Callable[[], str], fields: dict[str, object], code: str
) -> None:
    """Tokens are made here: of those made at the beginning of a long run, the last ones would have expired."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await called(world, method, caller(), **fields)
    assert refused.value.code().name == code, refused.value.details()
    assert "relation" not in (refused.value.details() or ""), "this is a sentence of Postgres"


async def test_health_is_for_everybody(world: World) -> None:
    stub: Any = health_pb2_grpc.HealthStub(world.channel)
    for name in ("", TOKENS, REVOCATIONS):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status is health_pb2.HealthCheckResponse.SERVING
    for call, code in (
        (stub.Check(health_pb2.HealthCheckRequest(service="nobody")), grpc.StatusCode.NOT_FOUND),
        (anext(aiter(stub.Watch(health_pb2.HealthCheckRequest()))), grpc.StatusCode.UNIMPLEMENTED),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is code


async def test_reflection_is_for_callers(world: World) -> None:
    """With it, generic clients such as grpcurl need no protos."""
    channel: Any = world.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=TOKENS),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=REVOCATIONS),
    ]
    for token in ("", "nonsense"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ServerReflectionInfo(metadata=_bearer(token)).read()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    answers = [each async for each in stub.ServerReflectionInfo(iter(asked), metadata=_bearer(alice()))]
    listed, *files = answers
    assert {TOKENS, REVOCATIONS} < {service.name for service in listed.list_services_response.service}
    for answer, module in zip(files, (tokens_pb2, revocation_pb2), strict=True):
        assert module.DESCRIPTOR.serialized_pb in answer.file_descriptor_response.file_descriptor_proto


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()
