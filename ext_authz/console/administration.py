"""The pages of administrators about people: who they are, their tokens, and the log of every change.

`TokenService` and the audit log decide once more: an actor who is no administrator gets nothing from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from msgspec import Struct
from starlette.responses import Response
from starlette.routing import Route

from ext_authz.console.frame import Frame, Visit
from ext_authz.console.guard import Guard, Handler
from ext_authz.console.recorded import Recorded
from ext_authz.db.postgres import Connection, Pool
from ext_authz.identity.own_tokens import CLIENT
from ext_authz.ledger.queries import users_named
from ext_authz.tokens.model import Grant, NotDone, State, Why
from ext_authz.tokens.service import TokenService

_ON_A_PAGE = 25
_LONGEST = 600
_PEOPLE: LiteralString = """
SELECT issuer, subject, username, kind = 'service', enabled, checked_at, signed_in_at FROM owners
WHERE subject = %(text)s OR (username <> '' AND strpos(lower(username), lower(%(text)s)) > 0)
ORDER BY username, issuer, subject LIMIT 50
"""


class Someone(Struct, frozen=True):
    """An owner, or a user whom only the ledger knows."""

    issuer: str
    subject: str
    username: str
    service: bool = False
    enabled: bool = True
    checked_at: datetime | None = None
    """When the identity provider was last asked."""
    signed_in_at: datetime | None = None


def for_administrators(handler: Handler) -> Handler:
    """Nobody else gets to a page or an action of theirs."""

    async def checked(visit: Visit) -> Response:
        if not visit.actor.administrator:
            detail = "these pages are for administrators: the policy says who is one (tokens.administrators)"
            raise NotDone(Why.FORBIDDEN, detail)
        return await handler(visit)

    return checked


def asked(visit: Visit, name: str) -> str:
    """What the address asks for, bounded; empty where it is missing."""
    text = visit.request.query_params.get(name, "").strip()
    if len(text) > _LONGEST or not (text == "" or text.isprintable()):
        raise NotDone(Why.INVALID, f"{name} has at most {_LONGEST} printable characters", name)
    return text


class Administration:
    """Handlers."""

    def __init__(self, frame: Frame, guard: Guard, service: TokenService, recorded: Recorded, pool: Pool) -> None:
        self._frame = frame
        self._guard = guard
        self._service = service
        self._recorded = recorded
        self._pool = pool

    def routes(self) -> list[Route]:
        page, action, one = self._guard.page, self._guard.action, "/admin/tokens/{grant:uuid}"
        return [
            *(page(path, for_administrators(self.people)) for path in ("/admin/", "/admin")),
            page("/admin/tokens", for_administrators(self.tokens)),
            page(one, for_administrators(self.token)),
            action(one + "/revoke", for_administrators(self.revoke)),
            page("/admin/audit", for_administrators(self.audit)),
        ]

    async def people(self, visit: Visit) -> Response:
        """`?text=`: the beginning of everything: a part of a name, or a whole subject."""
        text = asked(visit, "text")
        return self._frame.render(
            "admin_people.html", visit, text=text, people=await self._people(text) if text else ()
        )

    async def tokens(self, visit: Visit) -> Response:
        text, state, issuer, subject = (asked(visit, name) for name in ("text", "state", "issuer", "subject"))
        chosen = next((each for each in State if each == state), None)
        page = await self._service.list(
            visit.actor,
            everybody=True,
            issuer=issuer,
            subject=subject,
            text=text,
            state=chosen,
            cursor=asked(visit, "after"),
            limit=_ON_A_PAGE,
        )
        wanted = {"text": text, "state": chosen or "", "issuer": issuer, "subject": subject}
        return self._frame.render(
            "admin_tokens.html", visit, grants=page.grants, cursor=page.cursor, wanted=wanted, states=[*State]
        )

    async def token(self, visit: Visit) -> Response:
        grant = await self._grant(visit)
        calls = await self._recorded.calls_of_grant(grant.owner, CLIENT + grant.name)
        return self._frame.render("admin_token.html", visit, grant=grant, calls=calls)

    async def revoke(self, visit: Visit) -> Response:
        grant, reason = visit.request.path_params["grant"], visit.form.one("reason")
        revoked = await self._service.revoke(visit.actor, grant, reason=reason)
        notice = f"{revoked.name} is revoked: no call passes with it."
        return await self._guard.done(visit, f"/admin/tokens/{grant}", notice)

    async def audit(self, visit: Visit) -> Response:
        about, who = asked(visit, "object"), asked(visit, "actor")
        cursor = asked(visit, "after")
        page = await self._service.audit(visit.actor, object=about, who=who, cursor=cursor, limit=_ON_A_PAGE)
        return self._frame.render(
            "admin_audit.html", visit, entries=page.entries, cursor=page.cursor, about=about, who=who
        )

    async def _grant(self, visit: Visit) -> Grant:
        grant: UUID = visit.request.path_params["grant"]
        return await self._service.get(visit.actor, grant)

    async def _people(self, text: str) -> Sequence[Someone]:
        async def found(connection: Connection) -> list[Someone]:
            rows = await (await connection.execute(_PEOPLE, {"text": text})).fetchall()
            known = {(row[0], row[1]): Someone(*row) for row in rows}
            for user in await users_named(connection, text):
                known.setdefault((user.issuer, user.subject), Someone(user.issuer, user.subject, user.username))
            return list(known.values())

        return await self._pool.run(found)
