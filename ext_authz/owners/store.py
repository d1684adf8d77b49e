"""What the identity provider says of callers, in the table `owners`: written here, by whoever learns of it.

Each function is one statement, for the caller's transaction. Every row that is written is read by every worker within
`revocation_poll` seconds, and ends what it remembers of that owner's tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from psycopg.types.json import Jsonb

from ext_authz.db.postgres import Connection
from ext_authz.identity.identity import Identity

_SIGNED_IN = """
INSERT INTO owners AS held (issuer, subject, username, roles, groups, scopes, claims, signed_in_at)
VALUES (%(issuer)s, %(subject)s, %(username)s, %(roles)s, %(groups)s, %(scopes)s, %(claims)s, %(at)s)
ON CONFLICT (issuer, subject) DO UPDATE SET username = excluded.username, roles = excluded.roles,
    groups = excluded.groups, scopes = excluded.scopes, claims = excluded.claims, signed_in_at = excluded.signed_in_at
WHERE held.kind = 'user' AND (held.signed_in_at IS NULL OR held.signed_in_at < excluded.signed_in_at)
"""
_POLLED = """
INSERT INTO owners AS held (issuer, subject, current_roles, current_groups, enabled, checked_at)
VALUES (%(issuer)s, %(subject)s, %(roles)s, %(groups)s, %(enabled)s, %(at)s)
ON CONFLICT (issuer, subject) DO UPDATE SET current_roles = excluded.current_roles,
    current_groups = excluded.current_groups, enabled = excluded.enabled,
    checked_at = greatest(held.checked_at, excluded.checked_at)
WHERE (held.checked_at IS NULL OR held.checked_at < excluded.checked_at
        OR held.checked_at > excluded.checked_at + interval '1 minute')
    AND (%(event)s OR (held.current_roles, held.current_groups, held.enabled)
        IS DISTINCT FROM (excluded.current_roles, excluded.current_groups, excluded.enabled))
"""
_SERVICE = """
INSERT INTO owners AS held (issuer, subject, kind, "group", username, roles, groups, scopes, enabled)
VALUES (%(issuer)s, %(subject)s, 'service', %(group)s, %(subject)s, %(roles)s, ARRAY[%(group)s], %(scopes)s,
    true)
ON CONFLICT (issuer, subject) DO UPDATE SET "group" = excluded."group", roles = excluded.roles,
    groups = excluded.groups, scopes = excluded.scopes, enabled = excluded.enabled
WHERE held.kind = 'service'
"""


async def signed_in(connection: Connection, identity: Identity) -> bool:
    """What a verified token of the identity provider says of its user. Only the latest token counts, by its `iat`.

    Not for API tokens of our own: those say what their owner has given them, not what the owner is.

    Returns whether anything was written.
    """
    values = {
        "issuer": identity.issuer_name,
        "subject": identity.principal.subject,
        "username": identity.username,
        "roles": _sorted(identity.roles),
        "groups": _sorted(identity.groups),
        "scopes": _sorted(identity.scopes),
        "claims": Jsonb(dict(identity.claims)),
        "at": datetime.fromtimestamp(identity.issued_at, UTC),
    }
    return (await connection.execute(_SIGNED_IN, values)).rowcount > 0


async def polled(
    connection: Connection,
    issuer: str,
    subject: str,
    *,
    roles: Iterable[str] | None,
    groups: Iterable[str] | None,
    enabled: bool,
    at: datetime,
    event: bool = True,
) -> bool:
    """What the identity provider says of a user now, or of the group of a service account; of one who is deleted,
    nothing and not enabled.

    `issuer`: its name in the policy. `roles`, `groups`: as its tokens name them; None: it cannot be asked for them.
    `at`: just before it was asked, by its clock; an answer that is older than the one in the table is dropped, unless
    by so much that the clock was set back. `event`: something happened to this user. Without one,
    an answer like the last changes nothing, so that a sweep over all users makes no work for workers.

    Returns whether anything was written.
    """
    values: dict[str, object] = {"issuer": issuer, "subject": subject, "enabled": enabled, "at": at, "event": event}
    values |= {"roles": _optional(roles), "groups": _optional(groups)}
    return (await connection.execute(_POLLED, values)).rowcount > 0


async def service(
    connection: Connection,
    issuer: str,
    subject: str,
    group: str,
    *,
    roles: Iterable[str],
    scopes: Iterable[str] = (),
) -> bool:
    """A service account, new or changed. False: the subject is a person's."""
    values: dict[str, object] = {"issuer": issuer, "subject": subject, "group": group}
    values |= {"roles": _sorted(roles), "scopes": _sorted(scopes)}
    return (await connection.execute(_SERVICE, values)).rowcount > 0


def _optional(names: Iterable[str] | None) -> list[str] | None:
    return None if names is None else _sorted(names)


def _sorted(names: Iterable[str]) -> list[str]:
    """Without what text in Postgres cannot hold."""
    return sorted({name for name in names if "\0" not in name})
