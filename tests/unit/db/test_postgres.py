from __future__ import annotations

import asyncio

import psycopg
import pytest

from ext_authz.db.postgres import within
from ext_authz.errors import Unavailable


async def _answer() -> int:
    return 42


async def _fail() -> int:
    raise psycopg.OperationalError("connection refused\nmore for the log")


async def test_the_answer_comes_through() -> None:
    assert await within(1, _answer()) == 42


async def test_an_error_of_postgres_is_no_answer() -> None:
    with pytest.raises(Unavailable) as refused:
        await within(1, _fail())
    assert (refused.value.dependency, refused.value.detail) == ("postgres", "connection refused")


async def test_the_deadline_holds_for_work_that_does_not_let_itself_be_cancelled() -> None:
    released = asyncio.Event()

    async def stubborn() -> None:
        try:
            await released.wait()
        except asyncio.CancelledError:
            await released.wait()  # as psycopg does while it tells a hanging server to cancel
            raise

    started = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable, match=r"no answer within 0\.01 s"):
        await within(0.01, stubborn())
    assert asyncio.get_running_loop().time() - started < 1
    released.set()
