"""What a log line may hold, and how many of them there are."""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import ext_authz
from ext_authz.observability.log import FIELDS, JsonFormatter, RateFilter, masked
from ext_authz.server.messages import Difference

TOKEN = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6Im1lc2gifQ.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"


def line(message: str, *args: object, **extra: object) -> dict[str, object]:
    error = extra.pop("raised", None)
    assert error is None or isinstance(error, BaseException)
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("ext_authz.x", logging.INFO, "x.py", 1, message, args, info)
    vars(record).update(extra)
    decoded = json.loads(JsonFormatter().format(record))
    assert isinstance(decoded, dict)
    return decoded


def test_a_line_is_an_event_with_fields() -> None:
    written = line("refused", decision_id="d1", reason="forbidden", count=3)
    assert written.pop("time")
    assert written == {
        "level": "info",
        "logger": "ext_authz.x",
        "event": "refused",
        "decision_id": "d1",
        "reason": "forbidden",
        "count": 3,
    }


@pytest.mark.parametrize("name", ["authorization", "token", "cookie", "headers", "request", "path", "password"])
def test_a_field_that_is_not_allowed_leaves_only_its_name(name: str) -> None:
    written = line("refused", **{name: f"Bearer {TOKEN}"})
    assert written["dropped_fields"] == [name]
    assert TOKEN not in json.dumps(written)


@pytest.mark.parametrize(
    "text",
    [
        f"cannot decode {TOKEN}",
        "sent Bearer hunter2 to it",
        f"GET /models?access_token={TOKEN}",
        "redis://:hunter2@redis:6379/0 refused",
    ],
)
def test_what_libraries_say_is_masked(text: str) -> None:
    lines = [line(text), line("failed", raised=ValueError(text)), line("%s", text), line("failed", error=text)]
    written = json.dumps(lines)
    assert TOKEN not in written
    assert "hunter2" not in written
    assert "***" in written


@pytest.mark.parametrize("form", ["postgresql://user:password@host:port/database", "redis://[:password@]host:port/0"])
def test_the_form_of_an_address_is_no_secret(form: str) -> None:
    assert masked(f"write {form}") == f"write {form}"


def test_what_only_looks_long_is_left_alone() -> None:
    known = {"decision_id": "0198c0de-1111-7abc-8def-0123456789ab", "model": "distilbert-base-uncased.finetuned-sst-2"}
    written = line("refused", **known)
    assert {name: written[name] for name in known} == known


def test_an_exception_has_its_place() -> None:
    try:
        raise KeyError("missing")  # noqa: TRY301 - a traceback is what is wanted
    except KeyError as error:
        written = line("failed", raised=error)["exception"]
    assert isinstance(written, dict)
    assert (written["type"], written["message"]) == ("KeyError", "'missing'")
    assert __file__ in written["stack"][-1]


def test_long_values_are_cut_and_odd_ones_become_text() -> None:
    written = line("x", detail="y" * 10_000, keys=("a", 1), error=None, subject=object)
    assert written["detail"] == "y" * 500
    assert written["keys"] == ["a", 1]
    assert written["subject"] == str(object)


def test_a_library_cannot_replace_what_is_ours() -> None:
    """Neither by fields of these names, nor by a message that is an object."""
    names = ("time", "level", "logger", "event", "exception", "dropped_fields")
    written = line("x", **dict.fromkeys(names, TOKEN))
    assert (written["level"], written["logger"], written["event"]) == ("info", "ext_authz.x", "x")
    record = logging.LogRecord("library", logging.INFO, "x.py", 1, dict.fromkeys(names, TOKEN), (), None)
    assert TOKEN not in json.dumps(written) + JsonFormatter().format(record)


def test_every_field_that_is_logged_is_allowed() -> None:
    for file in Path(ext_authz.__file__).parent.rglob("*.py"):
        for extra in filter(None, map(extra_of, ast.walk(ast.parse(file.read_text())))):
            keys = (key for part in ast.walk(extra) if isinstance(part, ast.Dict) for key in part.keys if key)
            assert {ast.literal_eval(key) for key in keys} <= FIELDS, f"{file}:{extra.lineno}"
    assert FIELDS.issuperset(Difference.__struct_fields__)


def extra_of(node: ast.AST) -> ast.expr | None:
    """The fields of a log call, or what they are assigned from."""
    if isinstance(node, ast.keyword) and node.arg == "extra":
        return node.value
    named = isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["extra"]
    return node.value if named and isinstance(node, ast.Assign) else None


LIBRARIES = """
import logging
from ext_authz.observability import log
log.configure("info")
for name in ("uvicorn.error", "h2corn", "grpc._server", "psycopg", "asyncio"):
    logging.getLogger(name).warning("sent %s to it", "Bearer hunter2", extra={"headers": "hunter2"})
"""


def test_the_lines_of_libraries_have_the_same_form() -> None:
    run = subprocess.run([sys.executable, "-c", LIBRARIES], capture_output=True, check=True, text=True)
    written = [json.loads(text) for text in run.stderr.splitlines()]
    assert [(each["level"], each["event"], each["dropped_fields"]) for each in written] == [
        ("warning", "sent Bearer *** to it", ["headers"])
    ] * 5
    assert all(datetime.fromisoformat(each["time"]).utcoffset() == timedelta(0) for each in written)


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def record(name: str, message: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.INFO, "x.py", 1, message, None, None)


def test_a_flood_of_one_event_hides_no_other() -> None:
    clock = Seconds()
    flood = RateFilter(3, clock)
    refusals = [flood.filter(record("ext_authz.edge.authorizer", "refused")) for _ in range(1000)]
    assert sum(refusals) == 3
    assert flood.filter(record("ext_authz.settlement", "redis does not answer"))
    clock.now += 1
    next_refusal = record("ext_authz.edge.authorizer", "refused")
    assert flood.filter(next_refusal)
    assert vars(next_refusal)["suppressed"] == 997
    assert "suppressed" not in vars(after := record("ext_authz.edge.authorizer", "refused"))
    assert flood.filter(after)


def test_events_without_end_take_no_memory_without_end() -> None:
    flood = RateFilter(1, Seconds())
    for number in range(5000):
        for _ in range(2):
            flood.filter(record("library", f"formatted already {number}"))
    assert sys.getsizeof(flood._admitted) + sys.getsizeof(flood._suppressed) < 200_000
