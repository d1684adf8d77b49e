"""How the kernel schedules the threads of a worker."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from ext_authz.server.h2corn import disable_wakeup_preemption


@pytest.mark.skipif(sys.platform != "linux", reason="the policies are Linux'")
def test_threads_that_are_woken_wait_for_the_one_that_runs() -> None:
    def policies() -> tuple[int, int]:
        disable_wakeup_preemption()
        with ThreadPoolExecutor(1) as inner:
            return os.sched_getscheduler(0), inner.submit(os.sched_getscheduler, 0).result()

    with ThreadPoolExecutor(1) as thread:  # the policy is the thread's, and of those that it starts
        assert thread.submit(policies).result() == (os.SCHED_BATCH, os.SCHED_BATCH)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
