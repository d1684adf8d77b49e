"""Roles of a real Postgres that may do some things and not others."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict


@contextmanager
def role(database_url: str, *grants: str) -> Iterator[str]:
    """The URL of the same database for a role of its own. `grants`: SQL, with {role} where its name belongs."""
    name = f"r{uuid.uuid4().hex}"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        for grant in grants:
            admin.execute(grant.format(role=name).encode())
        try:
            yield as_role(database_url, name)
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def as_role(database_url: str, name: str, **options: str) -> str:
    """The same database with another user and other settings."""
    target = conninfo_to_dict(database_url)
    settings = " ".join(f"-c {key}={value}" for key, value in options.items()).replace(" ", "%20").replace("=", "%3D")
    return f"postgresql://{name}@/{target['dbname']}?host={target['host']}" + (
        f"&options={settings}" if options else ""
    )


def name_in(url: str) -> str:
    return str(conninfo_to_dict(url)["user"])
