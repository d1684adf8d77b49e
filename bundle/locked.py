"""What the lock files have for each environment, as files that pip reads."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
UV = ROOT / ".tools" / "bin" / "uv"
SERVICE = "tollgate"
FRAMEWORKS = ("sklearn", "onnx")
"""Those of the demo: the others need programs of Debian, or a gigabyte (docs/adr/0044)."""
_EXTRAS = ("--extra", "client", "--extra", "otlp")
"""Of the service: those that an operator or the demo takes."""
_OPTIONS = {SERVICE: ("--all-packages", *_EXTRAS, "--no-default-groups", "--no-emit-workspace")} | {
    name: ("--project", "model_servers", "--extra", name, "--no-emit-project") for name in FRAMEWORKS
}
_FIRST_AND_LAST = ("0", "99")
"""Patch releases of a Python: what one of them needs is in the archive, whichever makes it."""


class CannotBundle(Exception):
    """One sentence that says what is wrong and what to do."""


def locked(environment: str, python: str) -> list[str]:
    """Lines `NAME==VERSION --hash=sha256:...` for CPython `python` ("3.11") on Linux on x86-64, in the order of names.

    Raises:
        CannotBundle: uv cannot read the lock file; it says why.
    """
    command = [UV, "export", "--quiet", "--offline", "--locked", "--no-annotate", "--no-header", *_OPTIONS[environment]]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise CannotBundle(f"uv cannot export what {environment} needs: {ran.stderr.strip()}")
    return [*_without_markers(ran.stdout, python)]


def _without_markers(exported: str, python: str) -> Iterator[str]:
    """`exported`: a requirement per line, which goes on after a backslash with its hashes."""
    for line in exported.replace("\\\n", " ").splitlines():
        written, *hashes = line.split(" --hash=")
        needed = Requirement(written)
        if needed.marker is None or any(needed.marker.evaluate(_target(python, patch)) for patch in _FIRST_AND_LAST):
            yield " --hash=".join([f"{needed.name}{needed.specifier}", *map(str.strip, hashes)])


def _target(python: str, patch: str) -> Mapping[str, str]:
    here = {name: str(value) for name, value in default_environment().items()}
    machine = {"platform_machine": "x86_64", "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    return here | machine | {"python_version": python, "python_full_version": f"{python}.{patch}"}
