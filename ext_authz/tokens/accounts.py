"""Service accounts: owners that are no people. A group has each, and its members manage it."""

from __future__ import annotations

import re
from collections.abc import Collection

from ext_authz.db.postgres import Connection
from ext_authz.identity.identity import is_text
from ext_authz.owners import store as owners
from ext_authz.tokens import audit, rows
from ext_authz.tokens.authority import is_own
from ext_authz.tokens.model import SERVICE, Actor, NotDone, Owner, Why
from ext_authz.tokens.reach import MAX_NAMES, ensure_within

MOST = 50
"""Of one group, unless administrators make more: each has limits of its own, and tokens of its own."""

_LOCK = 7_263_517_094
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)


def groups_of(actor: Actor) -> frozenset[str]:
    """Whose service accounts the actor manages: with an API token none."""
    identity = actor.identity
    return frozenset() if identity is None or is_own(identity) else identity.groups


def new_account(actor: Actor, issuer: str, name: str, group: str, roles: tuple[str, ...]) -> Owner:
    """As it would be.

    Raises:
        NotDone: INVALID, FORBIDDEN, or TOO_WIDE.
    """
    if not _NAME.fullmatch(name):
        raise NotDone(Why.INVALID, "a name is 1 to 64 of a-z, 0-9, _, . and -, and begins with a-z or 0-9", "name")
    if not is_text(group):
        raise NotDone(Why.INVALID, "a group is its path, as in tokens: 1 to 255 printable characters", "group")
    if len(roles) > MAX_NAMES or not all(map(is_text, roles)):
        raise NotDone(Why.INVALID, f"at most {MAX_NAMES} roles of 1 to 255 printable characters", "roles")
    if actor.identity is not None and is_own(actor.identity):
        raise NotDone(Why.FORBIDDEN, "an API token makes no service accounts: sign in to the console")
    if not actor.administrator and group not in groups_of(actor):
        raise NotDone(Why.FORBIDDEN, "you are no member of this group: choose one of yours", "group")
    if actor.identity is not None:
        ensure_within("roles", roles, actor.identity.roles)
    subject = f"{SERVICE}{name}"
    return Owner(issuer=issuer, subject=subject, kind="service", group=group, username=subject)


async def add(
    connection: Connection, actor: Actor, owner: Owner, *, roles: Collection[str], scopes: Collection[str]
) -> None:
    """In the transaction of the caller. Raises NotDone: CONFLICT, there is one of this name; TOO_MANY."""
    # Who makes one at the same time waits here, and would else take over one of the same name.
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    if await rows.entitled(connection, owner.issuer, owner.subject) is not None:
        raise NotDone(Why.CONFLICT, "there is a service account of this name: choose another", "name")
    if not actor.administrator and len(await rows.service_accounts(connection, owner.issuer, [owner.group])) >= MOST:
        detail = f"{MOST} service accounts are as many as a group may have: administrators can make more"
        raise NotDone(Why.TOO_MANY, detail, "group")
    await owners.service(connection, owner.issuer, owner.subject, owner.group, roles=roles, scopes=scopes)
    details = {"group": owner.group, "roles": sorted(roles), "scopes": sorted(scopes)}
    await audit.record(connection, actor, "service_account.created", f"owner:{owner.issuer}:{owner.subject}", details)
