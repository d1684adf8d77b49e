"""The options that the commands about revocations share, and what they come to."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import click

from ext_authz.errors import ConfigError
from ext_authz.revocation import presented
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.target import CLAIMS, Wanted

C = TypeVar("C", bound=Callable[..., Any])

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST = timedelta(days=3650)
LONGEST_REASON, _LONGEST_NAME = 1000, 200
_JWT = re.compile(r"eyJ[\w-]*\.[\w-]*\.[\w-]*")


class Duration(click.ParamType[timedelta]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", str(value))
        lifetime = timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else None
        if lifetime is None or lifetime > _LONGEST:
            self.fail("must be a whole number and a unit, like 90s, 15m, 12h or 30d, and at most 3650d", param, ctx)
        return lifetime


class Since(click.ParamType[datetime]):
    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if re.fullmatch(r"[1-9][0-9]{0,8}[smhd]", str(value)):
            return datetime.now(UTC) - Duration().convert(value, param, ctx)
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail("must be like 24h, 7d, 2026-11-01 or 2026-11-01T12:00:00Z", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def by_what_there_is(command: C) -> C:
    """The ways to say what is meant, besides the value itself."""
    for option in (
        click.option("--jwt", type=presented.StandardInput(), help="Take it from the token on standard input."),
        click.option("--decision", type=click.UUID, metavar="ID", help="Take it from a decision, by its id."),
        click.option("--username", help="Of a user: look the name up in the ledger."),
        click.option("--issuer", metavar="NAME", default="", help="Name of the issuer in the policy, if not plain."),
    ):
        command = option(command)
    return command


def about(command: C) -> C:
    """Who and why, of every change."""
    command = click.option("--reason", default="", help="Why; kept in the history.")(command)
    return click.option("--by", default="", help="Who; you and this machine if left out.")(command)


def wanted(
    kind: Kind,
    metavar: str,
    *,
    value: str | None,
    jwt: str | None,
    decision: UUID | None,
    username: str | None,
    issuer: str,
    force: bool = False,
) -> Wanted:
    """What the options say; exactly one of the ways."""
    ways = [metavar, "--jwt -", "--decision ID", *(["--username NAME"] if kind is Kind.USER else [])]
    if sum(given is not None for given in (value, jwt, decision, username)) != 1 or (username and len(ways) < 4):
        raise ConfigError(f"say what to revoke by one of {', '.join(ways)}")
    if value is not None and _JWT.search(value):
        raise ConfigError(
            f"this is a token, not its {CLAIMS[kind]}: pipe it into --jwt -, where nobody else can read it"
        )
    named = None if jwt is None else presented.read(jwt)
    return Wanted(
        kind=kind,
        value=value or "",
        username=username or "",
        issuer=issuer,
        force=force,
        named=named,
        decision=decision,
    )


def actor(by: str) -> str:
    """Who does it; who is logged in on this machine if they do not say."""
    ensure_short("--by", by, _LONGEST_NAME)
    if by:
        return by
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # nobody of this number, in a container
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:_LONGEST_NAME]


def ensure_short(option: str, text: str, longest: int = LONGEST_REASON) -> None:
    """Raises ConfigError."""
    if len(text) > longest or not text.isprintable():
        raise ConfigError(f"{option}: at most {longest} printable characters")
