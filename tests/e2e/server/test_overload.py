"""More calls at once than a worker takes: those beyond are refused at once, the others are answered."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import pytest

from ext_authz.server.rpc import MAX_CALLS
from tests.e2e.server.fake_service import ALLOW
from tests.e2e.server.front import counted, front_with_admin
from tests.e2e.server.serving import Serving, serving, unary
from tests.services import wait_for

MORE = 100
REFUSALS = {"h2corn": grpc.StatusCode.UNAVAILABLE, "grpcio": grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.fixture(params=list(REFUSALS))
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Serving]]:
    """One worker in which every check waits until `release`."""
    with serving(tmp_path, request.param, factory="build_held_allow") as server:
        yield request.param, server


def release(server: Serving) -> None:
    (server.directory / "released").touch()


def test_what_is_beyond_is_refused_at_once_and_the_rest_answered(held: tuple[str, Serving]) -> None:
    kind, server = held
    with ExitStack() as open_channels:
        channels = [unary(open_channels.enter_context(server.channel())) for _ in range(4)]
        calls = [call.future(b"", timeout=60) for call in channels for _ in range((MAX_CALLS + MORE) // 4)]
        wait_for(lambda: sum(each.done() for each in calls) >= MORE)
        refused = [each for each in calls if each.done()]
        assert {each.code() for each in refused} == {REFUSALS[kind]}
        assert len(refused) == MORE, "nobody else was answered yet"
        release(server)
        assert [each.result() for each in calls if each not in refused] == [ALLOW] * MAX_CALLS
        assert channels[0](b"", timeout=5) == ALLOW


def test_callers_get_503_and_envoy_counts_them(held: tuple[str, Serving], tmp_path: Path) -> None:
    _, server = held
    limits = httpx.Limits(max_connections=None)
    with (
        front_with_admin(tmp_path, [server.port]) as (port, admin),
        httpx.Client(timeout=60, limits=limits) as client,
        ThreadPoolExecutor(MAX_CALLS + MORE) as callers,
    ):
        url = f"http://127.0.0.1:{port}/"
        answers = [callers.submit(client.get, url) for _ in range(MAX_CALLS + MORE)]
        wait_for(lambda: counted(admin, "http.front.ext_authz.error") == MORE, seconds=50)
        release(server)
        statuses = [each.result().status_code for each in answers]
        assert (statuses.count(200), statuses.count(503)) == (MAX_CALLS, MORE)
        wait_for(lambda: client.get(url).is_success)
