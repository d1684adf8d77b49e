"""REST: the catalogue as a STAC API, `/tollgate/api/stac`; what there is for whoever asks, with a token or without.

Web pages of any origin may read it: what somebody sees follows from the token that they send, never from a cookie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from msgspec import Struct
from msgspec.structs import replace
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from ext_authz.api.callers import Callers
from ext_authz.api.rest import PROBLEMS, PROGRAMS, described
from ext_authz.api.stac_queries import SearchBody, SearchIn
from ext_authz.catalogue import search as asked
from ext_authz.catalogue import stac
from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.catalogue.stac import GEOJSON, OPENAPI, Json, Places
from ext_authz.identity.identity import Identity
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.model import NotDone, Why

STAC = "/stac"
"""Below `PROGRAMS`."""
_DESCRIPTION = """\
What a caller may call, as a STAC API. Send `Authorization: Bearer TOKEN`, or nothing: then it is what is public.
"""
HEADERS = {"cache-control": "private, no-store", "vary": "authorization, x-gitlab-token"}
_HIDDEN = "there is no such thing, or none that you may call"

router = APIRouter(tags=["catalogue"])


class StacInterface(Struct, frozen=True):
    """What the endpoints use."""

    catalogue: Catalogue
    callers: Callers
    cipher: Cipher
    """Of cursors."""
    places: Places


def stac_application(interface: StacInterface, *more: APIRouter) -> FastAPI:
    """To be mounted at `PROGRAMS`; `more`: beside the catalogue."""
    application = described("Tollgate: catalogue", _DESCRIPTION, f"{STAC}/openapi.json", PROGRAMS)
    application.state.stac = interface
    application.include_router(router, prefix=STAC, responses={**PROBLEMS})
    for each in more:
        application.include_router(each, responses={**PROBLEMS})
    application.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "x-gitlab-token"],
    )
    return application


def _interface(request: Request) -> StacInterface:
    found: StacInterface = request.app.state.stac
    return found


async def _identity(request: Request) -> Identity | None:
    """None without a credential. One that is not accepted is refused: who sends it wants to be somebody.

    Clients of SharingHub send the same token in a header of GitLab's.
    """
    callers = _interface(request).callers
    named = (f"Bearer {token}" for token in request.headers.getlist("x-gitlab-token"))
    values = (*request.headers.getlist("authorization"), *named)
    return await callers.guarded(values, callers.address(request)) if values else None


Stac = Annotated[StacInterface, Depends(_interface)]
Caller = Annotated[Identity | None, Depends(_identity)]


@router.get("")
async def landing(interface: Stac) -> JSONResponse:
    """What there is to ask."""
    return _json(stac.landing(interface.places))


@router.get("/conformance")
async def conformance() -> JSONResponse:
    """What this conforms to."""
    return _json({"conformsTo": stac.CONFORMANCE})


@router.get("/api", include_in_schema=False)
async def description(request: Request) -> JSONResponse:
    """OpenAPI, with the media type of the link to it."""
    return _json(request.app.openapi(), OPENAPI)


@router.get("/collections")
async def collections(interface: Stac) -> JSONResponse:
    """The kinds of things."""
    return _json(stac.collections(interface.places))


@router.get("/collections/{collection}")
async def collection(interface: Stac, collection: str) -> JSONResponse:
    """One kind."""
    return _json(there(stac.collection(collection, interface.places)))


@router.get("/collections/{collection}/items")
async def items(interface: Stac, caller: Caller, collection: str, given: Annotated[SearchIn, Query()]) -> JSONResponse:
    """Those of one kind that the caller may call."""
    there(stac.collection(collection, interface.places))
    here = f"{interface.places.collection(collection)}/items"
    if given.collections not in ("", collection):
        raise NotDone(Why.INVALID, "the path says which collection: leave this out", "collections")
    page = await _page(interface, caller, replace(given.search(), collections=(collection,)))
    return _items(interface, page, [_self(here, given), *_next(here, given, page)])


@router.get("/collections/{collection}/items/{item}")
async def item(interface: Stac, caller: Caller, collection: str, item: str) -> JSONResponse:
    """One that the caller may call; others are not there."""
    entry = await interface.catalogue.entry(caller, collection, item)
    return _json(stac.item(there(entry), interface.places), GEOJSON)


@router.get("/search")
async def search(interface: Stac, caller: Caller, given: Annotated[SearchIn, Query()]) -> JSONResponse:
    """In every collection, if none is named."""
    here = f"{interface.places.stac}/search"
    page = await _page(interface, caller, given.search())
    return _items(interface, page, [_self(here, given), *_next(here, given, page)])


@router.post("/search")
async def search_by_body(interface: Stac, caller: Caller, given: SearchBody) -> JSONResponse:
    """The same as JSON."""
    here = f"{interface.places.stac}/search"
    page = await _page(interface, caller, given.search())
    links: list[Json] = [{"rel": "self", "type": GEOJSON, "href": here, "method": "POST"}]
    if page.cursor:
        body = given.model_dump(exclude_defaults=True) | {"cursor": page.cursor}
        links.append({"rel": "next", "type": GEOJSON, "href": here, "method": "POST", "body": body})
    return _items(interface, page, links)


async def _page(interface: StacInterface, caller: Identity | None, query: asked.Query) -> asked.Page:
    """Raises NotDone, Unavailable."""
    whose = f"{caller.issuer_name} {caller.principal.subject}" if caller else ""
    return asked.search(await interface.catalogue.entries(caller), query, interface.cipher, whose)


def _items(interface: StacInterface, page: asked.Page, links: Sequence[Json]) -> JSONResponse:
    return _json(stac.items(page.entries, page.matched, links, interface.places), GEOJSON)


def _self(here: str, given: BaseModel) -> Json:
    said = urlencode(given.model_dump(exclude_defaults=True))
    return {"rel": "self", "type": GEOJSON, "href": f"{here}?{said}" if said else here}


def _next(here: str, given: BaseModel, page: asked.Page) -> list[Json]:
    """It repeats what was asked for."""
    said = given.model_dump(exclude_defaults=True) | {"cursor": page.cursor}
    return [{"rel": "next", "type": GEOJSON, "href": f"{here}?{urlencode(said)}", "method": "GET"}] * bool(page.cursor)


def there(found: Any) -> Any:  # noqa: ANN401 - whatever it is
    """Raises NotDone: the same for what is hidden and for what does not exist."""
    if found is None:
        raise NotDone(Why.NOT_FOUND, _HIDDEN)
    return found


def _json(document: Json, media_type: str = stac.JSON) -> JSONResponse:
    return JSONResponse(document, headers=HEADERS, media_type=media_type)
