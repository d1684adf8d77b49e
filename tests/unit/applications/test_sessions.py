"""How long a session lives, how many there are, and what one remembers."""

from __future__ import annotations

import jwt
import pytest

from applications.sentiment import sessions as module
from applications.sentiment.door import Prediction
from applications.sentiment.sessions import IDLE, LONGEST, MOST_OF_ONE, MOST_PREDICTIONS, Session, Sessions
from ext_authz.web.oidc import Tokens
from tests.fakes import FakeClock

TOKENS = Tokens("a.b.c")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sessions(clock: FakeClock) -> Sessions:
    return Sessions(clock)


def test_it_ends_when_it_is_not_used_and_in_any_case(sessions: Sessions, clock: FakeClock) -> None:
    idle, used = (sessions.create(name, name, TOKENS) for name in "ab")
    for _ in range(int(LONGEST // IDLE)):
        clock.advance(IDLE - 1)
        assert sessions.find(used)
    assert sessions.find(idle) is None
    clock.advance(IDLE - 1)
    assert sessions.find(used) is None


def test_it_is_found_by_its_cookie_only(sessions: Sessions) -> None:
    cookie = sessions.create("a", "alice", TOKENS)
    found = sessions.find(cookie)
    assert found
    assert found.name == "alice"
    assert sessions.find("") is sessions.find(cookie[:-1]) is sessions.find(cookie + "x") is None
    assert "a.b.c" not in repr(found)
    sessions.end(cookie)
    assert sessions.find(cookie) is None


def test_the_oldest_of_a_person_go_and_nobody_elses(sessions: Sessions) -> None:
    others = sessions.create("b", "bob", TOKENS)
    cookies = [sessions.create("a", "alice", TOKENS) for _ in range(MOST_OF_ONE + 2)]
    assert [sessions.find(cookie) is None for cookie in cookies] == [True, True] + [False] * MOST_OF_ONE
    assert sessions.find(others)


def test_there_are_not_more_than_fit(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    first, second, third = (sessions.create(name, name, TOKENS) for name in "abc")
    assert sessions.find(first), "it was used last"
    sessions.create("d", "d", TOKENS)
    assert [sessions.find(cookie) is None for cookie in (first, second, third)] == [False, True, False]


def test_it_remembers_the_latest_predictions() -> None:
    session = Session("a", "alice", TOKENS, 0, 0)
    session.given = {("0", 0): "neutral", (f"{MOST_PREDICTIONS}", 0): "neutral"}
    for number in range(MOST_PREDICTIONS + 1):
        session.remember(Prediction(f"{number}", "1", ()))
    assert [*session.predictions] == [f"{number}" for number in range(1, MOST_PREDICTIONS + 1)]
    assert [*session.given] == [(f"{MOST_PREDICTIONS}", 0)]


@pytest.mark.parametrize(
    ("claims", "expected"), [({"exp": 90}, 90.0), ({}, 0.0), ({"exp": None}, 0.0), ({"exp": "soon"}, 0.0)]
)
def test_the_end_of_a_token(claims: dict[str, object], expected: float) -> None:
    token = jwt.encode(claims, "k" * 32)
    assert Session("a", "a", Tokens(token), 0, 0).ends == expected
    assert Session("a", "a", Tokens("opaque"), 0, 0).ends == 0
