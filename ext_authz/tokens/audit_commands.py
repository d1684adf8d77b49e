"""`tollgate audit ...`. Exit code of `verify`: 0, the whole chain is good; 1, it is not."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click
from msgspec import structs

from ext_authz.report import format_option, print_rows

if TYPE_CHECKING:
    from ext_authz.db.postgres import Connection
    from ext_authz.tokens.audit import Head

R = TypeVar("R")

TABLE = ("position", "at", "actor", "via", "address", "action", "object")
NEEDS = {"audit_log": ("SELECT",)}


class _HeadParameter(click.ParamType["Head"]):
    name = "head"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Head:
        from ext_authz.tokens.audit import Head

        position, _, digest = str(value).partition(":")
        if not (position.isascii() and position.isdigit() and len(position) < 19 and len(digest) == 64):
            self.fail("write POSITION:HASH, as tollgate audit verify printed it", param, ctx)
        return Head(int(position), digest.lower())


@click.group()
def audit() -> None:
    """List the audit log, and verify that nobody changed it.

    It has every change to tokens, service accounts, keys and revocations.
    """


@audit.command("list")
@click.option("--object", "what", default="", help="Only about this: grant:ID, user:ISSUER:SUB, key:KID.")
@click.option("--who", default="", help="Only by this actor.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Maximum number.")
@click.option("--before", type=click.IntRange(1), metavar="POSITION", help="Continue before this position.")
@format_option
def list_entries(what: str, who: str, limit: int, before: int | None, form: str) -> None:
    """List entries, the newest first."""
    from ext_authz.tokens.audit import AuditEntry, entries

    found = _with(lambda asked: entries(asked, object=what, who=who, before=before, limit=limit + 1))
    rows = [{**structs.asdict(each), "hash": each.hash.hex()} for each in found[:limit]]
    print_rows(AuditEntry.__struct_fields__, rows, form, table=TABLE)
    if len(found) > limit:
        click.echo(f"there are more: --before {found[limit - 1].position}", err=True)


@audit.command()
@click.option("--head", type=_HeadParameter(), help="What an earlier run printed: it must still be there.")
def verify(head: Head | None) -> None:
    """Compute the chain again, and print its head, POSITION:HASH.

    Exit code 1: it is broken; the position of the first wrong entry is on standard error. Entries that are missing at
    the end show only with --head.
    """
    from ext_authz.tokens.audit import START
    from ext_authz.tokens.audit import verify as verified

    async def work(connection: Connection) -> None:
        async def read(query: Callable[[Connection], Awaitable[R]]) -> R:
            return await query(connection)

        found = await verified(read, head or START)
        if found.broken_at:
            click.echo(f"position {found.broken_at}: {found.why}; good up to {found.head}", err=True)
            sys.exit(1)
        click.echo(str(found.head))

    _with(work)


def _with(work: Callable[[Connection], Awaitable[R]]) -> R:
    import asyncio

    from ext_authz.db.tables import connected
    from ext_authz.settings import DatabaseSettings, load_settings

    async def done() -> R:
        async with connected(load_settings(DatabaseSettings).database_url, NEEDS) as connection:
            return await work(connection)

    return asyncio.run(done())
