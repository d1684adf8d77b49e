"""What operators' commands share: times as people write them, who it is, and rows as a table, JSON or CSV."""

from __future__ import annotations

import csv
import getpass
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from difflib import get_close_matches
from typing import Any, TypeVar

import click

from ext_authz.errors import ConfigError, escaped

C = TypeVar("C", bound=Callable[..., Any])
Row = Mapping[str, object]

_AGO = re.compile(r"([0-9]{1,7})([smhdw])(?: ago)?")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LASTS = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_LONGEST = timedelta(days=3650)
_LONGEST_NAME = 200
_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?:Z|[+-][0-9]{2}:?[0-9]{2})?")
_FORMULA = ("=", "+", "-", "@")
"""A spreadsheet computes what begins like this (https://owasp.org/www-community/attacks/CSV_Injection)."""


class Time(click.ParamType[datetime]):
    """A time of today, a date, a date and time, or how long ago."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        try:
            return _usable(_ago(text) or _today(text) or datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            self.fail("write 15m (ago), 10:30 (today), 2026-11-01 or 2026-11-01T10:30:00+01:00", param, ctx)


def _usable(at: datetime) -> datetime:
    """In UTC, and not so near to the ends of all times that nothing could be computed with it."""
    at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    if not 1970 <= at.year < 9999:
        raise ValueError("no time of a call")
    return at


def _ago(text: str) -> datetime | None:
    ago = _AGO.fullmatch(text)
    return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) if ago else None


def _today(text: str) -> datetime | None:
    if not _CLOCK.fullmatch(text):
        return None
    clock = time.fromisoformat(text if text[2] == ":" else f"0{text}")
    zone = clock.tzinfo or UTC
    return datetime.combine(datetime.now(zone), clock, zone)


class Duration(click.ParamType[timedelta]):
    """A whole number and a unit."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        match = _LASTS.fullmatch(str(value))
        duration = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
        if duration is None or duration > _LONGEST:
            self.fail("must be a whole number and a unit, like 90s, 15m, 12h or 30d, and at most 3650d", param, ctx)
        return duration


class OneOf(click.Choice[str]):
    """One of some words; says which one is similar to another."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401 - click's
        if isinstance(param, click.Option) and param.multiple and "," in str(value):
            self.fail(f"write {param.opts[0]} once for each, without commas", param, ctx)
        near = get_close_matches(str(value), self.choices, n=1)
        if value not in self.choices and near:
            self.fail(f"there is no {value!r}: did you mean {near[0]}?", param, ctx)
        return super().convert(value, param, ctx)


def period_options(since: str | Callable[[], datetime], meaning: str) -> Callable[[C], C]:
    """--since and --until; `since` is the default of the former."""

    def added(command: C) -> C:
        until = click.option("--until", type=Time(), metavar="TIME", default="0m", help="End, exclusive. Default: now.")
        start = f"Start: 15m, 10:30, 2026-11-01 or ISO 8601; UTC if it has no offset. Default: {meaning}."
        return click.option("--since", type=Time(), metavar="TIME", default=since, help=start)(until(command))

    return added


def ensure_period(since: datetime, until: datetime) -> None:
    """Raises ConfigError if it has no duration."""
    if since >= until:
        asked = f"{utc(until)} is not later than {utc(since)}"
        raise ConfigError(f"--until: must be later than --since, and {asked}; 10:30 is a time of today, in UTC")


def short(longest: int) -> Callable[[click.Context, click.Parameter, str], str]:
    """A callback of click, which takes no longer text than that, and nothing that controls a terminal."""

    def checked(_: click.Context, option: click.Parameter, text: str) -> str:
        if len(text) > longest or not text.isprintable():
            raise ConfigError(f"{option.opts[0]}: at most {longest} printable characters")
        return text

    return checked


def operator() -> str:
    """Who runs this command, where nobody says so."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no user of this number, in a container
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:_LONGEST_NAME]


by_option = click.option(
    "--by", default="", callback=short(_LONGEST_NAME), help="Name of the operator. Default: user@host."
)
issuer_option = click.option(
    "--issuer", metavar="NAME", default="", help="Name of the issuer in the policy, if ambiguous."
)
format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True,
    help="Output format; JSON is one array, CSV has a header.",
)  # fmt: skip


def print_rows(columns: Sequence[str], rows: Sequence[Row], form: str, *, table: Sequence[str] = ()) -> None:
    """`columns`: of every row, in order. `table`: those that a table has; the default is all of them."""
    if form == "json":
        click.echo(json.dumps([{name: plain(row[name]) for name in columns} for row in rows], indent=2))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([uncomputed(row[name]) for name in columns] for row in rows)
    else:
        for line in _table(table or columns, rows):
            click.echo(line)


def _table(columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["none"]
    head = [name.upper().replace("_", " ") for name in columns]
    lines = [head, *([_text(row[name]) or "-" for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [all(isinstance(row[name], int) for row in rows) for name in columns]
    return ["  ".join(_aligned(*cell) for cell in zip(line, widths, numeric, strict=True)).rstrip() for line in lines]


def _aligned(text: str, width: int, numeric: bool) -> str:  # noqa: FBT001 - of a column
    return text.rjust(width) if numeric else text.ljust(width)


def uncomputed(value: object) -> str:
    """As a spreadsheet shows it as text."""
    text = _text(value)
    return f"'{text}" if isinstance(value, str | list | tuple) and text.startswith(_FORMULA) else text


def _text(value: object) -> str:
    """In one line, and without what could control a terminal; lists as words."""
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    return "" if value is None else escaped(str(plain(value)))


def plain(value: object) -> object:
    """As JSON has it."""
    return utc(value) if isinstance(value, datetime) else value


def utc(at: datetime) -> str:
    """As it is printed everywhere."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
