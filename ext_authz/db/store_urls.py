"""The URLs of Postgres and Redis, parsed whole before anything connects.

Their libraries guess where a URL is wrong: psycopg takes a part of an unescaped password for the host or the port and
names it in its error, redis-py takes a database that is no number for 0 and hands an option that it does not know to a
connection, much later. So the form is checked here first, and no message repeats any part of a URL but names that are
known anyway. The libraries are imported only where a URL is checked: most commands have none.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, NamedTuple, cast
from urllib.parse import quote, unquote

from pydantic import AfterValidator, SecretStr

_ESCAPES = "in a user name or password write / as %2F, ? as %3F, # as %23, @ as %40 and % as %25"
POSTGRES_FORM = "is not a URL of the form postgresql://user:password@host:port/database"
REDIS_FORM = (
    "is not a URL of the form redis://:password@host:port/0, rediss://..., unix:///path or, with Sentinel, "
    "redis+sentinel://:password@host:26379,host:26379/NAME/0"
)

_USER_INFO = r"(?:(?:[^\s/?#@\[\]%:]|%[0-9A-Fa-f]{2})*(?::(?:[^\s/?#@\[\]%]|%[0-9A-Fa-f]{2})*)?@)?"
_PORT = r"(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
_HOST = rf"(?:[A-Za-z0-9._~%-]*|\[[0-9A-Fa-f:.]+\]){_PORT}"
_QUERY = r"(?:\?(?P<query>[^\s#@?]*))?"
_POSTGRES = re.compile(rf"postgres(?:ql)?://{_USER_INFO}{_HOST}(?:,{_HOST})*(?:/[^\s/?#@]*)?{_QUERY}")
_REDIS = re.compile(rf"rediss?://{_USER_INFO}{_HOST}(?:/(?P<database>[^\s/?#@]*)/?)?{_QUERY}")
_SENTINEL = re.compile(
    rf"(?P<scheme>rediss?)\+sentinel(?P<user>://{_USER_INFO})(?P<hosts>{_HOST}(?:,{_HOST})*)"
    rf"(?:/(?P<name>[^\s/?#@]*))?(?:/(?P<database>[^\s/?#@]*)/?)?{_QUERY}"
)
_SENTINEL_PORT = 26379
_OF_SENTINEL = frozenset({"sentinel_username", "sentinel_password"})
_UNIX = re.compile(rf"unix://{_USER_INFO}/[^\s?#@]+{_QUERY}")

_POSTGRES_VALUES: Mapping[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
_POSTGRES_NUMBERS = frozenset(
    {"connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}
)
_FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_NOT_OURS = frozenset({"self", "args", "kwargs", "decode_responses", "encoding", "encoding_errors", "parser_class"})
"""What redis-py knows and a URL cannot say, or what would change the answers that Tollgate reads."""


def ensure_postgres_url(url: str) -> None:
    """Raises ValueError with one sentence that shows nothing of the URL's values."""
    form = _POSTGRES.fullmatch(url)
    if form is None:
        raise ValueError(f"{POSTGRES_FORM}; {_ESCAPES}")
    options = _options(form["query"], _postgres_options(), "libpq")
    for name, value in options.items():
        if name in _POSTGRES_VALUES and value not in _POSTGRES_VALUES[name]:
            raise ValueError(f"the option {name} must be one of {', '.join(_POSTGRES_VALUES[name])}")
        if name in _POSTGRES_NUMBERS and not value.isdecimal():
            raise ValueError(f"the option {name} must be a whole number")
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(url)
    except Error:
        raise ValueError(f"{POSTGRES_FORM}; {_ESCAPES}") from None
    _ensure_files(options)


def ensure_redis_url(url: str) -> None:
    """Raises ValueError with one sentence that shows nothing of the URL's values."""
    if form := _SENTINEL.fullmatch(url):
        _ensure_sentinels(form)
        url = sentinels_of(url).node_url
    form = _UNIX.fullmatch(url) or _REDIS.fullmatch(url)
    if form is None:
        raise ValueError(f"{REDIS_FORM}; {_ESCAPES}")
    if not re.fullmatch("[0-9]{0,9}", form.groupdict().get("database") or ""):
        raise ValueError("the database behind the / is a number, such as redis://host:6379/0")
    scheme = url.partition(":")[0]
    empty = f"{scheme}:///{'s' if scheme == 'unix' else ''}"
    options = _options(form["query"], _redis_options(empty), "redis-py", _redis_options("rediss:///") | _OF_SENTINEL)
    for name, value in options.items():
        try:
            _connection(f"{empty}?{name}={quote(value)}")
        except Exception:  # noqa: BLE001 - whatever it says, it may quote the value
            raise ValueError(f"redis-py does not take the value of the option {name}") from None
    _ensure_files(options)
    try:
        if scheme == "rediss":
            _connection(url).ssl_context.get()
    except Exception:  # noqa: BLE001 - as above
        raise ValueError("ssl_ca_certs, ssl_certfile and ssl_keyfile do not name PEM files that fit") from None


class SentinelUrl(NamedTuple):
    """The parts of redis+sentinel://[user:password@]host:port,.../NAME/DATABASE?options, or rediss+sentinel://."""

    sentinels: list[tuple[str, int]]
    name: str
    """Of the primary, as the Sentinels know it."""
    credentials: dict[str, str]
    """Of the Sentinels: username and password, if they have any."""
    node_url: str
    """All that holds for a connection to the primary, with the first Sentinel in place of its address."""


def sentinels_of(url: str) -> SentinelUrl:
    """Of a URL that is good."""
    form = cast("re.Match[str]", _SENTINEL.fullmatch(url))
    hosts = [_address(host) for host in form["hosts"].split(",")]
    pairs = [pair.partition("=") for pair in filter(None, (form["query"] or "").split("&"))]
    credentials = {name[9:]: unquote(value) for name, _, value in pairs if name in _OF_SENTINEL}
    rest = "&".join(f"{name}={value}" for name, _, value in pairs if name not in _OF_SENTINEL)
    first = form["hosts"].partition(",")[0]
    node_url = f"{form['scheme']}{form['user']}{first}/{form['database'] or ''}{'?' if rest else ''}{rest}"
    return SentinelUrl(hosts, form["name"], credentials, node_url)


def is_sentinel(url: str) -> bool:
    return url.startswith(("redis+sentinel://", "rediss+sentinel://"))


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    return (host if colon else text).strip("[]"), int(port) if colon else _SENTINEL_PORT


def _ensure_sentinels(form: re.Match[str]) -> None:
    if not all(host for host, _ in map(_address, form["hosts"].split(","))):
        raise ValueError("a Sentinel has no host: write host:26379,host:26379 between // and /NAME")
    if not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z._-][A-Za-z0-9._-]*", form["name"] or ""):
        raise ValueError(
            "behind the Sentinels comes the name of their primary, of A-Z, a-z, 0-9, ., - and _, such as "
            "redis+sentinel://host:26379/mymaster/0"
        )
    names = [pair.partition("=")[0] for pair in (form["query"] or "").split("&")]
    for name in sorted(_OF_SENTINEL):
        if names.count(name) > 1:
            raise ValueError(f"the option {name} is given twice")
    for name in ("host", "port"):
        if name in names:
            raise ValueError(f"the option {name} is of no use with Sentinel, which names the primary")
    if "sentinel_username" in names and "sentinel_password" not in names:
        raise ValueError("the option sentinel_username needs sentinel_password")


def _checked(ensure: Callable[[str], None]) -> AfterValidator:
    def check(url: SecretStr) -> SecretStr:
        ensure(url.get_secret_value())
        return url

    return AfterValidator(check)


PostgresUrl = Annotated[SecretStr, _checked(ensure_postgres_url)]
RedisUrl = Annotated[SecretStr, _checked(ensure_redis_url)]


def without_credentials(url: str) -> str:
    """What may be shown of a URL of either kind: not its user and password, and none of its options."""
    if not any(form.fullmatch(url) for form in (_POSTGRES, _REDIS, _SENTINEL, _UNIX)):
        return "***"
    return re.sub("(?<=://)[^@/]*@", "***@", url.partition("?")[0])


def redis_database(url: str) -> int:
    """The number of the database in a URL that is good."""
    from redis.asyncio.connection import parse_url

    return int(parse_url(node_url(url)).get("db") or 0)


def node_url(url: str) -> str:
    """What redis-py can parse."""
    return sentinels_of(url).node_url if is_sentinel(url) else url


def _options(query: str | None, known: Iterable[str], library: str, elsewhere: Iterable[str] = ()) -> dict[str, str]:
    """By name. An unknown name is repeated only where it is similar to a known one: it may be a part of a password."""
    options: dict[str, str] = {}
    for pair in filter(None, (query or "").split("&")):
        name, _, value = pair.partition("=")
        if name in options:
            raise ValueError(f"the option {name} is given twice")
        if name not in known:
            raise ValueError(_unknown(name, known, library, elsewhere))
        options[name] = unquote(value)
    return options


def _unknown(name: str, known: Iterable[str], library: str, elsewhere: Iterable[str]) -> str:
    if name in elsewhere:
        return f"the option {name} is for {'redis+sentinel' if name in _OF_SENTINEL else 'rediss'}:// only"
    near = difflib.get_close_matches(name[:64], [*known, *elsewhere], n=1, cutoff=0.8)
    if near:
        return f"{library} knows no option {name}: did you mean {near[0]}?"
    return f"after the ? there is an option that {library} does not know; {_ESCAPES}"


@cache
def _postgres_options() -> frozenset[str]:
    from psycopg.pq import Conninfo

    return frozenset(option.keyword.decode() for option in Conninfo.get_defaults())


def _connection(url: str) -> Any:  # noqa: ANN401 - redis-py's connections have no base class with their options
    """Not connected."""
    from redis.asyncio.connection import Connection, parse_url

    options: dict[str, Any] = {**parse_url(url)}
    return options.pop("connection_class", Connection)(**options)


@cache
def _redis_options(url: str) -> frozenset[str]:
    """The options that a connection of this kind takes."""
    names = {name for kind in type(_connection(url)).__mro__ for name in inspect.signature(kind).parameters}
    return frozenset(names) - _NOT_OURS


def _ensure_files(options: Mapping[str, str]) -> None:
    for name in _FILES & options.keys():
        if options[name] != "system" and not os.access(options[name], os.R_OK):
            raise ValueError(f"the file that the option {name} names cannot be read")
