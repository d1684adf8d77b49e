"""What a log line may hold, and how many of them there are."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from ext_authz.observability.log import FloodFilter, JsonFormatter, RateBound

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


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bound_admits_so_many_a_second_and_counts_the_rest() -> None:
    clock = Seconds()
    bound = RateBound(2, clock)
    assert [bound.admit() for _ in range(5)] == [0, 0, -1, -1, -1]
    clock.now += 1
    assert [bound.admit() for _ in range(3)] == [3, 0, -1]


def record(name: str, message: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.INFO, "x.py", 1, message, None, None)


def test_a_flood_of_one_event_hides_no_other() -> None:
    clock = Seconds()
    flood = FloodFilter(3, clock)
    refusals = [flood.filter(record("ext_authz.edge.authorizer", "refused")) for _ in range(1000)]
    assert sum(refusals) == 3
    assert flood.filter(record("ext_authz.settlement", "redis does not answer"))
    clock.now += 1
    next_refusal = record("ext_authz.edge.authorizer", "refused")
    assert flood.filter(next_refusal)
    assert vars(next_refusal)["suppressed"] == 997


def test_events_without_end_take_no_memory_without_end() -> None:
    flood = FloodFilter(1, Seconds())
    for number in range(5000):
        flood.filter(record("library", f"formatted already {number}"))
    assert sys.getsizeof(flood._bounds) < 100_000
