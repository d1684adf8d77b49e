"""Starts Triton with a watchdog beside it: `python3 -I -S serve.py PROGRAM OPTION...`, options as Triton takes them.

On the usual 8 MB of stack one deep request ends Triton's HTTP front end, and nothing else restarts a model's process.
So this removes what a crash left, raises the stack limit, starts the watchdog as a process of its own, and becomes
Triton, which keeps its process id. At the start, only what has the prefix of the option `shm-region-prefix-name` is
removed. It needs no package: every image has the Python for it.

TOLLGATE_MODEL_ANSWER_SECONDS and TOLLGATE_MODEL_LOAD_SECONDS say how long a model may take.
"""

from __future__ import annotations

import fcntl
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # -I leaves it out

from tollgate_models.stubs import log, remove_leftovers
from tollgate_models.triton_api import Address, Triton
from tollgate_models.watchdog import Patience, Watchdog

STACK_BYTES = 256 * 1024 * 1024
_WATCHED = "TOLLGATE_WATCHED"
"""The process that has a watchdog already: an image may start Triton through this file, and a chart that file."""


class Options:
    """What of Triton's own options is needed here."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        port = self._last("http-port")
        self.address = Address(
            self._last("http-address") or "127.0.0.1", int(port) if port.isdigit() else 8000, dict(self._key())
        )
        settings = (each.partition(",")[2].partition("=") for each in self._all("backend-config"))
        self.prefix = next((value for name, _, value in settings if name == "shm-region-prefix-name"), "")

    def _key(self) -> Iterator[tuple[str, str]]:
        """APIS:NAME=VALUE, each API in one of these."""
        for restricted in self._all("http-restricted-api"):
            apis, _, key = restricted.partition(":")
            name, _, value = key.partition("=")
            if name and "model-repository" in apis.split(","):
                yield name, value

    def _last(self, name: str) -> str:
        """Which Triton takes, too."""
        return ["", *self._all(name)][-1]

    def _all(self, name: str) -> Iterator[str]:
        for argument, following in zip(self._arguments, [*self._arguments[1:], ""], strict=True):
            if argument.startswith(f"--{name}="):
                yield argument.partition("=")[2]
            elif argument == f"--{name}":
                yield following


def patience() -> Patience:
    """Exits with a sentence where a variable says no time."""
    found = {}
    for name, usual in Patience()._asdict().items():
        variable = f"TOLLGATE_MODEL_{name.upper()}_SECONDS"
        said = os.environ.get(variable) or f"{usual}"
        try:
            found[name] = float(said)
        except ValueError:
            found[name] = 0.0
        if not 1 <= found[name] < math.inf:
            sys.exit(f"{variable}: '{said}' is not a number of seconds, at least 1")
    return Patience(**found)


def _watch(watchdog: Watchdog) -> None:
    """Does not return. Triton gets SIGTERM if this ends before it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with Triton, which drains
    try:
        watchdog.run()
    except BaseException as failure:
        log(f"nothing is watched any more, so Triton is stopped: {failure!r}")
        raise
    finally:
        os._exit(0)


def _lifeline() -> tuple[int, int]:
    """The two ends of a pipe. The kernel sends this process SIGTERM when the last who has the second is gone, however:
    also after it has become another program. Then no model would be watched."""
    held, holds = os.pipe()
    os.set_inheritable(held, True)  # noqa: FBT003 - os has no name for it
    fcntl.fcntl(held, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(held, fcntl.F_SETFL, fcntl.fcntl(held, fcntl.F_GETFL) | os.O_ASYNC)
    return held, holds


def _start_watchdog(command: Sequence[str]) -> None:
    options, bounds = Options(command), patience()
    remove_leftovers(options.prefix)
    watchdog = Watchdog(os.getpid(), Triton(options.address), options.prefix, bounds)
    held, holds = _lifeline()
    if not os.fork():
        os.close(held)
        _watch(watchdog)
    os.close(holds)
    os.environ[_WATCHED] = f"{os.getpid()}"


def main(command: list[str]) -> None:
    """Does not return."""
    if os.environ.get(_WATCHED) != f"{os.getpid()}":
        _start_watchdog(command)
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    most = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (most, hard))
    try:
        os.execv(command[0], command)  # noqa: S606 - becoming Triton is the point
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
