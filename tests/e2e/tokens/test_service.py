from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from ext_authz.db.postgres import Connection, connect
from ext_authz.errors import Unavailable
from ext_authz.identity.api_tokens import unwrap
from ext_authz.tokens import rows
from ext_authz.tokens.issue import A_DAY
from ext_authz.tokens.model import NewGrant, NotDone, State, Why
from tests.e2e.tokens.world import (
    ALICE,
    BOB,
    BOSS,
    COMMAND,
    DAY,
    World,
    caller,
    claims_of,
    ensure_refused,
    revoked,
    verified,
    wanted,
    with_token,
)

REFUSED: list[tuple[dict[str, Any], Why, str]] = [
    ({"scopes": ("admin",)}, Why.TOO_WIDE, "scopes"),
    ({"roles": ("boss",)}, Why.TOO_WIDE, "roles"),
    ({"models": ("other",)}, Why.TOO_WIDE, "models"),
    ({"models": ("*",)}, Why.TOO_WIDE, "models"),
    ({"models": ()}, Why.INVALID, "models"),
    ({"models": ("a/b",)}, Why.INVALID, "models"),
    ({"scopes": ("a b",)}, Why.INVALID, "scopes"),
    ({"roles": ("a\n",)}, Why.INVALID, "roles"),
    ({"roles": ("r",) * 101}, Why.INVALID, "roles"),
    ({"lifetime": 31 * DAY}, Why.INVALID, "lifetime"),
    ({"lifetime": timedelta(seconds=59)}, Why.INVALID, "lifetime"),
    ({"name": "n" * 65}, Why.INVALID, "name"),
    ({"name": " n"}, Why.INVALID, "name"),
    ({"name": "a\u2028b"}, Why.INVALID, "name"),
    ({"service": "service:none"}, Why.NOT_FOUND, ""),
]


async def test_what_is_refused(world: World) -> None:
    for change, why, field in REFUSED:
        new = NewGrant(**{"name": "batch", "lifetime": DAY, **change})
        await ensure_refused(world.service.create(ALICE, new), why, field=field)
    assert (await world.service.list(ALICE)).grants == ()
    assert await world.actions() == []


async def test_a_token_says_whose_it_is_and_what_it_may_do(world: World) -> None:
    issued = await world.service.create(ALICE, wanted(scopes=("big",), models=("small", "lab-1*"), roles=("infer",)))
    claims, grant = await verified(world.keys, unwrap(issued.token)), issued.grant
    token = grant.tokens[0]
    issued_at = int(token.issued_at.timestamp())
    assert claims == {
        "iss": "https://models.example/tollgate",
        "sub": "alice",
        "aud": ["gateway"],
        "azp": "tollgate:batch",
        "jti": token.jti,
        "sid": str(grant.id),
        "iat": issued_at,
        "exp": issued_at + 86_400,
        "typ": "Bearer",
        "scope": "big",
        "tollgate": {"issuer": "kc", "kind": "user", "models": ["small", "lab-1*"], "roles": ["infer"]},
    }
    assert (grant.state, grant.version, grant.created_by, grant.owner.username) == (
        State.ACTIVE,
        1,
        "alice-name",
        "alice-name",
    )
    assert await world.service.get(ALICE, grant.id) == grant
    assert issued.token not in repr(issued)
    assert await world.actions() == ["grant.created"]


async def test_a_revoked_one_is_dead_when_the_answer_comes(world: World, redis_url: str) -> None:
    grant = (await world.service.create(ALICE, wanted())).grant
    with pytest.raises(NotDone, match="read it again"):
        await world.service.revoke(ALICE, grant.id, version=7)
    gone = await world.service.revoke(ALICE, grant.id, version=1, reason="leaked")
    assert await revoked(redis_url, f"s:kc:{grant.id}")
    assert (gone.state, gone.version, gone.revoked_by) == (State.REVOKED, 2, "alice-name")
    assert gone.tokens[0].ends_at == gone.revoked_at
    assert await world.service.revoke(ALICE, grant.id) == gone
    await ensure_refused(world.service.renew(ALICE, grant.id, grace=timedelta()), Why.CONFLICT, "revoked")
    assert (await world.service.create(ALICE, wanted())).grant.name == grant.name
    actions = ["grant.created", "grant.revoked", "revocation.created", "revocation.created", "grant.created"]
    assert await world.actions() == actions


async def test_who_is_revoked_while_they_wait_gets_no_token_that_outlives_it(world: World) -> None:
    """Revocations of a user hold for what was issued before: one issued after it, to who was let in before, would live
    on."""
    held = asyncio.Event()

    async def slow(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute("SELECT FROM owners WHERE subject = 'alice' FOR UPDATE")
            held.set()
            await connection.execute(
                "INSERT INTO revocations (kind, issuer, value, expires_at) "
                "VALUES ('user', 'kc', 'alice', now() + interval '1 day')"
            )
            await connection.execute("SELECT pg_sleep(1.1)")

    first = asyncio.create_task(world.pool.run(slow))
    await held.wait()
    for attempt in (world.service.create(ALICE, wanted()), world.service.create(ALICE, wanted(), idempotency_key="k")):
        await ensure_refused(attempt, Why.FORBIDDEN, "revoked")
    await first
    assert (await world.service.list(ALICE)).grants == ()


async def test_all_of_an_owner(world: World, redis_url: str) -> None:
    grants = [(await world.service.create(ALICE, wanted(name))).grant for name in "abc"]
    await world.service.revoke(ALICE, grants[0].id)
    await ensure_refused(world.service.revoke_all(BOB, "kc", "alice"), Why.NOT_FOUND)
    assert await world.service.revoke_all(BOSS, "kc", "alice", reason="left") == 2
    assert all([await revoked(redis_url, f"s:kc:{grant.id}") for grant in grants])


async def test_all_of_an_owner_however_many_have_expired(world: World) -> None:
    """Scripts that make a new grant on each run leave thousands: in one transaction they took longer than an answer of
    Postgres may."""
    live = (await world.service.create(ALICE, wanted())).grant
    await world.sql(
        "WITH made AS (INSERT INTO grants (id, issuer, subject, name, lifetime, created_by) "
        "SELECT gen_random_uuid(), 'kc', 'alice', 'n' || n, interval '1 hour', 'x' FROM generate_series(1, 250) AS n "
        "RETURNING id) INSERT INTO tokens (jti, grant_id, kid, issued_at, expires_at, issued_by) "
        "SELECT id::text, id, 'k', now() - interval '1 day', now() - interval '1 hour', 'x' FROM made"
    )
    assert await world.service.revoke_all(ALICE, "kc", "alice") == 251
    assert (await world.sql("SELECT count(DISTINCT xmin::text) FROM grants"))[0] == (4,), "live, 100, 100, 50"
    assert (await world.service.get(ALICE, live.id)).state is State.REVOKED
    assert await world.service.revoke_all(ALICE, "kc", "alice") == 0


async def test_a_renewed_one_keeps_its_id_and_the_old_token_has_its_grace(world: World) -> None:
    first = await world.service.create(ALICE, wanted(models=("small",)))
    second = await world.service.renew(ALICE, first.grant.id, grace=timedelta(hours=1), version=1)
    assert second.grant.id == first.grant.id
    assert second.grant.version == 2
    old = next(token for token in second.grant.tokens if token.jti == first.grant.tokens[0].jti)
    latest = claims_of(second.token)
    assert latest["jti"] != old.jti
    assert latest["sid"] == claims_of(first.token)["sid"]
    assert latest["tollgate"] == {"issuer": "kc", "kind": "user", "models": ["small"]}
    assert old.ends_at is not None
    assert abs(old.ends_at.timestamp() - latest["iat"] - 3600) <= 1
    assert await world.actions() == ["grant.created", "grant.renewed"]


async def test_without_grace_the_old_token_is_revoked(world: World, redis_url: str) -> None:
    first = await world.service.create(ALICE, wanted())
    await world.service.renew(ALICE, first.grant.id, grace=timedelta(), lifetime=timedelta(hours=1))
    assert await revoked(redis_url, f"t:kc:{claims_of(first.token)['jti']}")
    assert (await world.service.get(ALICE, first.grant.id)).lifetime == timedelta(hours=1)


async def test_a_repeated_request_gets_the_same_token(world: World) -> None:
    first = await world.service.create(ALICE, wanted(), idempotency_key="k1")
    again = await world.service.create(ALICE, wanted(), idempotency_key="k1")
    assert again == first
    await ensure_refused(
        world.service.create(ALICE, wanted("other"), idempotency_key="k1"), Why.CONFLICT, "another request"
    )
    renewed = await world.service.renew(ALICE, first.grant.id, grace=DAY, version=1, idempotency_key="k2")
    repeated = await world.service.renew(ALICE, first.grant.id, grace=DAY, version=1, idempotency_key="k2")
    assert repeated.token == renewed.token
    # Somebody else's key, and one of a narrower token of the same person.
    await world.service.create(BOB, wanted(), idempotency_key="k1")
    narrow = await world.service.create(ALICE, wanted("narrow", roles=("infer",), lifetime=DAY * 2))
    with pytest.raises(NotDone, match="take a new key"):
        await world.service.create(with_token(ALICE, narrow), wanted(), idempotency_key="k1")
    with pytest.raises(NotDone, match="visible ASCII"):
        await world.service.create(ALICE, wanted("x"), idempotency_key="a b")


async def test_a_repeated_request_gets_no_token_that_has_ended_or_lives_longer_than_its_caller(world: World) -> None:
    short = await world.service.create(ALICE, wanted("short", lifetime=timedelta(hours=1)))
    first = await world.service.create(ALICE, wanted(), idempotency_key="k1")
    await ensure_refused(
        world.service.create(with_token(ALICE, short), wanted(), idempotency_key="k1"), Why.TOO_WIDE, field="lifetime"
    )

    async def renewed(key: str) -> None:
        await world.service.renew(ALICE, first.grant.id, grace=timedelta(), idempotency_key=key)

    await renewed("k2")
    await renewed("k2")
    await renewed("k3")
    for attempt in (world.service.create(ALICE, wanted(), idempotency_key="k1"), renewed("k2")):
        await ensure_refused(attempt, Why.CONFLICT, "has ended", field="idempotency_key")
    await world.service.revoke(ALICE, first.grant.id)
    with pytest.raises(NotDone, match="has ended"):
        await renewed("k3")


async def test_of_many_at_once_only_as_many_as_the_policy_allows(world: World) -> None:
    many = await asyncio.gather(
        *(world.service.create(ALICE, wanted(f"n{number}")) for number in range(12)), return_exceptions=True
    )
    refused = [each.why for each in many if isinstance(each, NotDone)]
    assert refused == [Why.TOO_MANY] * 9
    assert (await world.service.choices(ALICE)).left == 0


async def test_who_replaces_tokens_without_end_has_to_wait_until_they_expire(world: World) -> None:
    """Every worker holds the end of each."""
    grant = (await world.service.create(ALICE, wanted())).grant
    await world.sql("ALTER TABLE tokens DISABLE TRIGGER ended")  # it would count them anew for each
    await world.sql(
        "INSERT INTO tokens (jti, grant_id, kid, issued_at, expires_at, ends_at, issued_by) "
        "SELECT n::text, %s, 'k', now() - interval '2 days', now() + interval '1 day', now() - interval '1 day', 'x' "
        "FROM generate_series(1, 5000) AS n",
        grant.id,
    )
    for attempt in (
        world.service.create(ALICE, wanted("another")),
        world.service.renew(ALICE, grant.id, grace=timedelta(hours=1)),
    ):
        await ensure_refused(attempt, Why.TOO_MANY, "shorter lifetime")
    await world.sql("UPDATE tokens SET expires_at = now() - interval '1 hour' WHERE ends_at < now()")
    assert (await world.service.renew(ALICE, grant.id, grace=timedelta(hours=1))).grant.id == grant.id


async def test_who_makes_and_revokes_without_end_has_to_wait(world: World) -> None:
    """Live or not: the tables and the audit log keep them all."""
    first = (await world.service.create(ALICE, wanted())).grant
    await world.sql(
        "INSERT INTO tokens (jti, grant_id, kid, issued_at, expires_at, issued_by) "
        "SELECT 'x' || n, %s, '', now() - interval '1 hour', now() - interval '1 minute', '' "
        "FROM generate_series(1, %s) AS n",
        first.id,
        3 * A_DAY - 2,
    )
    await world.service.revoke(ALICE, first.id)
    second = (await world.service.create(ALICE, wanted("second"), idempotency_key="again")).grant
    for attempt in (
        world.service.create(ALICE, wanted("third")),
        world.service.renew(ALICE, second.id, grace=timedelta(hours=1)),
    ):
        await ensure_refused(
            attempt, Why.TOO_MANY, r"150 tokens .* in 24 hours, which is the most: from 20.* UTC again"
        )
    assert (await world.service.create(ALICE, wanted("second"), idempotency_key="again")).grant.id == second.id
    assert (await world.service.create(BOB, wanted())).token
    await world.sql("UPDATE tokens SET issued_at = issued_at - interval '24 hours' WHERE jti LIKE 'x%%'")
    assert (await world.service.create(ALICE, wanted("third"))).token


async def test_a_search_in_ones_own_tokens_reads_nobody_elses(world: World) -> None:
    """Of a hundred thousand owners each search of anybody took 50 to 80 ms of Postgres."""
    await world.sql(
        "INSERT INTO owners (issuer, subject, username, kind) "
        "SELECT 'kc', 'u' || n, 'user-' || n, 'user' FROM generate_series(1, 5000) AS n"
    )
    await world.sql("ANALYZE owners")
    now = datetime.now(UTC)
    page = {"text": "n", "state": "", "at": None, "id": None, "limit": 51, "now": now}
    async with await connect(world.database_url) as connection:
        for whose, scans in (({"issuer": "kc", "subject": "alice"}, False), ({"issuer": "", "subject": ""}, True)):
            plan = await (await connection.execute(f"EXPLAIN {rows._PAGE}", {**page, **whose})).fetchall()
            assert any("Seq Scan on owners" in line for (line,) in plan) is scans, plan


async def test_one_name_of_many_at_once(world: World) -> None:
    many = await asyncio.gather(*(world.service.create(ALICE, wanted()) for _ in range(8)), return_exceptions=True)
    refused = [each.why for each in many if isinstance(each, NotDone)]
    assert refused == [Why.CONFLICT] * 7


async def test_choices_are_what_create_takes(world: World) -> None:
    choices = await world.service.choices(ALICE)
    assert (choices.scopes, choices.models, choices.roles) == (
        ("big", "openid", "tollgate:billing", "tollgate:catalogue", "tollgate:predictions", "tollgate:tokens"),
        ("small", "large", "lab-*"),
        ("gold", "infer"),
    )
    assert (choices.max_lifetime, choices.left) == (30 * DAY, 3)
    await world.service.create(
        ALICE, wanted(scopes=choices.scopes, models=choices.models, roles=choices.roles, lifetime=choices.max_lifetime)
    )


async def test_the_name_of_a_client_makes_nobody_an_api_token(world: World) -> None:
    named = caller("alice", "infer", groups="/lab /ops", client="tollgate:batch")
    longer = wanted(lifetime=30 * DAY, scopes=("tollgate:tokens",))
    assert (await world.service.create(named, longer)).grant.scopes == ("tollgate:tokens",)


async def test_an_api_token_makes_no_wider_one(world: World) -> None:
    narrow = await world.service.create(
        ALICE, wanted("narrow", roles=("infer",), models=("small",), scopes=("openid",))
    )
    here = with_token(ALICE, narrow)
    made = (await world.service.create(here, wanted("child", lifetime=timedelta(hours=1)))).grant
    assert (made.roles, made.models, made.scopes) == (("infer",), ("small",), ())
    wider: list[dict[str, Any]] = [
        {"models": ("large",)},
        {"roles": ("gold",)},
        {"scopes": ("big",)},
        {"lifetime": 2 * DAY},
    ]
    for change in wider:
        new = NewGrant(**{"name": "wider", "lifetime": timedelta(hours=1), **change})
        await ensure_refused(world.service.create(here, new), Why.TOO_WIDE)
    wide = await world.service.create(ALICE, wanted("wide"))
    with pytest.raises(NotDone, match="renews itself only"):
        await world.service.renew(here, wide.grant.id, grace=timedelta())
    await world.service.renew(here, narrow.grant.id, grace=timedelta(minutes=1))


async def test_who_is_here_with_less_gets_no_more_by_renewing(world: World) -> None:
    wide = await world.service.create(ALICE, wanted(scopes=("big",)))
    for less in (
        caller("alice", "infer", groups="/lab /ops", scopes="big openid"),
        caller("alice", "infer", "gold", groups="/lab /ops", scopes="openid"),
        caller("alice", "infer", "gold", groups="/lab", scopes="big openid"),
    ):
        await ensure_refused(world.service.renew(less, wide.grant.id, grace=timedelta()), Why.TOO_WIDE)


async def test_a_role_of_a_sign_in_after_the_provider_was_asked_is_known_here_as_in_a_check(world: World) -> None:
    """Else who is here with less would be taken to have all that the owner has, and their token would get the rest."""
    await world.sql("UPDATE owners SET current_roles = '{infer}', checked_at = 'epoch'")
    less = caller("alice", "infer", groups="/lab /ops", scopes="big openid")
    assert (await world.service.create(less, wanted("less"))).grant.roles == ("infer",)
    whole = (await world.service.create(ALICE, wanted())).grant
    assert (await world.service.choices(ALICE)).roles == ("gold", "infer")
    await ensure_refused(world.service.renew(less, whole.id, grace=DAY), Why.TOO_WIDE, field="roles")
    await world.sql("UPDATE owners SET checked_at = signed_in_at")
    assert (await world.service.choices(ALICE)).roles == ("infer",)


async def test_others_see_nothing_and_administrators_get_no_secret_of_a_person(world: World) -> None:
    grant = (await world.service.create(ALICE, wanted())).grant
    for attempt in (
        world.service.get(BOB, grant.id),
        world.service.get(BOB, uuid4()),
        world.service.revoke(BOB, grant.id),
        world.service.renew(BOB, grant.id, grace=timedelta()),
        world.service.list(BOB, issuer="kc", subject="alice"),
    ):
        await ensure_refused(attempt, Why.NOT_FOUND, "not yours")
    await ensure_refused(world.service.list(BOB, everybody=True), Why.FORBIDDEN)
    await ensure_refused(world.service.renew(BOSS, grant.id, grace=timedelta()), Why.FORBIDDEN, "only its owner")
    assert (await world.service.list(BOSS, everybody=True)).grants[0].id == grant.id
    assert (await world.service.revoke(BOSS, grant.id)).revoked_by == "boss-name"


async def test_service_accounts_belong_to_a_group(world: World) -> None:
    account = await world.service.create_service_account(ALICE, "nightly", "/ops", ("infer",))
    assert (account.subject, account.group) == ("service:nightly", "/ops")
    assert await world.service.service_accounts(BOB) == (account,)
    made = await world.service.create(BOB, wanted(service=account.subject))
    assert claims_of(made.token)["tollgate"] == {"issuer": "kc", "kind": "service"}
    assert (await world.service.choices(BOB, account.subject)).roles == ("infer",)
    await ensure_refused(
        world.service.create(BOB, wanted("wide", service=account.subject, roles=("gold",))), Why.TOO_WIDE
    )
    stranger = caller("carol", "infer", groups="/lab")
    assert await world.service.service_accounts(stranger) == ()
    await ensure_refused(world.service.create(stranger, wanted(service=account.subject)), Why.NOT_FOUND)
    await ensure_refused(world.service.create_service_account(BOB, "mine", "/lab", ()), Why.FORBIDDEN)
    await ensure_refused(world.service.create_service_account(BOB, "mine", "/ops", ("gold",)), Why.TOO_WIDE)
    await ensure_refused(world.service.create_service_account(COMMAND, "nightly", "/lab", ("gold",)), Why.CONFLICT)
    assert (
        await world.service.create(COMMAND, wanted("by hand", service=account.subject))
    ).grant.created_by == "root@host"


async def test_a_group_has_no_more_service_accounts_than_its_members_may_make(world: World) -> None:
    """Each has limits of its own: with any number of them a user would have any quota."""
    await world.sql(
        'INSERT INTO owners (issuer, subject, kind, "group") '
        "SELECT 'kc', 'service:s' || n, 'service', '/ops' FROM generate_series(1, 49) AS n"
    )
    names = [f"n{number}" for number in range(3)]
    made = await asyncio.gather(
        *(world.service.create_service_account(ALICE, name, "/ops", ()) for name in names), return_exceptions=True
    )
    assert sorted(each.why for each in made if isinstance(each, NotDone)) == [Why.TOO_MANY] * 2
    await world.service.create_service_account(ALICE, "lab", "/lab", ())
    await world.service.create_service_account(COMMAND, "by-hand", "/ops", ())


async def test_the_audit_log_says_who_took_the_name_of_an_expired_one(world: World) -> None:
    old = (await world.service.create(ALICE, wanted())).grant
    await world.sql("UPDATE tokens SET expires_at = now() - interval '1 hour'")
    new = (await world.service.create(ALICE, wanted())).grant
    gone = await world.service.get(ALICE, old.id)
    assert (gone.state, gone.revoked_by) == (State.REVOKED, "alice-name")
    (entry,) = (await world.service.audit(BOSS, object=f"grant:{old.id}", limit=1)).entries
    assert (entry.action, entry.actor, entry.details["by"]) == ("grant.replaced", "alice-name", str(new.id))


async def test_pages_stay_stable_while_others_are_made(world: World) -> None:
    names = [f"n{number}" for number in range(3)]
    made = [(await world.service.create(ALICE, wanted(name))).grant.id for name in names]
    page = await world.service.list(ALICE, limit=2)
    await world.service.revoke(ALICE, made[0])
    await world.service.create(ALICE, wanted("new"))
    rest = await world.service.list(ALICE, limit=2, cursor=page.cursor)
    assert [grant.id for grant in (*page.grants, *rest.grants)] == made[::-1]
    assert rest.cursor == ""
    assert [grant.name for grant in (await world.service.list(ALICE, state=State.REVOKED)).grants] == ["n0"]
    assert [grant.name for grant in (await world.service.list(ALICE, text="NEW")).grants] == ["new"]
    for cursor in (page.cursor[:-4] + "AAAA", "x", "\u00e9", "A" * 5000):
        await ensure_refused(world.service.list(ALICE, limit=2, cursor=cursor), Why.INVALID, field="cursor")
    with pytest.raises(NotDone, match="same filters"):
        await world.service.list(ALICE, limit=2, cursor=page.cursor, text="n")


async def test_the_audit_log_is_for_administrators(world: World) -> None:
    grant = (await world.service.create(ALICE, wanted())).grant
    await world.service.revoke(ALICE, grant.id, reason="leaked")
    first = await world.service.audit(BOSS, limit=2)
    revocation, entry = first.entries
    assert (revocation.action, revocation.object) == ("revocation.created", f"session:kc:{grant.id}")
    assert (revocation.actor, revocation.via, revocation.address) == (entry.actor, entry.via, entry.address)
    assert (entry.actor, entry.via, entry.address, entry.action) == ("alice-name", "rest", "192.0.2.7", "grant.revoked")
    assert (entry.object, entry.details["reason"]) == (f"grant:{grant.id}", "leaked")
    second = await world.service.audit(BOSS, limit=2, cursor=first.cursor)
    assert [entry.action for entry in second.entries] == ["grant.created"]
    assert second.cursor == ""
    assert (await world.service.audit(BOSS, who="nobody")).entries == ()
    await ensure_refused(world.service.audit(ALICE), Why.FORBIDDEN)


async def test_revoking_and_making_at_the_same_time_never_wait_for_each_other_for_ever(world: World) -> None:
    """Each takes the locks of owner, grant and audit log in one order: Postgres finds no deadlock."""
    grants = [(await world.service.create(ALICE, wanted(name))).grant.id for name in "abc"]
    many = await asyncio.gather(
        *(world.service.renew(ALICE, grant, grace=DAY) for grant in grants),
        *(world.service.revoke(BOSS, grant) for grant in grants),
        *(world.service.create(BOB, wanted(f"n{number}")) for number in range(3)),
        return_exceptions=True,
    )
    assert not [each for each in many if isinstance(each, Unavailable)]
    assert {grant.state for grant in (await world.service.list(ALICE)).grants} == {State.REVOKED}


async def test_what_postgres_cannot_hold_is_not_there(world: World) -> None:
    for attempt in (
        world.service.create(ALICE, wanted(service="service:\0")),
        world.service.choices(ALICE, "\0"),
        world.service.revoke_all(BOSS, "kc", "a\ud800"),
    ):
        await ensure_refused(attempt, Why.NOT_FOUND)
    for field in ("text", "subject", "issuer"):
        listed = world.service.list(ALICE, **{field: "\0"})  # type: ignore[arg-type]
        await ensure_refused(listed, Why.INVALID, field=field)


async def test_a_user_who_is_called_like_a_service_account_is_none(world: World) -> None:
    account = await world.service.create_service_account(ALICE, "nightly", "/ops", ("infer",))
    made = await world.service.create(ALICE, wanted(service=account.subject))
    namesake = caller(account.subject, "infer", groups="/lab")
    for attempt in (
        world.service.create(namesake, wanted()),
        world.service.get(namesake, made.grant.id),
        world.service.list(namesake),
    ):
        await ensure_refused(attempt, Why.NOT_FOUND)
    assert (await world.service.list(caller("nobody"))).grants == ()
    itself = with_token(caller(account.subject, "infer", groups="/ops"), made)
    assert (await world.service.renew(itself, made.grant.id, grace=DAY)).grant.id == made.grant.id
