"""What is asked of GitLab (API v4): a project, and everybody who has a part in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.identity.fetch import LongBody, WrongBody, body_of
from ext_authz.identity.project_rights import Project

SECONDS = 5.0
"""Longest wait for one answer."""
_BODY = 1 << 20
PAGE = 100
_PAGES = 100
"""So 10,000 members at most."""

NOTHING = Project("private", {})
"""Gives nobody a right."""


class GitlabApi:
    """One GitLab. Raises Unavailable("gitlab"), with a sentence that names the project."""

    def __init__(self, url: str, token: str, http: httpx.AsyncClient, clock: Clock) -> None:
        """`url`: of the GitLab, without /api/v4. `token`: with the scope read_api, of somebody who sees the projects
        and their members."""
        self._url = f"{url.rstrip('/')}/api/v4"
        self._headers = {"private-token": token, "accept": "application/json"}
        self._http, self._clock = http, clock

    async def project(self, path: str) -> Project:
        """As it is now. One that is not there, or that the token cannot see, is `NOTHING`."""
        found = await self.json(path, f"/projects/{quote(path, safe='')}")
        if found is None:
            return NOTHING
        number, visibility = _number(path, found), _visibility(path, found)
        return Project(visibility, await self.members(path, number), number)

    async def members(self, path: str, number: int) -> dict[str, int]:
        """Access levels by the numbers of users, those of the groups above included."""
        found: dict[str, int] = {}
        async for member in self._members(path, number):
            user, level = self._member(path, member)
            found[user] = max(level, found.get(user, 0))
        return {user: level for user, level in found.items() if level > 0}

    async def _members(self, path: str, number: int) -> AsyncIterator[object]:
        for page in range(1, _PAGES + 1):
            found = await self.json(path, f"/projects/{number}/members/all?per_page={PAGE}&page={page}")
            if not isinstance(found, list):
                raise _unusable(path, "its members are not a list")
            for member in found:
                yield member
            if len(found) < PAGE:
                return
        raise _unusable(path, f"it has {PAGE * _PAGES} members or more")

    def _member(self, path: str, member: object) -> tuple[str, int]:
        """The user's number, and the access level; 0 of who is blocked, still has to be let in, or whose time is
        over."""
        if (
            not isinstance(member, dict)
            or type(member.get("id")) is not int
            or type(member.get("access_level")) is not int
        ):
            raise _unusable(path, "a member has no number or no access level")
        states = (member.get("state", "active"), member.get("membership_state", "active"))
        is_in = states == ("active", "active") and not self._is_over(path, member.get("expires_at"))
        return str(member["id"]), member["access_level"] if is_in else 0

    def _is_over(self, path: str, text: object) -> bool:
        """GitLab removes who expired once a day."""
        if text is None:
            return False
        try:
            return date.fromisoformat(str(text)[:10]) <= datetime.fromtimestamp(self._clock.now(), UTC).date()
        except ValueError:
            raise _unusable(path, "the end of a membership is not a date") from None

    async def json(self, path: str, target: str) -> Any:  # noqa: ANN401 - JSON
        """`path`: of the project, for messages. `target`: after /api/v4. None: there is no such thing."""
        try:
            found = await self._get(path, target, _BODY)
            return None if found is None else msgspec.json.decode(found)
        except (WrongBody, msgspec.DecodeError, UnicodeDecodeError):
            raise _unusable(path, "its answer is not JSON, or longer than 1 MiB") from None

    async def raw(self, path: str, target: str, most: int) -> bytes | None:
        """Of a file, as it is. None: it is not there, or has more than `most` bytes."""
        try:
            return await self._get(path, target, most)
        except LongBody:
            return None
        except WrongBody:
            raise _unusable(path, "a file of it cannot be unpacked") from None

    async def _get(self, path: str, target: str, most: int) -> bytes | None:
        try:
            async with (
                asyncio.timeout(SECONDS),
                self._http.stream("GET", f"{self._url}{target}", headers=self._headers) as response,
            ):
                if response.status_code == HTTPStatus.NOT_FOUND:
                    return None
                if response.status_code != HTTPStatus.OK:
                    raise _unusable(path, f"status {response.status_code}")
                return await body_of(response, most)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as failure:
            raise _unusable(path, type(failure).__name__) from None


def _number(path: str, found: object) -> int:
    """A project that was renamed answers at its old path too: its new one is not in the policy."""
    if not isinstance(found, dict) or type(found.get("id")) is not int:
        raise _unusable(path, "it has no number")
    if found.get("path_with_namespace") != path:
        raise _unusable(path, "GitLab has it under another path: write that one into the policy")
    return int(found["id"])


def _visibility(path: str, found: Mapping[str, object]) -> str:
    """Private too where only members reach the repository of a project that others see."""
    visibility = found.get("visibility")
    if visibility not in ("private", "internal", "public"):
        raise _unusable(path, "it has no visibility")
    return str(visibility) if found.get("repository_access_level", "enabled") == "enabled" else "private"


def _unusable(path: str, what: str) -> Unavailable:
    return Unavailable("gitlab", f"{path}: {what}")
