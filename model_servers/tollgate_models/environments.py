"""Make the environments of frameworks: `environments.py UV FRAMEWORK...`, in any Python from 3.11, without packages.

A framework is an extra of the project `model_servers/`; its environment is `model_servers/.venvs/FRAMEWORK`, which is
there only if it is whole. Its models are trained in it at once: a stack that starts then finds them trained.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
FRAMEWORKS = ("sklearn", "onnx", "torch", "tensorflow", "r")
_PYTHON = ">=3.11,<3.13"
"""There is no NumPy below 2 for 3.13."""
_DEBIAN = "/usr/bin/python3"
_HAS_TORCH = """import importlib.util, sys
sys.exit(not (importlib.util.find_spec("torch") and (3, 11) <= sys.version_info < (3, 13)))"""


class CannotBuild(Exception):
    """One sentence that says what is missing and how to get it."""


def ensure_machine_has(framework: str) -> None:
    """What no package of PyPI brings.

    Raises:
        CannotBuild: it is not there.
    """
    if shutil.which("bash") is None:
        raise CannotBuild("Triton starts models through bash, which is not on the PATH: install it")
    if framework == "r" and shutil.which("Rscript") is None:
        raise CannotBuild(
            "models in R need Rscript, which is not on the PATH: apt install r-base-core (Debian, Ubuntu)"
        )
    if (
        framework == "torch"
        and subprocess.run([_DEBIAN, "-c", _HAS_TORCH], capture_output=True, check=False).returncode
    ):
        raise CannotBuild(
            f"models in PyTorch need PyTorch in a {_DEBIAN} of version 3.11 or 3.12: apt install python3-torch "
            "(Debian 12, Ubuntu 24.04)"
        )


def make(uv: str, framework: str) -> None:
    """Bring its environment up to date; an incomplete one is removed.

    Raises:
        CannotBuild: something is missing on this machine, or a model cannot be trained.
    """
    began, environment = time.monotonic(), PROJECT / ".venvs" / framework
    ensure_machine_has(framework)
    variables = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment)}
    sync = [uv, "sync", "--locked", "--no-editable", "--project", PROJECT, "--extra", framework]
    sync += ["--python", _base(uv, framework, environment)]
    if subprocess.run([*sync, "--quiet", "--check"], env=variables, capture_output=True, check=False).returncode:
        print(f"{framework}: making {environment}", flush=True)
        try:
            _run(sync, variables)
        except CannotBuild:
            shutil.rmtree(environment, ignore_errors=True)  # a stack would take it for a whole one
            raise
        print(f"{framework}: {_megabytes(environment)} MB in {time.monotonic() - began:.0f} s", flush=True)
    _run([environment / "bin" / "python", "-m", "tollgate_models.build", PROJECT / "repository"], variables)


def _base(uv: str, framework: str, environment: Path) -> str | Path:
    """The Python that an environment is made with; torch's sees the packages of Debian's."""
    if framework == "torch":
        if not (environment / "bin" / "python").exists():
            _run([uv, "venv", "--quiet", "--python", _DEBIAN, "--system-site-packages", environment], os.environ)
        return environment / "bin" / "python"
    find = [uv, "python", "find", "--system", "--quiet", "--no-python-downloads", _PYTHON]
    if subprocess.run(find, capture_output=True, check=False).returncode:
        raise CannotBuild(
            "models run in Python 3.11 or 3.12, for which Triton has NumPy, and this machine has neither: install one "
            f"(Debian: apt install python3.11 libpython3.11), or let uv fetch one: {uv} python install 3.12"
        )
    return _PYTHON


def _run(command: Sequence[str | Path], variables: Mapping[str, str]) -> None:
    if subprocess.run(command, env=variables, check=False).returncode:
        raise CannotBuild(f"{command[0]} failed; it says why above")


def _megabytes(environment: Path) -> int:
    return sum(path.lstat().st_size for path in environment.rglob("*")) // 1_000_000


def main(uv: str, names: Sequence[str]) -> None:
    wanted = FRAMEWORKS if "all" in names else names
    if unknown := [name for name in wanted if name not in FRAMEWORKS]:
        sys.exit(f"there is no framework {', '.join(unknown)}: FRAMEWORKS is all, or some of {' '.join(FRAMEWORKS)}")
    missing = []
    for name in wanted:
        try:
            make(uv, name)
        except CannotBuild as why:
            missing.append(f"{name}: {why}")
    if missing:
        sys.exit("\n".join(missing))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
