"""`python -m bundle.proof ARCHIVE`, as root: install it and run `tollgate demo` as an ordinary user without a network.

All of it is in a network namespace that has loopback and no route. The kernel counts there what any process sends, or
tries to connect, to an address that is not on this machine, and datagrams to a port of loopback that nobody has: a
question to a DNS server. Each counter is first seen to move.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

_USER = "nobody"
_INSIDE = "inside"
_COUNTED = {
    "IPv4 to elsewhere": ("/proc/net/snmp", "Ip", "OutNoRoutes"),
    "IPv6 to elsewhere": ("/proc/net/snmp6", "Ip6", "OutNoRoutes"),
    "IPv4 to no port": ("/proc/net/snmp", "Udp", "NoPorts"),
    "IPv6 to no port": ("/proc/net/snmp6", "Udp6", "NoPorts"),
}
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses that documentation has to itself."""
_HERE = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_DNS = 53


def main(arguments: list[str]) -> None:
    if os.geteuid() != 0:
        sys.exit("make bundle-proof makes a network namespace and becomes an ordinary user: run it as root")
    if missing := [program for program in ("unshare", "ip", "setpriv", "tar") if shutil.which(program) is None]:
        sys.exit(f"make bundle-proof needs {', '.join(missing)} (Debian: apt install util-linux iproute2 tar)")
    if arguments[0] != _INSIDE:
        here = [sys.executable, "-m", "bundle.proof", _INSIDE, *arguments]
        sys.exit(subprocess.run(["unshare", "--net", *here], check=False).returncode)
    _prove(Path(arguments[1]).resolve(), arguments[2])


def _prove(archive: Path, python: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    _ensure_counters_move()
    before = _counters()
    with tempfile.TemporaryDirectory(prefix="tollgate-proof-") as place:
        user = pwd.getpwnam(_USER)
        os.chown(place, user.pw_uid, user.pw_gid)
        _run(user, place, "unpack", "tar", "-xf", str(archive), "--strip-components=1", "--one-top-level=unpacked")
        _run(user, place, "install", python, "unpacked/install.py", "tollgate")
        _run(user, place, "demo", "tollgate/bin/tollgate", "demo")
    called = {name: after - before[name] for name, after in _counters().items()}
    print(", ".join(f"{name}: {count}" for name, count in called.items()))
    if any(called.values()):
        sys.exit("something called out: run the demo under `strace -f -e trace=connect,sendto,sendmsg` to see who")


def _run(user: pwd.struct_passwd, home: str, what: str, *command: str) -> None:
    """As this user, with nothing of our environment."""
    began = time.monotonic()
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
    ran = subprocess.run([*become, *command], cwd=home, env={"HOME": home, "PATH": os.defpath}, check=False)
    print(f"{what}: exit code {ran.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    if ran.returncode:
        sys.exit(1)


def _counters() -> Mapping[str, int]:
    return {name: _counter(*where) for name, where in _COUNTED.items()}


def _counter(path: str, protocol: str, name: str) -> int:
    """`snmp` has a line of names and a line of values; `snmp6` a line for each."""
    text = Path(path).read_text()
    if alone := re.search(rf"^{protocol}{name}\s+(\d+)$", text, re.MULTILINE):
        return int(alone[1])
    names, values = re.findall(rf"^{protocol}: (.*)$", text, re.MULTILINE)
    return int(dict(zip(names.split(), values.split(), strict=True))[name])


def _ensure_counters_move() -> None:
    before = _counters()
    for family, address in _ELSEWHERE:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            if connection.connect_ex((address, _DNS)) == 0:
                sys.exit(f"{address} was reached: this is not a namespace without a route")
    for family, address in _HERE:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", (address, _DNS))
    if still := [name for name, after in _counters().items() if after == before[name]]:
        sys.exit(f"the kernel does not count here: {', '.join(still)}")


if __name__ == "__main__":
    main(sys.argv[1:])
