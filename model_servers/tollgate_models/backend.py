"""Triton's Python backend, bound to the Python that runs this: its stub, and the libpython that the stub loads.

The stub is a program per Python version that runs a model. It finds its libraries relative to itself, so its copy
stands in a tree laid out like the wheel's; and it is a copy, for Triton takes away everybody's right to read it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_STUB = "triton_python_backend_stub"
_LIBPYTHON = f"libpython{PYTHON}.so.1.0"


class CannotBuild(Exception):
    """One sentence that says what is missing and how to get it."""


def lay_out(wheel: Path, out: Path) -> None:
    """`wheel` is the directory `pytriton/tritonserver`; what Triton takes as backends is at the same place in `out`.

    Raises:
        CannotBuild: there is no stub, or no libpython, for this Python.
    """
    stub = wheel / "python_backend_stubs" / PYTHON / _STUB
    if not stub.is_file():
        raise CannotBuild(
            f"Triton's wheel has no stub for Python {PYTHON}: make the models' environment with 3.11 or 3.12"
        )
    backend = out / "pytriton" / "tritonserver" / "backends" / "python"
    shutil.rmtree(out, ignore_errors=True)
    backend.mkdir(parents=True)
    (out / "nvidia_pytriton.libs").symlink_to(wheel.parents[1] / "nvidia_pytriton.libs")
    for file in (wheel / "backends" / "python").iterdir():
        if file.name != _STUB:
            (backend / file.name).symlink_to(file)
    shutil.copy(stub, backend / _STUB)
    _ensure_libpython(backend / _STUB)


def _ensure_libpython(stub: Path) -> None:
    """Triton puts the environment's lib on the stub's library path."""
    ours, base = Path(sys.prefix, "lib", _LIBPYTHON), Path(sys.base_prefix, "lib", _LIBPYTHON)
    if not ours.exists():
        ours.unlink(missing_ok=True)  # it led to a Python that is gone
        if base.is_file():
            with suppress(FileExistsError):  # another stack that starts right now was faster
                ours.symlink_to(base)
    if _misses_libpython(stub):
        raise CannotBuild(
            f"Triton needs {_LIBPYTHON}, which {sys.base_prefix} does not have: install it "
            f"(Debian and Ubuntu: apt install libpython{PYTHON}), or make the models' environment with a Python that "
            "brings it: uv sync --locked --no-editable --project model_servers --managed-python"
        )


def _misses_libpython(stub: Path) -> bool:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(Path(sys.prefix, "lib"))}
    listed = subprocess.run(["ldd", stub], env=environment, capture_output=True, text=True, check=False).stdout
    return any(_LIBPYTHON in line and "not found" in line for line in listed.splitlines())
