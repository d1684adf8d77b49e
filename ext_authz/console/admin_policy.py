"""The page of administrators about the policy: which one decides where, the last reloads, and what a candidate would.

What replicas did is in the ledger. What one of them says of itself is behind its admin socket, which only a console on
the same machine, of the same user, can ask: elsewhere `tollgate policy status` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import httpx
from msgspec import Struct
from starlette.responses import Response
from starlette.routing import Route

from ext_authz.console.administration import for_administrators
from ext_authz.console.frame import Frame, Visit
from ext_authz.console.guard import Guard
from ext_authz.db.postgres import Connection, Pool
from ext_authz.policy.model import Policy

_SECONDS = 2.0
_MOST_DIFFERENCES = 50
_SEEN: LiteralString = """
SELECT policy, count(*), min(occurred_at), max(occurred_at)
FROM (SELECT policy, occurred_at FROM usage_events ORDER BY decision_id DESC LIMIT 10000) AS latest
GROUP BY policy ORDER BY max(occurred_at) DESC LIMIT 20
"""


class Seen(Struct, frozen=True):
    """A policy by which calls were decided lately."""

    hash: str
    decisions: int
    first_at: datetime
    last_at: datetime


class AdminPolicy:
    """Handlers."""

    def __init__(self, frame: Frame, guard: Guard, policy: Policy, pool: Pool, socket: Path) -> None:
        """`socket`: of the authorizer on this machine, if there is one."""
        self._frame = frame
        self._guard = guard
        self._policy = policy
        self._pool = pool
        self._socket = socket

    def routes(self) -> list[Route]:
        return [self._guard.page("/admin/policy", for_administrators(self.show))]

    async def show(self, visit: Visit) -> Response:
        authorizer, candidate = await self._asked("/policy"), await self._asked("/policy/candidate")
        differences: Sequence[Mapping[str, Any]] = (candidate or {}).get("differences", ())
        dry_runs = [rule for rule in self._policy.limits.values() if rule.dry_run]
        return self._frame.render(
            "admin_policy.html",
            visit,
            policy=self._policy,
            seen=await self._pool.run(_seen),
            authorizer=authorizer,
            candidate=candidate,
            differences=[
                {**each, "at": datetime.fromtimestamp(each["at"], UTC)} for each in differences[:_MOST_DIFFERENCES]
            ],
            dry_runs=dry_runs,
        )

    async def _asked(self, path: str) -> dict[str, Any] | None:
        """None: nobody answers there."""
        if not self._socket.exists():
            return None
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://admin", timeout=_SECONDS) as client:
                answer = await client.get(path)
                found: dict[str, Any] = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return None
        return found


async def _seen(connection: Connection) -> list[Seen]:
    return [Seen(*row) for row in await (await connection.execute(_SEEN)).fetchall()]
