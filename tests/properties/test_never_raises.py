"""Whatever fails, wherever on the path of a check, there is an answer, and it lets nobody in who was not let in before.

A line of the product is chosen, and an exception is raised in its place, as if a bug stood there; then the next line.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import ext_authz
from ext_authz import check
from ext_authz.decision import Decision, Request
from ext_authz.edge.authorizer import Authorizer
from ext_authz.edge.response import Responder
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.settlement.model import Outcome, SettleResult
from tests import tokens
from tests.fakes import FakeClock
from tests.requests import check_request
from tests.unit.check.scenarios import POLICY, world

PRODUCT = str(Path(ext_authz.__file__).parent)
CHECK = {Authorizer.check.__code__}
ONLY_LOOKS = {Authorizer._observe.__code__}
TRIED = {*CHECK, *ONLY_LOOKS, Authorizer._refused.__code__}
"""The few lines around everything else: what catches has to work itself."""

NOW = FakeClock().now()
MESSAGES = {
    "allowed": check_request(token=tokens.mint(now=NOW)),
    "allowed over gRPC": check_request(
        path="/inference.GRPCInferenceService/ModelInfer",
        token=tokens.mint(now=NOW),
        content_type="application/grpc",
        models=("sentiment",),
    ),
    "without a token": check_request(),
    "over the limit": check_request(token=tokens.mint(now=NOW)),
    "unreadable": b"\xff\xff",
}
OVER = SettleResult(Outcome.LIMITED, 0, (0, 99), (41_000, 60_000), 41_000)
WELL = SettleResult(Outcome.OK, -1, (9, 99), (60_000, 60_000))


class Injected(Exception):
    """A bug."""


Place = tuple[CodeType, int]
"""A line of the product."""


class Walk:
    """Every line that one check comes by, in order, and whether it only watches the decision."""

    def __init__(self) -> None:
        self.places: dict[Place, bool] = {}

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401 - sys.settrace's
        code = frame.f_code
        if not code.co_filename.startswith(PRODUCT) or code in TRIED or not _is_below(CHECK, frame):
            return None
        if event == "line":
            self.places.setdefault((code, frame.f_lineno), _is_below(ONLY_LOOKS, frame))
        return self.trace


class Failing:
    """Raises in place of one line."""

    def __init__(self, place: Place) -> None:
        self._code, self._line = place
        self.raised = False
        """It is not where something was remembered from an earlier walk."""

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401 - sys.settrace's
        if frame.f_code is not self._code:
            return None
        if event == "line" and frame.f_lineno == self._line:
            self.raised = True
            raise Injected
        return self.trace


def _is_below(codes: set[CodeType], frame: FrameType | None) -> bool:
    """Not so in tasks of their own, a key fetch say, for which the check only waits."""
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


@contextmanager
def tracing(by: Walk | Failing) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(by.trace)
    try:
        yield
    finally:
        sys.settrace(before)


def observer(_: Request, __: Decision) -> None:
    """As a candidate policy does."""


async def code(message: bytes, settled: SettleResult, by: Walk | Failing) -> int:
    """Of the CheckResponse."""
    here = world(settled, check)
    responder = Responder(POLICY.realm, POLICY.responses, POLICY.hash)
    checker = here.decide.__self__  # type: ignore[attr-defined]
    authorizer = Authorizer(checker, responder, log_allowed=True, observer=observer)
    with tracing(by):
        answer = await authorizer.check(message)
    assert answer, "an empty CheckResponse means allow"
    return CheckResponse.FromString(answer).status.code


@pytest.mark.parametrize("name", MESSAGES)
def test_a_bug_in_any_line_is_a_refusal(name: str) -> None:
    message, settled = MESSAGES[name], OVER if name == "over the limit" else WELL
    usual = asyncio.run(code(message, settled, walk := Walk()))
    assert (usual == 0) is name.startswith("allowed")
    assert len(walk.places) > 50
    for place, only_looks in walk.places.items():
        answered = asyncio.run(code(message, settled, failing := Failing(place)))
        assert answered == usual if only_looks or not failing.raised else answered != 0, place
