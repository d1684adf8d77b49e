"""A rolling restart behind a real Envoy that has hundreds of checks in flight: not one caller notices."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.server.front import Callers, front_envoy
from tests.e2e.server.serving import Serving, serving

IN_FLIGHT = 400


def checks(server: Serving) -> float:
    """How many it has answered."""
    lines = server.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("tollgate_checks_total"))


async def restart(old: Serving) -> None:
    """SIGTERM, as any orchestrator sends it; it must end by itself and well."""
    old.terminate()
    assert await asyncio.to_thread(old.process.wait, 60) == 0, old.log


@pytest.mark.parametrize("kind", ["h2corn", "grpcio"])
async def test_no_request_fails(tmp_path: Path, kind: str) -> None:
    one, two, new = (tmp_path / name for name in ("one", "two", "new"))
    for directory in (one, two, new):
        directory.mkdir()
    options: dict[str, object] = {"factory": "build_slow_allow", "drain_delay": 1.5}
    with ExitStack() as running:
        first = running.enter_context(serving(one, kind, **options))
        second = running.enter_context(serving(two, kind, **options))
        port = running.enter_context(front_envoy(tmp_path, [first.port, second.port]))
        async with Callers(port, IN_FLIGHT) as callers:
            await callers.until_more(2 * IN_FLIGHT)
            assert checks(first) > 0
            await restart(first)
            successor = serving(new, kind, listen_port=first.port, **options)
            renewed = await asyncio.to_thread(running.enter_context, successor)
            await callers.until_more(4 * IN_FLIGHT)
            await restart(second)
            await callers.until_more(2 * IN_FLIGHT)
            assert checks(renewed) > 0
    assert set(callers.answers) == {"200"}, callers.answers
    assert callers.answers.total() > 10 * IN_FLIGHT
