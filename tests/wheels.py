"""The wheels of both distributions, and an environment that holds nothing but the product's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
UV = str(_ROOT / ".tools" / "bin" / "uv")


def built(out: Path) -> dict[str, Path]:
    """By distribution; each from its source distribution, as an index would offer it."""
    command = [UV, "build", "--quiet", "--offline", "--all-packages", "--out-dir", str(out)]
    subprocess.run(command, cwd=_ROOT, check=True)
    return {path.name.partition("-")[0]: path for path in out.glob("*.whl")}


def installed(wheel: Path, environment: Path) -> Path:
    """The programs of a new environment that holds the wheel of the product and what the lock file has for it."""
    to_environment = os.environ | {"UV_PROJECT_ENVIRONMENT": str(environment)}
    sync = ["sync", "--quiet", "--offline", "--locked", "--no-dev", "--no-install-project", "--package", "tollgate"]
    subprocess.run([UV, *sync, "--python", sys.executable], cwd=_ROOT, env=to_environment, check=True)
    install = ["pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(environment)]
    subprocess.run([UV, *install, str(wheel)], check=True)
    subprocess.run([UV, "pip", "check", "--quiet", "--python", str(environment)], check=True)
    return environment / "bin"


def requirements() -> str:
    """What the product needs, in the versions of the lock file."""
    return _output(
        "export", "--quiet", "--offline", "--locked", "--no-default-groups", "--no-emit-project", "--no-hashes"
    )


def cache() -> str:
    """Where uv keeps what it has fetched."""
    return _output("cache", "dir").strip()


def _output(*arguments: str) -> str:
    return subprocess.run([UV, *arguments], cwd=_ROOT, check=True, capture_output=True, text=True).stdout
