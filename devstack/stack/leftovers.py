"""What a killed `up` leaves behind: processes that outlived it, shared memory of Triton, a lock file of Postgres."""

from __future__ import annotations

from pathlib import Path

import psutil

from devstack.stack.directory import MARK, StateDirectory
from devstack.stack.processes import end, is_alive

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel keeps it, not a place for files of ours


def shared_memory_prefix(state: StateDirectory) -> str:
    """Names Triton's regions, so that another Triton's on this machine are never touched."""
    return f"tollgate_{state.mark}_"


def clean(state: StateDirectory) -> list[str]:
    """End and remove; what was done, a line each. Only while holding the lock: then nothing marked is in use."""
    orphans = _orphans(state)
    done = [f"ended {process.name()} (process {process.pid}), left by an earlier run" for process in orphans]
    end(orphans)
    # Its process is gone, but another may have got its number since, and Postgres would wait for that one.
    (state.root / "postgres" / "data" / "postmaster.pid").unlink(missing_ok=True)
    remove_shared_memory(state)
    return done


def close_shared_memory(state: StateDirectory) -> bool:
    """Triton lets every user read its regions, through which all requests go; it makes them when it starts.

    True, so that it can be the end of a condition.
    """
    for region in _SHARED_MEMORY.glob(f"{shared_memory_prefix(state)}*"):
        region.chmod(0o600)
    return True


def remove_shared_memory(state: StateDirectory) -> None:
    """Triton leaves its regions behind when it is killed."""
    for region in _SHARED_MEMORY.glob(f"{shared_memory_prefix(state)}*"):
        region.unlink(missing_ok=True)


def _orphans(state: StateDirectory) -> list[psutil.Process]:
    data = str((state.root / "postgres" / "data").resolve())
    return [process for process in psutil.process_iter() if _is_ours(process, state.mark, data)]


def _is_ours(process: psutil.Process, mark: str, data: str) -> bool:
    """Postgres writes its titles over its environment, but stays in its data directory."""
    try:
        is_postgres = process.name() == "postgres" and process.cwd() == data
        return is_alive(process) and (is_postgres or process.environ().get(MARK) == mark)
    except psutil.Error:
        return False
