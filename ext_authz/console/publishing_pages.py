"""The pages of whoever publishes in the catalogue: a new version, the versions of an entry, and stars."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from ext_authz.catalogue.entry import MODELS
from ext_authz.catalogue.publication import KINDS, Publication, read_publication
from ext_authz.catalogue.publishing import Handover, Publishing
from ext_authz.catalogue.using import Using
from ext_authz.console.frame import Frame, Visit
from ext_authz.console.guard import STATUS, Guard
from ext_authz.console.my_tokens import Problem
from ext_authz.tokens.model import NotDone, Why
from ext_authz.web.pages import Form

_SHOWN = 100
_ENTRY = "/catalogue/{collection}/{item}"


class PublishingPages:
    """Handlers."""

    def __init__(self, frame: Frame, guard: Guard, publishing: Publishing, using: Using) -> None:
        self._frame = frame
        self._guard = guard
        self._publishing = publishing
        self._using = using

    def routes(self) -> list[Route]:
        page, action = self._guard.page, self._guard.action
        return [
            page("/catalogue/publish", self.ask),
            action("/catalogue/publish", self.publish),
            page(f"{_ENTRY}/versions", self.versions),
            action(f"{_ENTRY}/unpublish", self.unpublish),
            action(f"{_ENTRY}/republish", self.republish),
            action(f"{_ENTRY}/visibility", self.show_to),
            action(f"{_ENTRY}/star", self.star),
        ]

    async def ask(self, visit: Visit) -> Response:
        return await self._form(visit, Form())

    async def publish(self, visit: Visit) -> Response:
        """Sent twice, it publishes one version."""
        try:
            done = await self._publishing.publish(visit.person, _wanted(visit.form))
        except NotDone as why:
            return await self._form(visit, visit.form, why)
        return await self._guard.done(visit, _path(*done.entry.key), f"{visit.form.one('version')} is published.")

    async def versions(self, visit: Visit) -> Response:
        """Of an entry that the person may change, published or not."""
        found = await self._publishing.get(visit.person, _key(visit))
        return self._frame.render(
            "catalogue_versions.html",
            visit,
            entry=found.entry,
            versions=found.versions,
            terms=self._publishing.terms,
            of_model=found.entry.collection == MODELS,
        )

    async def unpublish(self, visit: Visit) -> Response:
        version = visit.form.one("version")
        done = await self._publishing.unpublish(visit.person, _key(visit), version, _seen(visit.form))
        return await self._guard.done(visit, _path(*done.entry.key), f"{version} is withdrawn: nobody finds it.")

    async def republish(self, visit: Visit) -> Response:
        """As it was."""
        key, version = _key(visit), visit.form.one("version")
        held = (await self._publishing.get(visit.person, key)).entry
        known = await self._publishing.document(visit.person, key, version)
        about = {"collection": key[0], "name": held.name, "version": version}
        wanted = read_publication({**about, "accept_terms": visit.form.one("accept_terms"), **known.document})
        await self._publishing.republish(visit.person, key, wanted, _seen(visit.form))
        return await self._guard.done(visit, _path(*key), f"{version} is published again.")

    async def show_to(self, visit: Visit) -> Response:
        public = visit.form.one("visibility") == "public"
        change = Handover(visibility="public" if public else "private")
        done = await self._publishing.hand_over(visit.person, _key(visit), change, _seen(visit.form))
        return await self._guard.done(visit, _path(*done.entry.key), f"It is {done.entry.visibility}.")

    async def star(self, visit: Visit) -> Response:
        collection, item = key = _key(visit)
        given = visit.form.one("given") == "yes"
        await self._using.star(visit.person, key, given=given)
        notice = "You have given it a star." if given else "You have taken your star back."
        return await self._guard.done(visit, f"/catalogue/{collection}/{item}", notice)

    async def _form(self, visit: Visit, form: Form, why: NotDone | None = None) -> Response:
        mine = await self._publishing.mine(visit.person, everybody=False, after=("", ""), limit=_SHOWN)
        return self._frame.render(
            "catalogue_publish.html",
            visit,
            status=STATUS[why.why][0] if why else 200,
            mine=mine,
            kinds=KINDS,
            terms=self._publishing.terms,
            form=form,
            problem=Problem(why.field, why.detail) if why else None,
        )


def _key(visit: Visit) -> tuple[str, str]:
    given = visit.request.path_params
    return given["collection"], given["item"]


def _path(collection: str, item: str) -> str:
    return f"/catalogue/{collection}/{item}/versions"


def _seen(form: Form) -> int | None:
    """The version of the row that the person saw."""
    seen = form.one("seen")
    return int(seen) if seen.isdecimal() and len(seen) < 10 else None


def _wanted(form: Form) -> Publication:
    """Raises NotDone."""
    names = ("collection", "name", "version", "visibility", "accept_terms", "title", "description", "license")
    given: dict[str, Any] = {name: form.one(name) for name in names if form.one(name)}
    given["keywords"] = [each.strip() for each in form.one("keywords").split(",") if each.strip()]
    given.setdefault("accept_terms", "")
    if href := form.one("href"):
        given["assets"] = {"data": {"href": href, "type": form.one("type") or "application/octet-stream"}}
    if text := form.one("parameters"):
        try:
            given["parameters"] = json.loads(text)
        except (ValueError, RecursionError):
            raise NotDone(Why.INVALID, "parameters: write a list in JSON, as in the example", "parameters") from None
    return read_publication(given)
