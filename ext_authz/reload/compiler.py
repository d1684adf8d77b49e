"""Reads, checks and compiles a policy in a process of its own: neither its time nor its end can hurt who serves.

`python -m ext_authz.reload.compiler POLICY TARGET` writes the compiled policy and prints one JSON object:
`{"hash": ...}`, or `{"faults": [...]}` when it is not whole and valid.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from ext_authz.errors import ConfigError
from ext_authz.policy.faults import PolicyFaults, rendered
from ext_authz.policy.load import load_policy
from ext_authz.reload.compiled import write

_PATIENCE = 120.0
"""Seconds; 10,000 routes take a few."""
_POLITE = 10
"""Of 19: the workers' checks come first."""


class Rejected(ConfigError):
    """The policy cannot be put in force; `faults` are sentences, the first of them is the message."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(faults[0])
        self.faults = faults


async def compile_policy(path: Path, target: Path) -> str:
    """Write the compiled policy, and return its hash.

    Raises:
        Rejected: with every fault.
    """
    command = (sys.executable, "-m", "ext_authz.reload.compiler", str(path), str(target))
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(_PATIENCE):
            said, cried = await process.communicate()
    except TimeoutError:
        raise Rejected([f"{path}: not read within {_PATIENCE:.0f} seconds"]) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = (cried.decode(errors="replace").splitlines() or ["no word"])[-1]
        raise Rejected([f"{path}: the reader ended with status {process.returncode}: {last}"])
    result = json.loads(said)
    if "faults" in result:
        raise Rejected(result["faults"])
    return str(result["hash"])


def _main(path: Path, target: Path) -> None:
    os.nice(_POLITE)
    try:
        policy = load_policy(path, os.environ)
        write(policy, target)
    except PolicyFaults as wrong:
        sys.stdout.write(json.dumps({"faults": [rendered(fault) for fault in wrong.faults]}))
    except ConfigError as wrong:
        sys.stdout.write(json.dumps({"faults": [str(wrong)]}))
    else:
        sys.stdout.write(json.dumps({"hash": policy.hash}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
