"""Network namespaces in place of pods, and the processes in them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PREFIX = "tollgate-mesh-"
"""Of every namespace here: a start removes what a killed run left, by it."""
BRIDGE = "10.77.0.1"
"""The control plane, which the pods are connected to."""
SERVICES = "10.96.0.0/16"
_ETC = Path("/etc/netns")


def unavailable() -> str:
    """Why no world can run here; empty if it can."""
    if os.geteuid():
        return "network namespaces need root"
    if missing := [
        name for name in ("go", "curl", "ip", "iptables", "kubectl", "openssl", "setpriv") if not shutil.which(name)
    ]:
        return f"not installed: {', '.join(missing)}"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return probe.stderr.strip()


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Its output. A failure names the command and what it wrote."""
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_until(what: str, condition: Callable[[], object], seconds: float = 60) -> None:
    """Errors of the condition count as no; the last one is in the message."""
    deadline, error = time.monotonic() + seconds, ""
    while True:
        try:
            if condition():
                return
        except (AssertionError, OSError) as raised:
            error = f": {raised}"
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come in {seconds:g} s: {what}{error}")
        time.sleep(0.1)


def remove_all() -> None:
    """Ends all processes in our namespaces, and removes them."""
    for name in (line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.startswith(PREFIX)):
        for pid in run("ip", "netns", "pids", name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        run("ip", "netns", "delete", name)
        shutil.rmtree(_ETC / name, ignore_errors=True)


class Network:
    """This machine's own, which has no name. Its processes end with this one."""

    name = ""

    def __init__(self) -> None:
        self._enter: list[str] = []
        self._processes: list[Process] = []

    def run(self, *command: str | Path, stdin: str | None = None) -> str:
        return run(*self.entering(*command), stdin=stdin)

    def entering(self, *command: str | Path) -> list[str]:
        """A command that runs this one here."""
        return [*self._enter, *map(str, command)]

    def start(
        self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str], directory: Path, *, uid: int = 0
    ) -> Process:
        user = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        whole = [*self._enter, "setpriv", "--pdeathsig", "KILL", *user, *map(str, command)]
        process = Process(whole, log, environment, directory, uid)
        self._processes.append(process)
        return process

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()


class Namespace(Network):
    """One pod's network. `address` is on the bridge of the control plane, which is the first namespace."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__()
        self.name = PREFIX + name
        self.address = address
        self._enter = ["ip", "netns", "exec", self.name]
        hosts = _ETC / self.name / "hosts"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        hosts.write_text(f"127.0.0.1 localhost\n{BRIDGE} istiod.istio-system.svc\n")
        run("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")
        if address == BRIDGE:
            self._be_the_bridge()
        else:
            self._connect(name)

    def _be_the_bridge(self) -> None:
        self.run("ip", "link", "add", "br0", "type", "bridge")
        self.run("ip", "address", "add", f"{BRIDGE}/24", "dev", "br0")
        self.run("ip", "link", "set", "br0", "up")
        self.run("ip", "route", "add", SERVICES, "dev", "br0")

    def _connect(self, name: str) -> None:
        port = f"v{self.address}"
        control = PREFIX + "control"
        self.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", control)
        run("ip", "-n", control, "link", "set", port, "master", "br0", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", BRIDGE)


class Process:
    """A program in a namespace. Those of a killed run are found by their namespace."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str], directory: Path, uid: int
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            os.chown(log, uid, uid)  # Envoy opens /dev/stdout anew
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env={"PATH": os.environ["PATH"], **environment}, cwd=directory
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, seconds: float) -> int:
        """Its exit code."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait_until(self, what: str, condition: Callable[[], object], seconds: float = 60) -> None:
        def holds() -> object:
            return self._process.poll() is not None or condition()

        try:
            wait_until(what, holds, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}:\n{self._tail()}") from None
        assert self._process.poll() is None, f"{self.log}: ended before this came: {what}\n{self._tail()}"

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
