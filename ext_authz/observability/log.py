"""Logs: one JSON object per line on stderr, with allowed fields only, and at a bounded rate.

python-json-logger makes the object of a record of the standard library, so the lines of other libraries pass through
here too. The fields are an allow-list because a deny-list of credentials is never complete: a field that is not named
here is dropped, and only its name is written.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.msgspec import MsgspecFormatter

FIELDS = frozenset(
    {
        # who and what, as in the ledger
        *(
            "decision_id",
            "trace_id",
            "reason",
            "code",
            "revoked_by",
            "route",
            "model",
            "issuer",
            "subject",
            "client",
            "limit",
        ),
        # causes and amounts
        *("dependency", "detail", "error", "policy", "kind", "keys", "usable", "migration", "channel", "count"),
        *("events", "duplicates", "broken", "refused", "suppressed", "seconds", "times"),
        # processes
        *("worker", "pid", "port", "address"),
        # the candidate policy
        *("at", "candidate_route", "candidate_reason", "candidate_code", "candidate_policy"),
    }
)
"""Names of `extra` fields that may be written. No credential, header value or path with a query has a name here."""

LINES_PER_SECOND = 100
"""Of one event; more are counted, and the count is written with the next line of that event (`suppressed`)."""

_LONGEST = 500
_MOST_EVENTS = 1000
_RENAMED = {"asctime": "time", "levelname": "level", "name": "logger", "message": "event", "exc_info": "exception"}
_OWN = frozenset(_RENAMED.values())
_SECRET_LIKE = re.compile(
    r"(?<=//)(?!user:password@|\[?:password@)[^@/\s]+@|eyJ[\w-]{8,}(?:\.[\w-]*)*|(?<=[Bb]earer )\S+"
)
"""User info of a URL (not where a message of ours shows its form), a JWT, a bearer token: what libraries may put into
their messages."""


class RateFilter(logging.Filter):
    """Bounds the lines per second of each event, so that a flood of refusals does not hide that Redis is down."""

    def __init__(self, per_second: int = LINES_PER_SECOND, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._per_second = per_second
        self._now = now
        self._second = -1
        self._admitted: dict[tuple[str, str], int] = {}
        self._suppressed: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if (second := int(self._now())) != self._second or len(self._admitted) > _MOST_EVENTS:
            self._second = second
            self._admitted.clear()
        # By the template, which is constant in our code. Libraries may format before, so the number is bounded.
        key = (record.name, str(record.msg))
        admitted = self._admitted[key] = self._admitted.get(key, 0) + 1
        if admitted > self._per_second:
            self._suppress(key)
        elif self._suppressed and (suppressed := self._suppressed.pop(key, 0)):
            record.suppressed = suppressed
        return admitted <= self._per_second

    def _suppress(self, key: tuple[str, str]) -> None:
        if len(self._suppressed) > _MOST_EVENTS:
            self._suppressed.clear()
        self._suppressed[key] = self._suppressed.get(key, 0) + 1


class JsonFormatter(MsgspecFormatter):
    """time, level, logger, event, exception, and the fields of the allow-list."""

    def __init__(self) -> None:
        reserved = [*RESERVED_ATTRS, *_OWN]
        super().__init__(list(_RENAMED)[:4], rename_fields=_RENAMED, reserved_attrs=reserved)

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, dict):  # of a library: its keys must not replace ours
            record.msg, record.args = str(record.msg), ()
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - of the base class
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

    def formatException(self, ei: Any) -> dict[str, object]:  # type: ignore[override]  # noqa: ANN401, N802 - likewise
        kind, error, trace = ei
        frames = traceback.extract_tb(trace)
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return {"type": kind.__name__, "message": _masked(str(error)), "stack": where} if kind else {}

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        line: dict[str, Any] = {
            name: value if name in _OWN else _plain(value)
            for name, value in log_data.items()
            if name in FIELDS or name in _OWN
        }
        line["level"], line["event"] = line["level"].lower(), _masked(line["event"])
        if len(line) < len(log_data):
            line["dropped_fields"] = sorted(log_data.keys() - line.keys())
        return line


def configure(level: str) -> None:
    """Send everything to stderr as JSON. Called once per process, before anything is logged."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RateFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Not collected, since no line shows it: a suppressed line costs 4 microseconds instead of 9
    # (https://docs.python.org/3/howto/logging.html#optimization).
    logging._srcfile = None  # noqa: SLF001 - documented there
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # At info, each of these writes a line per key fetch or health probe.
    for chatty in ("httpx", "httpcore", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It logs every attempt to connect; the callers log each cause once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    # It repeats the tracestate of a caller that it cannot read.
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)


def masked(text: str) -> str:
    """Without what looks like a credential."""
    return _SECRET_LIKE.sub("***", text)


def _masked(text: str) -> str:
    return masked(text)[:_LONGEST]


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _masked(str(value))
