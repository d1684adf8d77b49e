"""The pages of the catalogue, to browse and to search: what the person who is signed in may call, and what others have
published for them."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response
from starlette.routing import Route

from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.catalogue.entry import MODELS
from ext_authz.catalogue.search import Query, names, search, sorting
from ext_authz.catalogue.stac import COLLECTIONS
from ext_authz.catalogue.using import Using
from ext_authz.console.frame import Frame, Visit
from ext_authz.console.guard import Guard
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.model import NotDone, Why

_ON_A_PAGE = 25
_SORTED = {"title": "Title", "-datetime": "Latest change"}


class CataloguePages:
    """Handlers."""

    def __init__(self, frame: Frame, guard: Guard, catalogue: Catalogue, using: Using, cipher: Cipher) -> None:
        self._frame = frame
        self._guard = guard
        self._catalogue = catalogue
        self._using = using
        self._cipher = cipher

    def routes(self) -> list[Route]:
        return [
            self._guard.page("/catalogue", self.list),
            self._guard.page("/catalogue/{collection}/{item}", self.show),
        ]

    async def list(self, visit: Visit) -> Response:
        """`?q=`: words, of which one is enough. `?kind=`: of one collection."""
        given = visit.request.query_params
        kind = given.get("kind", "") if given.get("kind", "") in COLLECTIONS else ""
        words, order = given.get("q", "").strip(), given.get("sort", "title")
        order = order if order in _SORTED else "title"
        query = Query(
            collections=(kind,) if kind else (),
            terms=names(",".join(words.lower().split()), "q"),
            sort=sorting([order]),
            limit=_ON_A_PAGE,
            cursor=given.get("after", ""),
        )
        whose = f"{visit.actor.issuer} {visit.actor.subject}"
        page = search(await self._catalogue.entries(visit.person.identity), query, self._cipher, whose)
        return self._frame.render(
            "catalogue.html",
            visit,
            entries=page.entries,
            matched=page.matched,
            collections=COLLECTIONS,
            words=words,
            kind=kind,
            order=order,
            orders=_SORTED,
            more=urlencode({"q": words, "kind": kind, "sort": order, "after": page.cursor}) if page.cursor else "",
        )

    async def show(self, visit: Visit) -> Response:
        collection, item = (visit.request.path_params[name] for name in ("collection", "item"))
        entry = await self._catalogue.entry(visit.person.identity, collection, item)
        if entry is None:
            raise NotDone(Why.NOT_FOUND, "there is nothing of this name, or nothing that you may know of")
        starred = await self._using.has_starred(visit.person, entry.key)
        return self._frame.render(
            "catalogue_entry.html", visit, entry=entry, collections=COLLECTIONS, models=MODELS, starred=starred
        )
