"""The loop goes on, and the interpreter is left as it was found."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Iterator

import pytest
from msgspec import Struct

from ext_authz.reload import calm
from ext_authz.reload.calm import Calm


class Piece(Struct, weakref=True):
    """Part of a policy."""

    below: object = None


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


async def test_settings_are_restored_also_after_a_failure() -> None:
    before = sys.getswitchinterval(), gc.isenabled()

    def fail() -> None:
        assert sys.getswitchinterval() < before[0]
        raise KeyError("work")

    with pytest.raises(KeyError):
        await Calm().run(fail)
    assert (sys.getswitchinterval(), gc.isenabled()) == before


async def test_one_work_at_a_time() -> None:
    """Two at once would restore each other's settings."""
    before = sys.getswitchinterval()
    quiet = Calm()
    await asyncio.gather(*(quiet.run(lambda: sum(range(1000))) for _ in range(5)))
    assert sys.getswitchinterval() == before


async def test_the_loop_runs_meanwhile() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(turn())
    await Calm().run(lambda: [str(number) for number in range(200_000)])
    task.cancel()
    assert turns > 10


async def test_everything_below_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calm, "_AFTERWARDS", 0)
    leaf = Piece()
    root = Piece({"a": [Piece((leaf, leaf)), {1, 2}], "b": frozenset({"x"})})
    refs = [weakref.ref(leaf), weakref.ref(root)]
    quiet = Calm()
    quiet.free(root)
    del leaf, root
    while quiet._freeing:
        await asyncio.gather(*quiet._freeing)
    assert [ref() for ref in refs] == [None, None]


async def test_what_others_hold_is_left_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calm, "_AFTERWARDS", 0)
    shared = Piece(["kept"])
    quiet = Calm()
    quiet.free(Piece([shared]))
    await asyncio.gather(*quiet._freeing)
    assert shared.below == ["kept"]


async def test_stopping_waits_for_nothing() -> None:
    quiet = Calm()
    quiet.free(Piece())
    await quiet.stop()
    assert not quiet._freeing
