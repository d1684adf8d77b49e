"""REST: publishing in the catalogue, stars, runs of processors. To read and search there is STAC (`rest_stac.py`)."""

from __future__ import annotations

import re
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from ext_authz.api.catalogue_documents import (
    DocumentOut,
    EntriesOut,
    EntryOut,
    HandoverIn,
    RunIn,
    RunOut,
    RunsOut,
    StarsOut,
    TermsOut,
    VersionOut,
    WholeEntryOut,
)
from ext_authz.api.rest import NO_STORE, caller, interfaces
from ext_authz.api.rest_tokens import Version as Seen
from ext_authz.catalogue.entry_rows import Row
from ext_authz.catalogue.publication import VERSION, Collection, Publication
from ext_authz.catalogue.publishing import Detail, Handover, Publishing
from ext_authz.catalogue.using import Using
from ext_authz.identity.api_tokens import CATALOGUE
from ext_authz.tokens.model import Actor, NotDone, Why

router = APIRouter(tags=["catalogue"])
_ENTRY = "/catalogue/entries/{collection}/{id}"
_CURSOR = re.compile(r"([a-z-]{1,16})/([A-Za-z0-9_.-]{1,128})", re.ASCII)


async def _caller(request: Request) -> Actor:
    return await caller(request, CATALOGUE)


def _publishing(request: Request) -> Publishing:
    return interfaces(request).publishing


def _using(request: Request) -> Using:
    return interfaces(request).using


def _key(
    collection: Collection,
    id: Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,128}$")],  # noqa: A002 - in the path
) -> tuple[str, str]:
    return collection, id


Caller = Annotated[Actor, Depends(_caller)]
Publishers = Annotated[Publishing, Depends(_publishing)]
Users = Annotated[Using, Depends(_using)]
Key = Annotated[tuple[str, str], Depends(_key)]
Named = Annotated[str, Path(pattern=f"^{VERSION}$")]
Processor = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
Limit = Annotated[int, Query(ge=1, le=200)]


@router.get("/catalogue/terms")
async def get_terms(caller: Caller, publishing: Publishers) -> TermsOut:
    """Which terms of publishing there are now."""
    del caller
    return TermsOut(terms=publishing.terms)


@router.get("/catalogue/entries")
async def list_entries(
    caller: Caller,
    publishing: Publishers,
    *,
    everybody: bool = False,
    cursor: Annotated[str, Query(max_length=160, pattern=r"^[A-Za-z0-9/_.-]*$")] = "",
    limit: Limit = 50,
) -> EntriesOut:
    """What the caller may change, published or not. `everybody`: all there is, for administrators."""
    begin = _CURSOR.fullmatch(cursor or "-/-")
    if begin is None:
        raise NotDone(Why.INVALID, "this is no cursor of this list: send it back as it was, or none", "cursor")
    after = (begin[1], begin[2]) if cursor else ("", "")
    found = await publishing.mine(caller, everybody=everybody, after=after, limit=limit + 1)
    last = "/".join(found[limit - 1].key) if len(found) > limit else ""
    return EntriesOut(entries=[EntryOut(**_entry(each)) for each in found[:limit]], cursor=last)


@router.post("/catalogue/entries", status_code=201)
async def publish(caller: Caller, publishing: Publishers, response: Response, wanted: Publication) -> WholeEntryOut:
    """A version of something of the caller's, which comes into being with its first version. To repeat it is safe."""
    return _detail(response, await publishing.publish(caller, wanted))


@router.get(_ENTRY)
async def get_entry(caller: Caller, publishing: Publishers, response: Response, key: Key) -> WholeEntryOut:
    """One that the caller may change, with all its versions."""
    return _detail(response, await publishing.get(caller, key))


@router.patch(_ENTRY)
async def hand_over(
    caller: Caller, publishing: Publishers, response: Response, key: Key, wanted: HandoverIn, seen: Seen
) -> WholeEntryOut:
    """Who sees it and who maintains it; for its owner."""
    people = None if wanted.maintainers is None else tuple(wanted.maintainers)
    change = Handover(visibility=wanted.visibility, group=wanted.group, maintainers=people)
    return _detail(response, await publishing.hand_over(caller, key, change, seen))


@router.post(_ENTRY + "/versions", status_code=201)
async def publish_version(
    caller: Caller, publishing: Publishers, response: Response, key: Key, wanted: Publication
) -> WholeEntryOut:
    """A version of an entry that the caller maintains. To repeat it is safe."""
    _ensure_same(key, wanted)
    return _detail(response, await publishing.publish(caller, wanted, key[1]))


@router.get(_ENTRY + "/versions/{version}")
async def get_version(caller: Caller, publishing: Publishers, key: Key, version: Named) -> DocumentOut:
    """The document of a version, published or not, for those who maintain the entry."""
    found = await publishing.document(caller, key, version)
    return DocumentOut(version=version, revision=found.revision, published=found.published, document=found.document)


@router.post(_ENTRY + "/versions/{version}/unpublish")
async def unpublish_version(
    caller: Caller, publishing: Publishers, response: Response, key: Key, version: Named, seen: Seen
) -> WholeEntryOut:
    """From the answer on nobody finds the version. Runs of it stay. To repeat it is safe."""
    return _detail(response, await publishing.unpublish(caller, key, version, seen))


@router.post(_ENTRY + "/versions/{version}/republish")
async def republish_version(
    caller: Caller,
    publishing: Publishers,
    response: Response,
    key: Key,
    version: Named,
    wanted: Publication,
    seen: Seen,
) -> WholeEntryOut:
    """The version again, with this document: a new revision. Runs keep the one that they had. To repeat it is safe."""
    _ensure_same(key, wanted)
    if wanted.version != version:
        raise NotDone(Why.INVALID, "the path names another version", "version")
    return _detail(response, await publishing.republish(caller, key, wanted, seen))


@router.put(_ENTRY + "/star")
async def star(caller: Caller, using: Users, key: Key) -> StarsOut:
    """One from the caller, to anything that they see. To repeat it is safe."""
    return StarsOut(stars=await using.star(caller, key, given=True))


@router.delete(_ENTRY + "/star")
async def unstar(caller: Caller, using: Users, key: Key) -> StarsOut:
    """Take it back. To repeat it is safe."""
    return StarsOut(stars=await using.star(caller, key, given=False))


@router.post("/catalogue/processors/{processor}/runs", status_code=201)
async def record_run(caller: Caller, using: Users, processor: Processor, wanted: RunIn) -> RunOut:
    """A run, whose parameters are checked and completed. It is recorded, and started by whoever asks."""
    return RunOut.of(await using.record(caller, processor, wanted.version, wanted.parameters))


@router.get("/catalogue/runs")
async def list_runs(caller: Caller, using: Users, cursor: UUID | None = None, limit: Limit = 50) -> RunsOut:
    """One's own."""
    found = await using.runs(caller, before=cursor, limit=limit + 1)
    page = [RunOut.of(each) for each in found[:limit]]
    return RunsOut(runs=page, cursor=str(page[-1].id) if len(found) > limit else "")


@router.get("/catalogue/runs/{run}")
async def get_run(caller: Caller, using: Users, run: UUID) -> RunOut:
    """One of one's own, as it was."""
    return RunOut.of(await using.run(caller, run))


@router.delete("/catalogue/runs/{run}", status_code=204)
async def delete_run(caller: Caller, using: Users, run: UUID) -> None:
    """One of one's own."""
    await using.forget(caller, run)


def _ensure_same(key: tuple[str, str], wanted: Publication) -> None:
    if wanted.collection != key[0]:
        raise NotDone(Why.INVALID, "the path names another collection", "collection")


def _detail(response: Response, found: Detail) -> WholeEntryOut:
    response.headers.update({**NO_STORE, "etag": f'"{found.entry.version}"'})
    return WholeEntryOut(**_entry(found.entry), versions=[VersionOut.of(each) for each in found.versions])


def _entry(row: Row) -> dict[str, Any]:
    names = ("collection", "id", "name", "visibility", "stars", "version", "created_at", "changed_at")
    owned = row.owned
    whose = {name: getattr(owned, name) for name in ("issuer", "owner", "owner_name", "group")}
    return {**{name: getattr(row, name) for name in names}, **whose, "maintainers": [*owned.maintainers]}
