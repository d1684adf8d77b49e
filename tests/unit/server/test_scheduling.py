"""How the kernel schedules the threads of a worker."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from ext_authz.server.h2corn import without_interrupting


def test_threads_started_inside_do_not_interrupt_those_that_run() -> None:
    with without_interrupting(), ThreadPoolExecutor(1) as inside:
        assert inside.submit(os.sched_getscheduler, 0).result() == os.SCHED_BATCH
    with ThreadPoolExecutor(1) as after:
        assert after.submit(os.sched_getscheduler, 0).result() == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
