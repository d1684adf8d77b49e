"""Logs: one JSON object a line on stderr, by allow-list, and never a flood.

An allow-list because a deny-list of what must not be logged is never complete: a field that is not named here is
dropped, and only its name is written.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType

import msgspec

FIELDS = frozenset(
    {
        # who and what, as the ledger has it
        *("decision_id", "reason", "code", "route", "model", "version", "issuer", "subject", "client", "token_id"),
        *("session_id", "status", "quota"),
        # what happened to whom inside
        *("dependency", "detail", "error", "policy", "attempt", "attempts", "count", "events", "batch", "duplicates"),
        *(
            "broken",
            "depth",
            "lag",
            "seconds",
            "suppressed",
            "revocation",
            "revocations",
            "revoked_by",
            "kind",
            "actor",
            "expires",
        ),
        *("kid", "keys", "usable", "migration", "channel"),
        # processes
        *("worker", "pid", "port", "address", "server", "replica", "exit_code"),
        # what the shadow policy says otherwise
        *("at", "candidate_route", "candidate_reason", "candidate_code", "candidate_policy"),
    }
)
"""Names of `extra` fields that may be written. A credential, a header value or a path with a query has no name here."""

LINES_PER_SECOND = 100
"""Of one event; what is over is counted, and the count stands in the next line of that event (`suppressed`)."""

_LONGEST = 500
_MOST_EVENTS = 1000
_BUILT_IN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}
_SECRET_LIKE = re.compile(r"(?<=//)[^@/\s]+@|eyJ[\w-]{8,}(?:\.[\w-]*)*|(?<=[Bb]earer )\S+")
"""User info of a URL, a JWT, a bearer token: what libraries may put into their own messages."""


class RateBound:
    """Admits so many a second and counts the rest."""

    def __init__(self, per_second: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._now = now
        self._second = -1
        self._admitted = 0
        self._suppressed = 0

    def admit(self) -> int:
        """How many were suppressed since the last one admitted, or -1: suppress this one too."""
        second = int(self._now())
        if second != self._second:
            self._second, self._admitted = second, 0
        if self._admitted >= self._per_second:
            self._suppressed += 1
            return -1
        self._admitted += 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class FloodFilter(logging.Filter):
    """One bound per event: a flood of refusals does not hide that Redis is down."""

    def __init__(self, per_second: int = LINES_PER_SECOND, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._per_second = per_second
        self._now = now
        self._bounds: dict[tuple[str, str], RateBound] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        # Keyed by the template, which the code owns. Libraries may format first, so there is an end to it.
        key = (record.name, str(record.msg))
        if len(self._bounds) > _MOST_EVENTS:
            self._bounds.clear()
        bound = self._bounds.get(key)
        if bound is None:
            bound = self._bounds[key] = RateBound(self._per_second, self._now)
        suppressed = bound.admit()
        if suppressed > 0:
            record.suppressed = suppressed
        return suppressed >= 0


class JsonFormatter(logging.Formatter):
    """time, level, logger, event, and the fields that the allow-list knows."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _masked(record.getMessage()),
        }
        extra = record.__dict__.keys() - _BUILT_IN
        line.update({name: _plain(record.__dict__[name]) for name in sorted(extra & FIELDS)})
        if unknown := extra - FIELDS:
            line["dropped_fields"] = sorted(unknown)
        if record.exc_info and record.exc_info[1]:
            line["exception"] = _exception(record.exc_info[1], record.exc_info[2])
        return msgspec.json.encode(line).decode()


def configure(level: str) -> None:
    """Send everything to stderr as JSON. Called once per process, before anything logs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(FloodFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What no line here shows is not collected: under a flood a suppressed line costs 4 microseconds instead of 9
    # (https://docs.python.org/3/howto/logging.html#optimization).
    logging._srcfile = None  # noqa: SLF001 - documented there
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Each request of these at info is one line per key fetch or health probe.
    for chatty in ("httpx", "httpcore", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It says every attempt to connect; whoever asks Postgres says each cause once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _masked(str(value))


def masked(text: str) -> str:
    """Without what looks like a credential."""
    return _SECRET_LIKE.sub("***", text)


def _masked(text: str) -> str:
    return masked(text)[:_LONGEST]


def _exception(error: BaseException, trace: TracebackType | None) -> dict[str, object]:
    frames = traceback.extract_tb(trace)
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return {"type": type(error).__name__, "message": _masked(str(error)), "stack": where}
