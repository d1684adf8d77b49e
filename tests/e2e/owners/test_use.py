"""API tokens at two replicas behind real Envoys: what is taken from their owner, and what is revoked, is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from msgspec.structs import replace
from psycopg import sql

from ext_authz.identity.api_tokens import unwrap
from ext_authz.revocation.entry import Kind
from ext_authz.tokens.model import Actor, NotDone
from tests.e2e.owners.world import POLL, World, running_world
from tests.e2e.tokens.world import claims_of, with_token
from tests.services import running_redis, wait_for
from tests.tokens import mint

ISSUER = "https://kc.example/realms/ml"
REPLICAS = (0, 1)


@pytest.fixture(scope="module")
def world(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS owners WITH (FORCE)"))
        admin.execute(sql.SQL("CREATE DATABASE owners"))
    database_url = postgres_server.replace("/postgres?", "/owners?")
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        running_world(tmp_path_factory.mktemp("owners"), redis.url, database_url) as running,
    ):
        yield running


def codes(world: World, token: str, model: str = "small") -> list[tuple[int, str]]:
    """At each replica: the status, and the code of a refusal."""
    answers = [world.rest(token, model, replica) for replica in REPLICAS]
    return [(answer.status_code, "" if answer.is_success else answer.json()["code"]) for answer in answers]


def ensure_from_now_on(world: World, token: str, model: str, expected: tuple[int, str]) -> None:
    """Within the period of the feed everywhere, and at every call after the first refusal."""
    started = time.monotonic()
    for replica in REPLICAS:
        wait_for(lambda replica=replica: world.rest(token, model, replica).status_code == expected[0])
    assert time.monotonic() - started < POLL + 5
    assert {code for _ in range(20) for code in codes(world, token, model)} == {expected}


def test_it_is_its_owner_at_the_model(world: World) -> None:
    token = world.makes(world.signs_in("anna", "infer")).token
    world.upstream.reached.clear()
    assert codes(world, token) == [(200, ""), (200, "")]
    assert world.rpc(token) is grpc.StatusCode.OK
    for request in world.upstream.reached:
        assert request.all("x-user-id") == ["anna"]
        assert request.all("x-client-id") == ["tollgate:ci"]
        assert not request.all("authorization")


def test_its_models_over_both_protocols(world: World) -> None:
    token = world.makes(world.signs_in("ben", "infer"), models=("small",)).token
    assert [codes(world, token, model)[0] for model in ("small", "large", "secret")] == [
        (200, ""),
        (403, "model_forbidden"),
        (403, "model_forbidden"),
    ]
    assert "limited to other models" in world.rest(token, "large").json()["detail"]
    assert world.rpc(token) is grpc.StatusCode.OK
    assert world.rpc(token, "large") is grpc.StatusCode.PERMISSION_DENIED


def test_a_role_that_its_owner_loses(world: World) -> None:
    token = world.makes(world.signs_in("cara", "infer", "doctor")).token
    assert codes(world, token, "secret") == [(200, ""), (200, "")]
    world.polled("cara", "infer")
    ensure_from_now_on(world, token, "secret", (403, "model_forbidden"))
    assert codes(world, token) == [(200, ""), (200, "")], "it lives on without the role"
    world.signs_in("cara", "infer", "doctor")
    world.polled("cara", "infer", "doctor")
    for replica in REPLICAS:
        wait_for(lambda replica=replica: world.rest(token, "secret", replica).is_success)


def test_an_owner_who_is_disabled(world: World) -> None:
    token = world.makes(world.signs_in("dora", "infer")).token
    other = world.makes(world.signs_in("emil", "infer")).token
    assert codes(world, token) == codes(world, other) == [(200, ""), (200, "")]
    world.polled("dora", enabled=False)
    ensure_from_now_on(world, token, "small", (401, "user_disabled"))
    assert codes(world, other) == [(200, ""), (200, "")]


def test_a_token_of_the_identity_provider_loses_the_role_too(world: World) -> None:
    token = mint({"iss": ISSUER, "sub": "fred", "iat": int(time.time()) - 2})
    assert codes(world, token) == [(200, ""), (200, "")]
    world.polled("fred", "reader")
    ensure_from_now_on(world, token, "small", (403, "model_forbidden"))


def test_a_revoked_grant_at_the_next_request(world: World) -> None:
    actor = world.signs_in("gina", "infer")
    issued = world.makes(actor)
    assert codes(world, issued.token) == [(200, ""), (200, "")]
    world.console(lambda console: console.service.revoke(actor, issued.grant.id))
    assert codes(world, issued.token) == [(401, "invalid_token")] * 2


def test_a_replaced_token_ends_after_its_grace(world: World) -> None:
    actor = world.signs_in("hans", "infer")
    old = world.makes(actor)
    assert codes(world, old.token) == [(200, ""), (200, "")]
    grace = timedelta(seconds=3)
    new = world.console(lambda console: console.service.renew(actor, old.grant.id, grace=grace))
    end = time.time() + grace.total_seconds()
    assert claims_of(new.token)["sid"] == claims_of(old.token)["sid"]
    assert world.rest(old.token).is_success
    wait_for(lambda: world.rest(old.token).status_code == 401)
    assert end - 2 < time.time() < end + 2
    assert codes(world, old.token) == [(401, "token_expired")] * 2
    assert codes(world, new.token) == [(200, ""), (200, "")]


def test_renewed_it_keeps_its_quota(world: World) -> None:
    actor = world.signs_in("iris", "infer")
    old = world.makes(actor)
    before = int(world.rest(old.token).headers["ratelimit"].partition("r=")[2].partition(";")[0])
    new = world.console(lambda console: console.service.renew(actor, old.grant.id, grace=timedelta(hours=1)))
    after = int(world.rest(new.token).headers["ratelimit"].partition("r=")[2].partition(";")[0])
    assert after == before - 1


def for_one_call(world: World, actor: Actor, model: str = "small", session: str = "x") -> str:
    """As the playground of the console gets one."""
    return world.console(lambda console: console.service.for_one_call(actor, model, session))


def with_identity(actor: Actor, **changes: Any) -> Actor:  # noqa: ANN401 - fields of it
    assert actor.identity
    return replace(actor, identity=replace(actor.identity, **changes))


def test_a_token_for_one_call_is_its_owner_for_one_model_and_no_grant(world: World) -> None:
    actor = with_identity(world.signs_in("kate", "infer", "doctor"), session="of-kate")
    token, claims = for_one_call(world, actor), claims_of(for_one_call(world, actor))
    assert [codes(world, token, model)[0] for model in ("small", "large", "secret")] == [
        (200, ""),
        (403, "model_forbidden"),
        (403, "model_forbidden"),
    ]
    assert codes(world, for_one_call(world, actor, "secret"), "secret") == [(200, "")] * 2
    assert (claims["sid"], claims["azp"]) == ("of-kate", "tollgate:playground")
    assert claims["exp"] - time.time() <= 60
    assert not world.console(lambda console: console.service.list(actor)).grants
    assert claims_of(for_one_call(world, with_identity(actor, session="")))["sid"] == "x"


def test_a_token_for_one_call_has_no_more_than_the_sign_in(world: World) -> None:
    actor = world.signs_in("lars", "infer", "doctor")
    less = with_identity(actor, roles=frozenset({"infer"}))
    assert claims_of(for_one_call(world, less, "secret"))["tollgate"]["roles"] == ["infer"]
    assert codes(world, for_one_call(world, less, "secret"), "secret") == [(403, "model_forbidden")] * 2
    issued = world.makes(actor)
    with pytest.raises(NotDone, match="sign in to the console"):
        for_one_call(world, with_token(actor, issued))


@pytest.mark.parametrize(("kind", "value"), [(Kind.USER, "mona"), (Kind.SESSION, "of-nora")])
def test_what_revokes_the_sign_in_revokes_its_tokens_for_one_call(world: World, kind: Kind, value: str) -> None:
    """Those that are signed afterwards, too."""
    actor = with_identity(world.signs_in(value.removeprefix("of-"), "infer"), session="of-nora")
    token = for_one_call(world, actor)
    assert codes(world, token) == [(200, "")] * 2
    assert world.revokes_every(kind, value).everywhere
    for each in (token, for_one_call(world, actor)):
        assert codes(world, each) == [(401, "invalid_token")] * 2


def test_who_is_disabled_gets_no_token_for_a_call(world: World) -> None:
    actor = world.signs_in("olga", "infer")
    token = for_one_call(world, actor)
    assert codes(world, token) == [(200, "")] * 2
    world.polled("olga", enabled=False)
    ensure_from_now_on(world, token, "small", (401, "user_disabled"))
    with pytest.raises(NotDone, match="disabled"):
        for_one_call(world, actor)


def test_what_somebody_made_of_one(world: World) -> None:
    """One character of each part."""
    token = world.makes(world.signs_in("jane", "infer")).token
    for at in (6, 14, token.index(".") + 5, token.rindex(".") + 5):
        changed = f"{token[:at]}{'A' if token[at] != 'A' else 'B'}{token[at + 1 :]}"
        assert {status for status, _ in codes(world, changed)} == {401}
    inner = unwrap(token)
    assert codes(world, inner) == [(401, "issuer_unknown")] * 2
