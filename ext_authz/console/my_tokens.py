"""The pages about one's own tokens, and those of the service accounts of one's groups.

Whose token it is is decided by `TokenService`, for the person without the rights of an administrator.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from msgspec import Struct
from starlette.responses import Response
from starlette.routing import Route

from ext_authz.console.frame import Frame, Visit
from ext_authz.console.guard import STATUS, Guard
from ext_authz.console.quotas import Left, Quotas
from ext_authz.console.recorded import Recorded
from ext_authz.identity.own_tokens import CLIENT
from ext_authz.tokens.model import SERVICE, Choices, Grant, Issued, NewGrant, NotDone, State, Why
from ext_authz.tokens.service import TokenService
from ext_authz.web.pages import Form

_PRESETS = (7, 30, 90)
_GRACES = {"0": "none: the old token stops at once", "1": "1 hour", "24": "1 day", "168": "7 days"}
"""Hours, and how they are offered."""
_SOON = timedelta(days=7)
_SENT_TWICE = timedelta(minutes=1)
"""Between two clicks, or with a repetition by the browser."""
_DAYS = re.compile(r"[0-9]{1,4}", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_-]{20,64}", re.ASCII)
_ON_A_PAGE = 25


class Problem(Struct, frozen=True):
    """Why a form was not accepted."""

    field: str
    detail: str


class MyTokens:
    """Handlers; each makes its page from what the service says."""

    def __init__(self, frame: Frame, guard: Guard, service: TokenService, recorded: Recorded, quotas: Quotas) -> None:
        self._frame = frame
        self._guard = guard
        self._service = service
        self._recorded = recorded
        self._quotas = quotas

    def routes(self) -> list[Route]:
        page, action, one = self._guard.page, self._guard.action, "/tokens/{grant:uuid}"
        return [
            page("/tokens", self.list),
            page("/tokens/new", self.new),
            action("/tokens/new", self.create),
            page("/tokens/revoke-all", self.ask_revoke_all),
            action("/tokens/revoke-all", self.revoke_all),
            page(one, self.show),
            page(one + "/token", self.show_token),
            page(one + "/renew", self.ask_renew),
            action(one + "/renew", self.renew),
            page(one + "/revoke", self.ask_revoke),
            action(one + "/revoke", self.revoke),
        ]

    async def list(self, visit: Visit) -> Response:
        person, cursor = visit.person, visit.request.query_params.get("after", "")
        page = await self._service.list(
            person, issuer=person.issuer, subject=person.subject, cursor=cursor, limit=_ON_A_PAGE
        )
        return self._frame.render(
            "tokens.html", visit, grants=page.grants, cursor=page.cursor, first=not cursor, soon=self._soon
        )

    async def new(self, visit: Visit) -> Response:
        return await self._form(visit, visit.request.query_params.get("service", ""), Form())

    async def create(self, visit: Visit) -> Response:
        """Sent twice, it makes one token: the form has a key of its own."""
        form = visit.form
        try:
            issued = await self._service.create(visit.person, _wanted(form), idempotency_key=_key(form))
        except NotDone as why:
            return await self._form(visit, form.one("service"), form, why)
        return await self._issued(visit, issued, "The token is made.")

    async def show(self, visit: Visit) -> Response:
        grant = await self._grant(visit)
        calls = await self._recorded.calls_of_grant(grant.owner, CLIENT + grant.name)
        left = await self._quotas.of_grant(grant) if grant.state is State.ACTIVE else Left()
        return self._frame.render("token.html", visit, grant=grant, calls=calls, left=left, soon=self._soon(grant))

    async def show_token(self, visit: Visit) -> Response:
        """Once: what was left for this page is gone when it is loaded again."""
        grant = await self._grant(visit)
        return self._frame.render("issued.html", visit, grant=grant, token=visit.flash.token, script="copy.js")

    async def ask_renew(self, visit: Visit) -> Response:
        return await self._renew_form(visit, await self._grant(visit))

    async def renew(self, visit: Visit) -> Response:
        form, grant = visit.form, visit.request.path_params["grant"]
        try:
            issued = await self._service.renew(
                visit.person,
                grant,
                grace=_grace(form),
                lifetime=_lifetime(form),
                version=_version(form),
                idempotency_key=_key(form),
            )
        except NotDone as why:
            return await self._renew_form(visit, await self._grant(visit), why)
        return await self._issued(visit, issued, "The token is renewed.")

    async def ask_revoke(self, visit: Visit) -> Response:
        grant = await self._grant(visit)
        calls = await self._recorded.calls_of_grant(grant.owner, CLIENT + grant.name)
        return self._frame.render("revoke.html", visit, grant=grant, calls=calls)

    async def revoke(self, visit: Visit) -> Response:
        grant, reason = visit.request.path_params["grant"], visit.form.one("reason")
        revoked = await self._service.revoke(visit.person, grant, version=_version(visit.form), reason=reason)
        return await self._guard.done(visit, f"/tokens/{grant}", f"{revoked.name} is revoked: no call passes with it.")

    async def ask_revoke_all(self, visit: Visit) -> Response:
        person = visit.person
        page = await self._service.list(
            person, issuer=person.issuer, subject=person.subject, state=State.ACTIVE, limit=_ON_A_PAGE
        )
        return self._frame.render("revoke_all.html", visit, grants=page.grants, more=bool(page.cursor))

    async def revoke_all(self, visit: Visit) -> Response:
        person = visit.person
        count = await self._service.revoke_all(person, person.issuer, person.subject, reason=visit.form.one("reason"))
        return await self._guard.done(visit, "/tokens", f"Revoked: {count} of your tokens. No call passes with them.")

    async def _grant(self, visit: Visit) -> Grant:
        grant: UUID = visit.request.path_params["grant"]
        return await self._service.get(visit.person, grant)

    async def _issued(self, visit: Visit, issued: Issued, notice: str) -> Response:
        """A form that is sent again later gets the same token: it was shown, so it is not shown again."""
        where = f"/tokens/{issued.grant.id}"
        made = max((token.issued_at for token in issued.grant.tokens), default=issued.grant.created_at)
        if self._now() - made > _SENT_TWICE:
            return await self._guard.done(visit, where, "This form was sent before, and its token was shown then.")
        return await self._guard.done(visit, f"{where}/token", notice, issued.token)

    async def _form(self, visit: Visit, service: str, form: Form, why: NotDone | None = None) -> Response:
        choices = await self._service.choices(visit.person, service)
        return self._frame.render(
            "new.html",
            visit,
            status=STATUS[why.why][0] if why else 200,
            choices=choices,
            presets=_presets(choices),
            service=service,
            service_name=service.removeprefix(SERVICE),
            form=form,
            problem=_problem(why),
            key=secrets.token_urlsafe(24),
        )

    async def _renew_form(self, visit: Visit, grant: Grant, why: NotDone | None = None) -> Response:
        choices = await self._service.choices(visit.person, _service(grant))
        return self._frame.render(
            "renew.html",
            visit,
            status=STATUS[why.why][0] if why else 200,
            grant=grant,
            presets=_presets(choices, grant.lifetime),
            graces=_GRACES,
            problem=_problem(why),
            form=visit.form,
            key=secrets.token_urlsafe(24),
        )

    def _soon(self, grant: Grant) -> bool:
        return grant.state is State.ACTIVE and grant.expires_at - self._now() <= min(_SOON, grant.lifetime / 4)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._frame.clock.now(), UTC)


def _service(grant: Grant) -> str:
    return grant.owner.subject if grant.owner.kind == "service" else ""


def _presets(choices: Choices, present: timedelta | None = None) -> Sequence[int]:
    """Days that are offered, the longest last."""
    longest = choices.max_lifetime.days
    also = {present.days} if present and present.days else set()
    return sorted({days for days in {*_PRESETS, *also, longest} if 1 <= days <= longest})


def _wanted(form: Form) -> NewGrant:
    return NewGrant(
        name=form.one("name"),
        lifetime=_lifetime(form) or timedelta(),
        scopes=form.several("scopes"),
        models=_some(form, "models", "model"),
        roles=_some(form, "roles", "role"),
        service=form.one("service"),
    )


def _some(form: Form, name: str, one: str) -> tuple[str, ...] | None:
    """None: all that the owner has. The button that was chosen decides, and what is not offered is not sent."""
    if form.one(f"which_{name}") != "some":
        return None
    if not (chosen := form.several(name)):
        raise NotDone(Why.INVALID, f"choose at least one {one}, or all", name)
    return chosen


def _lifetime(form: Form) -> timedelta | None:
    days = form.one("days")
    if not _DAYS.fullmatch(days):
        raise NotDone(Why.INVALID, "choose how long the token is valid", "lifetime")
    return timedelta(days=int(days))


def _grace(form: Form) -> timedelta:
    if (hours := form.one("grace")) not in _GRACES:
        raise NotDone(Why.INVALID, "choose how long the old token stays valid", "grace")
    return timedelta(hours=int(hours))


def _version(form: Form) -> int | None:
    """What the person saw: somebody else may have changed it since."""
    version = form.one("version")
    return int(version) if re.fullmatch(r"[0-9]{1,9}", version, re.ASCII) else None


def _key(form: Form) -> str:
    key = form.one("key")
    return key if _KEY.fullmatch(key) else ""


def _problem(why: NotDone | None) -> Problem | None:
    return Problem(why.field, why.detail) if why else None
