"""Steps of the tour see what goes wrong: a step that cannot differ shows nothing."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from devstack.demo import steps
from devstack.demo.participants import EXAMPLES, Caller, Operator, Provider, Seen, Token
from devstack.demo.steps import CALLS, Outcome, Step, Tour, every_model, rotated_keys
from devstack.demo.tour import _outcome, _shown, _steps
from devstack.stack.stack import Stack


class _Away:
    """A door that breaks every other connection, an identity provider, and a stack without models."""

    def __init__(self) -> None:
        self.calls, self.broken = 0, False
        self.settings, self.models, self.triton, self.children = self, Path("nowhere"), "", ()

    def ready(self, _model: str, _token: Token) -> int:
        self.calls += 1
        if self.calls % 2:
            raise httpx.ConnectError("away")
        return 200

    def grpc(self, model: str, _token: Token) -> Seen:
        return Seen("UNAVAILABLE" if model == "cars" else "OK", "", {}, {"label": "x"})

    def login(self, _user: str) -> Token:
        return Token("t", "web-app")

    def rotate_keys(self) -> None:
        if self.broken:
            raise RuntimeError("no key")


def tour(away: _Away) -> Tour:
    parts: Any = away
    return Tour(cast("Caller", parts), cast("Provider", parts), cast("Operator", parts), cast("Stack", parts))


def test_a_call_that_breaks_while_keys_change_is_seen() -> None:
    outcome = _outcome(Step("", "0 calls failed", rotated_keys), tour(_Away()))
    assert re.fullmatch(r"[1-9]\d* calls failed", outcome.seen)


def test_a_provider_that_fails_leaves_no_thread_behind() -> None:
    away = _Away()
    away.broken, before = True, threading.active_count()
    assert _outcome(Step("", "0 calls failed", rotated_keys), tour(away)).seen == "RuntimeError: no key"
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("installed", "seen"),
    [
        ({}, "none is installed"),
        (dict.fromkeys(EXAMPLES, "a"), "cars UNAVAILABLE"),
        ({"sentiment": "a", "new": "b"}, "there is no example for new"),
        ({"sentiment": "a"}, "each answers"),
    ],
)
def test_every_model_is_called(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], seen: str) -> None:
    monkeypatch.setattr(steps, "installed", lambda _: installed)
    assert every_model(tour(_Away())).seen == seen


def test_of_what_another_triton_serves_nothing_is_said() -> None:
    away = _Away()
    stack = cast("Stack", cast("Any", away))
    assert [step for step in _steps(stack) if step.run is every_model]
    away.triton = "127.0.0.1:1"
    assert len(_steps(stack)) >= len(CALLS) - 1
    assert not [step for step in _steps(stack) if step.run is every_model]


def test_what_differs_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert not _shown(Step("a step", "200", every_model), Outcome("503"))
    assert capsys.readouterr().out == "DIFFERS a step: expected 200; seen 503\n"
