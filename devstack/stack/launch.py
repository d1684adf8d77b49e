"""Becomes another program, which cannot outlive its parent: `launch.py PARENT SIGNAL PROGRAM ARGUMENT...`.

A program of its own, because running Python between fork and exec in a process with threads may hang.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def launch(parent: int, death_signal: int, command: list[str]) -> None:
    """Does not return: the program takes this process over."""
    # However the parent ends, the kernel then sends us the signal.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        sys.exit("the parent ended before the program was started")
    try:
        os.execve(command[0], command, os.environ)  # noqa: S606 - becoming the program is the point
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    launch(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
