"""Starts Triton with a watchdog beside it: `python3 -I -S serve.py PROGRAM OPTION...`, options as Triton takes them.

Measured: the process of a model (its *stub*) that dies is not restarted, the model answers every request with an error
and stays ready, and loading it again does nothing; unloading it first helps. A Triton that crashes leaves its stubs and
its shared memory behind. And on the usual 8 MB of stack one deep request ends its HTTP front end.

So this removes what a crash left, raises the stack limit, starts the watchdog as a process of its own, and becomes
Triton, which keeps its process id. At the start, only what has the prefix of the option `shm-region-prefix-name` is
removed. It needs no package: every image has the Python for it.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

STACK_BYTES = 256 * 1024 * 1024
PERIOD = 0.5
"""Seconds between two looks at the stubs: for so long a dead one is not noticed."""
RETRY = 5.0
"""Seconds until a model that cannot be loaded is tried again."""
_STUB = "triton_python_backend_stub"
_REGIONS = Path("/dev/shm")  # noqa: S108 - where the kernel keeps them
_LOAD_SECONDS = 300.0


class Stub(NamedTuple):
    """A process that runs one instance of one version of a model."""

    pid: int
    parent: int
    region: str
    """Its shared memory."""
    model: str
    version: str
    instance: str


class Options:
    """What of Triton's own options is needed here."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self.address = self._last("http-address") or "127.0.0.1"
        self.port = int(self._last("http-port") or 8000)
        header, _, value = self._last("http-restricted-api").rpartition(":")[2].partition("=")
        self.key = {header: value} if header else {}
        settings = (each.partition(",")[2].partition("=") for each in self._all("backend-config"))
        self.prefix = next((value for name, _, value in settings if name == "shm-region-prefix-name"), "")

    def _last(self, name: str) -> str:
        """Which Triton takes, too."""
        return ["", *self._all(name)][-1]

    def _all(self, name: str) -> Iterator[str]:
        for argument, following in zip(self._arguments, [*self._arguments[1:], ""], strict=True):
            if argument.startswith(f"--{name}="):
                yield argument.partition("=")[2]
            elif argument == f"--{name}":
                yield following


class _Connection(HTTPConnection):
    """To a port, or to a socket as Triton writes its address: `unix:PATH`."""

    def connect(self) -> None:
        if not self.host.startswith("unix:"):
            return super().connect()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host.removeprefix("unix:"))
        return None


class Repository:
    """Triton's API for it, which is restricted: `key` opens it."""

    def __init__(self, options: Options) -> None:
        host = "127.0.0.1" if options.address == "0.0.0.0" else options.address  # noqa: S104 - compared, not listened at
        self._host, self._port, self._key = host, options.port, options.key

    def ready(self) -> set[tuple[str, str]]:
        """Model and version of those that Triton believes to be ready. Raises OSError, HTTPException."""
        status, body = self._post("index", 10)
        if status != 200:
            raise HTTPException(f"its index answers {status}")
        return {(each["name"], each.get("version", "")) for each in json.loads(body) if each.get("state") == "READY"}

    def unload(self, model: str) -> None:
        """Raises OSError, HTTPException."""
        self._post(f"models/{model}/unload", 10)

    def load(self, model: str) -> str:
        """Returns when it is ready: an empty string, or why it is not. Raises OSError, HTTPException."""
        status, body = self._post(f"models/{model}/load", _LOAD_SECONDS)
        return "" if status == 200 else body.decode(errors="replace").strip() or f"status {status}"

    def _post(self, path: str, seconds: float) -> tuple[int, bytes]:
        connection = _Connection(self._host, self._port, timeout=seconds)
        try:
            connection.request("POST", f"/v2/repository/{path}", headers={"Host": "localhost", **self._key})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Watchdog:
    """Reloads a model whose stub has ended though Triton calls it ready."""

    def __init__(self, triton: int, repository: Repository, prefix: str) -> None:
        """`triton`: its process id, while it runs."""
        self._triton = triton
        self._ended = select.poll()
        self._ended.register(os.pidfd_open(triton), select.POLLIN)
        self._repository = repository
        self._prefix = prefix
        self._known: set[tuple[str, str, str]] = set()
        self._away: set[tuple[str, str]] = set()
        """Model and version of stubs that others have unloaded. One that is loaded again may end before it is seen."""
        self._failed: dict[str, float] = {}
        """Models that could not be loaded, and when they are tried again."""
        self._regions: set[str] = set()

    def run(self) -> None:
        """Until Triton has ended, however it did; then nothing of it is left."""
        while not self._ended.poll(PERIOD * 1000):
            self.look()
        _end(self._stubs())
        _remove(self._regions)  # and no others: the next Triton may have started

    def _stubs(self) -> list[Stub]:
        """Its number alone could be that of a Triton in a container of this machine."""
        found = [stub for stub in stubs() if stub.parent == self._triton and stub.region.startswith(self._prefix)]
        self._regions |= {stub.region for stub in found}
        return found

    def look(self) -> None:
        """While Triton starts or stops, nothing is decided."""
        alive = self._alive()
        dead = self._known - alive
        self._known |= alive
        self._away = (self._away | _places(dead)) - (_places(alive) - _places(dead))
        due = {model for model, at in self._failed.items() if at <= time.monotonic()}
        if not self._away and not due:
            return
        try:
            ready = self._repository.ready()
        except (OSError, HTTPException, ValueError):
            return
        self._known -= dead
        started = _places(self._alive()) - _places(dead)  # while the index was asked for
        for model, version in sorted(self._away & ready - started):
            _log(f"the process of {model} {version} has ended")
            due.add(model)
        self._away -= ready
        for model in sorted(due):
            self._reload(model)

    def _alive(self) -> set[tuple[str, str, str]]:
        return {(stub.model, stub.version, stub.instance) for stub in self._stubs()}

    def _reload(self, model: str) -> None:
        began = time.monotonic()
        self._known = {place for place in self._known if place[0] != model}
        try:
            self._repository.unload(model)
            _log(f"{model} is not ready")
            why = self._repository.load(model)
        except (OSError, HTTPException) as failure:
            why = f"Triton does not answer: {failure!r}"
        if why:
            self._failed[model] = time.monotonic() + RETRY
            _log(f"{model} cannot be loaded, next try in {RETRY:.0f} s: {why}")
            return
        self._failed.pop(model, None)
        close_regions(self._prefix)
        _log(f"{model} is ready again, {time.monotonic() - began:.1f} s after that was noticed")


def _places(stubs: Iterable[tuple[str, str, str]]) -> set[tuple[str, str]]:
    """Model and version."""
    return {place[:2] for place in stubs}


def stubs() -> Iterator[Stub]:
    """All of this user, on this machine or in this container; Triton's arguments of each say whose they are."""
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            if directory.stat().st_uid != os.geteuid():  # anybody can give a process such arguments
                continue
            words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if Path(words[0]).name == _STUB and len(words) > 8 and words[5].isdigit():
            where = Path(words[1])  # MODEL/VERSION/model.py
            model, version = where.parent.parent.name, where.parent.name
            yield Stub(int(directory.name), int(words[5]), Path(words[2]).name, model, version, words[8])


def remove_leftovers(prefix: str) -> None:
    """Stubs and shared memory of a Triton that is gone; `prefix` is of that one alone."""
    if not prefix:
        return
    _end([stub for stub in stubs() if stub.region.startswith(prefix)])
    _remove(region.name for region in _REGIONS.glob(f"{prefix}*"))


def _remove(regions: Iterable[str]) -> None:
    for name in regions:
        with suppress(OSError):  # also another user's, whose name only begins so
            (_REGIONS / name).unlink()


def _end(left: Sequence[Stub]) -> None:
    for stub in left:
        with suppress(OSError):
            os.kill(stub.pid, signal.SIGKILL)
            _log(f"ended process {stub.pid} of {stub.model} {stub.version}, which a crash had left")


def close_regions(prefix: str) -> None:
    """Triton lets every user read its regions, through which all requests go; it makes them when it starts a stub."""
    for region in _REGIONS.glob(f"{prefix}*") if prefix else ():
        with suppress(OSError):
            region.chmod(0o600)


def _log(sentence: str) -> None:
    print(f"watchdog: {sentence}", flush=True)


def _watch(watchdog: Watchdog) -> None:
    """Does not return."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with Triton, which drains
    try:
        watchdog.run()
    except BaseException as failure:
        _log(f"nothing is watched any more: {failure!r}")
        raise
    finally:
        os._exit(0)


def main(command: list[str]) -> None:
    """Does not return."""
    options = Options(command)
    remove_leftovers(options.prefix)
    watchdog = Watchdog(os.getpid(), Repository(options), options.prefix)
    if not os.fork():
        _watch(watchdog)
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    most = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (most, hard))
    try:
        os.execv(command[0], command)  # noqa: S606 - becoming Triton is the point
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
