"""The table `gitlab_entries`: written here, read by the console for the catalogue."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from hashlib import sha256

import msgspec
from psycopg.types.json import Jsonb

from ext_authz.db.postgres import Connection
from ext_authz.gitlab.listed import Listed

NEEDS = {"gitlab_entries": ("SELECT", "INSERT", "UPDATE", "DELETE")}

_BEGUN = """
SELECT clock_timestamp(), coalesce(jsonb_object_agg(number, commit), '{}') FROM gitlab_entries WHERE issuer = %(issuer)s
"""
# Without content where there is none of this commit, because another process was quicker: it is read in the next round.
_WRITE = """
INSERT INTO gitlab_entries AS held (issuer, number, path, visibility, members, collections, about, commit, content,
    digest, asked_at)
VALUES (%(issuer)s, %(number)s, %(path)s, %(visibility)s, %(members)s, %(collections)s, %(about)s,
    CASE WHEN %(content)s::jsonb IS NULL THEN '' ELSE %(commit)s END, coalesce(%(content)s::jsonb, '{}'),
    CASE WHEN %(content)s::jsonb IS NULL THEN '' ELSE %(digest)s END, %(asked_at)s)
ON CONFLICT (issuer, number) DO UPDATE SET path = excluded.path, visibility = excluded.visibility,
    members = excluded.members, collections = excluded.collections, about = excluded.about,
    commit = CASE WHEN held.commit = %(commit)s THEN held.commit ELSE excluded.commit END,
    content = coalesce(%(content)s::jsonb, held.content),
    digest = CASE WHEN held.commit = %(commit)s THEN %(digest)s ELSE excluded.digest END,
    asked_at = excluded.asked_at
WHERE held.asked_at < excluded.asked_at
"""
_KEEP = (
    "DELETE FROM gitlab_entries WHERE issuer = %(issuer)s AND asked_at < %(asked_at)s AND number <> ALL(%(numbers)s)"
)


async def begun(connection: Connection, issuer: str) -> tuple[datetime, Mapping[int, str]]:
    """Now, by the clock of Postgres; the commits of which there is the content, by the number of the project."""
    found: list[tuple[datetime, dict[str, str]]] = await (
        await connection.execute(_BEGUN, {"issuer": issuer})
    ).fetchall()
    now, commits = found[0]
    return now, {int(number): commit for number, commit in commits.items()}


async def write(connection: Connection, issuer: str, listed: Listed, asked_at: datetime) -> None:
    """`asked_at`: just before GitLab was asked; an older answer than the one in the table is dropped."""
    found, project = listed.found, listed.project
    about = {
        "name": found.name,
        "description": found.description,
        "branch": found.default_branch or "",
        "stars": found.star_count,
        "at": found.last_activity_at,
    }
    said = [found.path_with_namespace, project.visibility, project.members, found.collections, about, listed.commit]
    values: dict[str, object] = {
        "issuer": issuer,
        "number": found.id,
        "path": found.path_with_namespace,
        "visibility": project.visibility,
        "members": Jsonb(dict(project.members)),
        "collections": [*found.collections],
        "about": Jsonb(msgspec.to_builtins(about)),
        "commit": listed.commit,
        "content": None if listed.content is None else Jsonb(msgspec.to_builtins(listed.content)),
        "digest": sha256(msgspec.json.encode(said, order="sorted")).hexdigest(),
        "asked_at": asked_at,
    }
    await connection.execute(_WRITE, values)


async def keep(connection: Connection, issuer: str, numbers: Collection[int], asked_at: datetime) -> None:
    """No others, unless they were written later."""
    await connection.execute(_KEEP, {"issuer": issuer, "numbers": [*numbers], "asked_at": asked_at})
