"""The table `gitlab_projects`: written here, read by every authorizer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256

import msgspec
from psycopg.types.json import Jsonb

from ext_authz.db.postgres import Connection
from ext_authz.identity.project_rights import Project

NEEDS = {"gitlab_projects": ("SELECT", "INSERT", "UPDATE")}

_BEGUN = """
SELECT clock_timestamp(), coalesce(jsonb_object_agg(project, number), '{}')
FROM gitlab_projects WHERE issuer = %(issuer)s AND number IS NOT NULL
"""
_WRITE = """
INSERT INTO gitlab_projects AS held (issuer, project, number, visibility, members, digest, asked_at)
VALUES (%(issuer)s, %(project)s, %(number)s, %(visibility)s, %(members)s, %(digest)s,
    coalesce(%(asked_at)s, clock_timestamp()))
ON CONFLICT (issuer, project) DO UPDATE SET number = coalesce(held.number, excluded.number),
    visibility = excluded.visibility, members = excluded.members, digest = excluded.digest, asked_at = excluded.asked_at
WHERE held.asked_at < excluded.asked_at
"""


async def begun(connection: Connection, issuer: str) -> tuple[datetime, Mapping[str, int]]:
    """Now, by the clock of Postgres, which all processes share; the numbers of projects by their path."""
    cursor = await connection.execute(_BEGUN, {"issuer": issuer})
    found: list[tuple[datetime, dict[str, int]]] = await cursor.fetchall()
    return found[0]


async def write(connection: Connection, issuer: str, path: str, project: Project, asked_at: datetime | None) -> None:
    """`asked_at`: just before GitLab was asked; an older answer than the one in the table is dropped. None: nobody
    knows better than now."""
    text = msgspec.json.encode([project.visibility, project.members], order="sorted")
    values: dict[str, object] = {
        "issuer": issuer,
        "project": path,
        "number": project.number,
        "visibility": project.visibility,
        "asked_at": asked_at,
    }
    values |= {"members": Jsonb(dict(project.members)), "digest": sha256(text).hexdigest()}
    await connection.execute(_WRITE, values)
