"""How the console ends where one of its tasks cannot go on."""

from __future__ import annotations

import asyncio

import pytest

from ext_authz.console.process import plain_failures
from ext_authz.errors import ConfigError, TollgateError
from ext_authz.restarts import GivenUp


@pytest.mark.parametrize("failure", [ConfigError("TOLLGATE_CONSOLE_PORT: cannot listen"), GivenUp("reminders failed")])
async def test_what_ends_it_on_purpose_is_one_sentence(failure: TollgateError) -> None:
    """The port is taken, or background work fails again and again: `main` knows these, and no group of them."""

    async def fails() -> None:
        raise failure

    async def serves() -> None:
        async with plain_failures(), asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(60))
            tasks.create_task(fails())

    with pytest.raises(type(failure)) as ended:
        await serves()
    assert ended.value is failure


async def test_a_bug_keeps_its_trace() -> None:
    with pytest.raises(ExceptionGroup):
        async with plain_failures():
            raise ExceptionGroup("several", [KeyError("a bug")])
