"""Projects of a GitLab that belong in the catalogue, by their topics, as SharingHub has them: what is asked about them.

Whoever may write to such a project writes what is read here. So every text, list and number has a bound, and what is
beyond is left out.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from ext_authz.catalogue.cards import MOST_BYTES, card_of
from ext_authz.catalogue.entry import DATASETS, MODELS, PROCESSORS, Card
from ext_authz.errors import Unavailable
from ext_authz.gitlab import lfs
from ext_authz.gitlab.api import PAGE, GitlabApi
from ext_authz.gitlab.lfs import File
from ext_authz.identity.project_rights import Project

log = logging.getLogger(__name__)

TOPICS: Mapping[str, str] = {
    "sharinghub:aimodel": MODELS,
    "sharinghub:dataset": DATASETS,
    "sharinghub:processor": PROCESSORS,
}
"""Of GitLab, to the collections of the catalogue."""
MOST = 1000
"""Projects."""
MOST_PAGES = 20
"""Of projects with one topic, 50 each: an answer with all that GitLab says of a project is long."""
_PROJECTS = 50
MOST_TREE = 10
"""Pages of the files of one repository, 100 each."""
MOST_FILES = 50
"""That Git LFS keeps, of one repository."""
_PATH = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)+\Z"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LONGEST_PATH, _LONGEST_NAME, _LONGEST_TEXT = 255, 255, 2000
_LONGEST_DESCRIPTION = 16_384
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and newline, and those that turn the direction of what follows."""


class Found(Struct, frozen=True):
    """A project, as GitLab lists it."""

    id: Annotated[int, Meta(ge=1)]
    path_with_namespace: Annotated[str, Meta(max_length=_LONGEST_PATH, pattern=_PATH)]
    name: str
    visibility: Literal["private", "internal", "public"]
    last_activity_at: datetime
    topics: list[str] = []
    description: str | None = None
    default_branch: Annotated[str, Meta(max_length=_LONGEST_NAME, pattern=r"^[^\x00-\x20\x7f]*\Z")] | None = None
    star_count: int = 0
    repository_access_level: str = "enabled"

    @property
    def collections(self) -> tuple[str, ...]:
        return tuple(collection for topic, collection in TOPICS.items() if topic in self.topics)


class Content(Struct, frozen=True):
    """What is in the repository, at one commit."""

    card: Card = Card()
    files: tuple[File, ...] = ()


class Listed(Struct, frozen=True):
    """All that is known of one of them."""

    found: Found
    project: Project
    commit: str
    """Of the default branch; empty: there is none."""
    content: Content | None
    """None: as it was at this commit."""


class ListedProjects:
    """Raises Unavailable("gitlab"), with a sentence that names the project."""

    def __init__(self, api: GitlabApi, below: Collection[str]) -> None:
        """`below`: groups and projects; what is not in one of them is nobody's here."""
        self._api, self._below = api, below

    async def all(self) -> Sequence[Found]:
        """By number."""
        found: dict[int, Found] = {}
        for topic in TOPICS if self._below else ():
            async for each in self._with(topic):
                found[each.id] = each
        if len(found) > MOST:
            log.error("catalogue: GitLab has more projects than are listed", extra={"detail": "all topics"})
        return [found[number] for number in sorted(found)][:MOST]

    async def listed(self, found: Found, known: str | None) -> Listed:
        """`known`: at which commit its content was read before."""
        path, number = found.path_with_namespace, found.id
        members = await self._api.members(path, number)
        reachable = found.repository_access_level == "enabled"
        project = Project(found.visibility if reachable else "private", members, number)
        commit = await self._commit(found)
        if commit == known:
            return Listed(found, project, commit, None)
        return Listed(found, project, commit, await self._content(path, number, commit) if commit else Content())

    async def _with(self, topic: str) -> AsyncIterator[Found]:
        """Others can give a project such a topic too, and write into it what they want: it is left out."""
        for page in range(1, MOST_PAGES + 1):
            target = f"/projects?topic={quote(topic, safe='')}&order_by=id&sort=asc&per_page={_PROJECTS}&page={page}"
            answer = await self._api.json(topic, target)
            if not isinstance(answer, list):
                raise Unavailable("gitlab", f"{topic}: its projects are not a list")
            for each in map(_found, answer):
                if each and topic in each.topics and self._is_below(each.path_with_namespace):
                    yield each
            if len(answer) < _PROJECTS:
                return
        log.error("catalogue: GitLab has more projects than are listed", extra={"detail": topic})

    def _is_below(self, path: str) -> bool:
        return any(path == each or path.startswith(f"{each}/") for each in self._below)

    async def _commit(self, found: Found) -> str:
        if not found.default_branch:
            return ""
        target = f"/projects/{found.id}/repository/branches/{quote(found.default_branch, safe='')}"
        branch = await self._api.json(found.path_with_namespace, target)
        commit = branch.get("commit") if isinstance(branch, dict) else None
        text = commit.get("id") if isinstance(commit, dict) else None
        return text if isinstance(text, str) and _COMMIT.fullmatch(text) else ""

    async def _content(self, path: str, number: int, commit: str) -> Content:
        readme = await self._text(path, number, commit, "README.md", MOST_BYTES)
        card = await asyncio.to_thread(card_of, readable(readme, MOST_BYTES), path)
        card = msgspec.structs.replace(
            card,
            title=readable(card.title),
            description=card.description[:_LONGEST_DESCRIPTION],
            keywords=tuple(map(readable, card.keywords)),
        )
        attributes = await self._text(path, number, commit, ".gitattributes", MOST_BYTES)
        tracked = lfs.patterns(attributes)
        files = [each async for each in self._files(path, number, commit, tracked)] if tracked else []
        return Content(card, tuple(files))

    async def _files(self, path: str, number: int, commit: str, tracked: Collection[str]) -> AsyncIterator[File]:
        left = MOST_FILES
        async for name in self._tree(path, number, commit):
            if not lfs.is_kept(name, tracked):
                continue
            if not left:
                log.warning("catalogue: a project has more files than are listed", extra={"detail": path})
                return
            left -= 1
            content = await self._raw(path, number, commit, name, lfs.MOST_BYTES)
            if content is not None and (file := lfs.file_of(name, content)):
                yield file

    async def _tree(self, path: str, number: int, commit: str) -> AsyncIterator[str]:
        for page in range(1, MOST_TREE + 1):
            target = f"/projects/{number}/repository/tree?recursive=true&ref={commit}&per_page={PAGE}&page={page}"
            answer = await self._api.json(path, target)
            if not isinstance(answer, list):
                return
            for each in answer:
                name = each.get("path") if isinstance(each, dict) and each.get("type") == "blob" else None
                if isinstance(name, str) and is_name(name):
                    yield name
            if len(answer) < PAGE:
                return

    async def _text(self, path: str, number: int, commit: str, name: str, most: int) -> str:
        """Empty: it is not there, or too long."""
        return (await self._raw(path, number, commit, name, most) or b"").decode(errors="replace")

    async def _raw(self, path: str, number: int, commit: str, name: str, most: int) -> bytes | None:
        target = f"/projects/{number}/repository/files/{quote(name, safe='')}/raw?ref={commit}"
        return await self._api.raw(path, target, most)


def is_name(name: str) -> bool:
    """Of a file, such as can be written into an address and shown."""
    parts = name.split("/")
    return len(name) <= _LONGEST_NAME and name.isprintable() and not {"", ".", ".."} & {*parts}


def readable(text: str, most: int = _LONGEST_TEXT) -> str:
    return _UNPRINTABLE.sub("", text)[:most]


def _found(answer: object) -> Found | None:
    """None: it is none that can be shown, and the log says why."""
    try:
        each = msgspec.convert(answer, Found, strict=True)
        at = each.last_activity_at
        return msgspec.structs.replace(
            each,
            name=readable(each.name, _LONGEST_NAME),
            description=readable(each.description or ""),
            last_activity_at=(at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC),
            star_count=max(0, min(each.star_count, 10**9)),
        )
    except (ValueError, OverflowError, msgspec.ValidationError) as failure:
        log.warning("catalogue: a project is left out", extra={"detail": str(failure)[:200]})
        return None
