"""The pages of administrators about revocations: what one would hit, revoking, what is in force, and its history."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from urllib.parse import urlencode

from starlette.responses import Response
from starlette.routing import Route

from ext_authz.console.administration import asked, for_administrators
from ext_authz.console.frame import PREFIX, Frame, Visit
from ext_authz.console.guard import STATUS, Guard
from ext_authz.db.postgres import Pool
from ext_authz.errors import ConfigError
from ext_authz.identity.api_tokens import PREFIX as TOKEN
from ext_authz.identity.identity import MAX_TEXT, is_text
from ext_authz.policy.issuers import Issuer
from ext_authz.revocation.entry import CLAIMS, Kind, Target
from ext_authz.revocation.store import history
from ext_authz.revocation.target import read_token
from ext_authz.tokens.model import NotDone, Why
from ext_authz.tokens.revocations import Revocations
from ext_authz.web.pages import Form

_ON_A_PAGE = 25
_HISTORY = 100
_DAYS = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
_LONGEST_REASON = 200
_PASTED = re.compile(rf"(?:{TOKEN}|eyJ)[A-Za-z0-9._~-]*", re.ASCII)
"""A token, whole or cut, in a text."""
_KINDS = {
    "token": "one token (jti)",
    "session": "a session (sid), or all tokens of a grant",
    "user": "a user (sub): every token issued so far",
    "client": "a client (azp): every token issued so far",
    "issuer": "an issuer: every token issued so far",
}


class AdminRevocations:
    """Handlers."""

    def __init__(
        self, frame: Frame, guard: Guard, revocations: Revocations, issuers: Sequence[Issuer], pool: Pool
    ) -> None:
        """`issuers`: of the policy."""
        self._frame = frame
        self._guard = guard
        self._revocations = revocations
        self._urls = {issuer.name: issuer.issuer for issuer in issuers}
        self._pool = pool

    def routes(self) -> list[Route]:
        page, action = self._guard.page, self._guard.action
        return [
            page("/admin/revocations", for_administrators(self.list)),
            page("/admin/revocations/history", for_administrators(self.history)),
            page("/admin/revoke", for_administrators(self.ask)),
            action("/admin/revoke/find", for_administrators(self.find)),
            action("/admin/revoke", for_administrators(self.revoke)),
            action("/admin/lift", for_administrators(self.lift)),
        ]

    async def list(self, visit: Visit) -> Response:
        kind, user, after = (asked(visit, name) for name in ("kind", "user", "after"))
        chosen = Kind.labelled(kind) if kind in _KINDS else None
        page = await self._revocations.listed(visit.actor, kind=chosen, user=user, cursor=after, limit=_ON_A_PAGE)
        wanted = {"kind": kind if chosen else "", "user": user}
        return self._frame.render(
            "admin_revocations.html", visit, entries=page.entries, cursor=page.cursor, wanted=wanted, kinds=_KINDS
        )

    async def history(self, visit: Visit) -> Response:
        value = asked(visit, "value")
        changes = await self._pool.run(partial(history, value=value or None, limit=_HISTORY))
        return self._frame.render("admin_history.html", visit, changes=changes[::-1], value=value, most=_HISTORY)

    async def ask(self, visit: Visit) -> Response:
        """With `kind`, `issuer` and `value`: what that would hit. Else a form that asks for them."""
        if not asked(visit, "kind"):
            return self._form(visit)
        target = self._target({name: asked(visit, name) for name in ("kind", "issuer", "value")})
        seen, in_force = await self._revocations.preview(visit.actor, target)
        return self._frame.render(
            "admin_revoke.html", visit, target=target, seen=seen, in_force=in_force, claim=CLAIMS[target.kind]
        )

    async def find(self, visit: Visit) -> Response:
        """A token itself may be pasted: only its ids get into the address of the next page."""
        form = visit.form
        try:
            target = self._target(self._ids(form))
        except NotDone as why:
            return self._form(visit, why)
        wanted = {"kind": target.kind.label, "issuer": target.issuer, "value": target.value}
        return self._frame.redirect(f"{PREFIX}/admin/revoke?{urlencode(wanted)}")

    async def revoke(self, visit: Visit) -> Response:
        form = visit.form
        target = self._target({name: form.one(name) for name in ("kind", "issuer", "value")})
        await self._revocations.revoke(visit.actor, target, reason=_reason(form), lifetime=_lifetime(form))
        return await self._guard.done(visit, "/admin/revocations", f"Revoked: {target}. No call passes with it.")

    async def lift(self, visit: Visit) -> Response:
        form = visit.form
        target = self._target({name: form.one(name) for name in ("kind", "issuer", "value")})
        await self._revocations.lift(visit.actor, target, reason=_reason(form))
        return await self._guard.done(visit, "/admin/revocations", f"Lifted: {target}. Its calls pass again.")

    def _target(self, wanted: dict[str, str]) -> Target:
        if wanted["kind"] not in _KINDS:
            raise NotDone(Why.INVALID, "choose what to revoke", "kind")
        kind = Kind.labelled(wanted["kind"])
        if wanted["issuer"] not in self._urls:
            raise NotDone(Why.INVALID, f"choose an issuer of the policy: {', '.join(self._urls)}", "issuer")
        value = "" if kind is Kind.ISSUER else wanted["value"]
        if kind is not Kind.ISSUER and not is_text(value):
            raise NotDone(Why.INVALID, f"an id is what a token carries: 1 to {MAX_TEXT} printable characters", "value")
        return Target(kind, wanted["issuer"], value)

    def _ids(self, form: Form) -> dict[str, str]:
        """Of a token that was pasted, the claim that is meant, whatever issuer was chosen and whatever is around it:
        what is taken for an id gets into an address."""
        wanted = {name: form.one(name) for name in ("kind", "issuer", "value")}
        if not (found := _PASTED.search(wanted["value"])) or wanted["kind"] not in _KINDS:
            return wanted
        try:
            named = read_token(found[0])
        except ConfigError:
            raise NotDone(Why.INVALID, "this looks like a token and is none: was it copied whole?", "value") from None
        of_url = next((name for name, url in self._urls.items() if url == named.iss), "")
        value = named.values.get(Kind.labelled(wanted["kind"]), "")
        return {"kind": wanted["kind"], "issuer": named.issuer or of_url, "value": value}

    def _form(self, visit: Visit, why: NotDone | None = None) -> Response:
        return self._frame.render(
            "admin_find.html",
            visit,
            status=STATUS[why.why][0] if why else 200,
            kinds=_KINDS,
            issuers=[*self._urls],
            form=visit.form,
            problem=why,
        )


def _reason(form: Form) -> str:
    reason = form.one("reason")
    if len(reason) > _LONGEST_REASON or not (reason == "" or reason.isprintable()):
        raise NotDone(Why.INVALID, f"a reason is at most {_LONGEST_REASON} printable characters", "reason")
    return reason


def _lifetime(form: Form) -> timedelta:
    days = form.one("days")
    if not _DAYS.fullmatch(days) or int(days) > 3650:
        raise NotDone(Why.INVALID, "days: from 1 to 3650, at least as long as an affected token can live", "days")
    return timedelta(days=int(days))
