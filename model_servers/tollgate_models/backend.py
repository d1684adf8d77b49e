"""Triton's Python backend, and the stub of the Python that runs this, with the libpython that the stub loads.

The stub is a program per Python version that runs a model. It finds its libraries relative to itself, so its copy
stands in a tree laid out like the wheel's; and it is a copy, for Triton takes away everybody's right to read it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from tollgate_models.environments import CannotBuild

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB = "triton_python_backend_stub"
_LIBPYTHON = f"libpython{PYTHON}.so.1.0"


def lay_out(wheel: Path, out: Path) -> Path | None:
    """`wheel` is the directory `pytriton/tritonserver`; what Triton takes as backends is at the same place in `out`.

    Returns the stub that a model of this Python has to bring, unless it is the one that Triton takes by itself: that of
    the framework that came first.

    Raises:
        CannotBuild: there is no stub, or no libpython, for this Python.
    """
    original = wheel / "python_backend_stubs" / PYTHON / STUB
    if not original.is_file():
        raise CannotBuild(
            f"Triton's wheel has no stub for Python {PYTHON}: make the environment {sys.prefix} with 3.11 or 3.12"
        )
    tree = out / "pytriton" / "tritonserver"
    backend, stub = tree / "backends" / "python", tree / "stubs" / PYTHON / STUB  # as deep as in the wheel
    for directory in (backend, stub.parent):
        directory.mkdir(parents=True, exist_ok=True)
    _link(out / "nvidia_pytriton.libs", wheel.parents[1] / "nvidia_pytriton.libs")
    for file in (wheel / "backends" / "python").iterdir():
        if file.name != STUB:
            _link(backend / file.name, file)
    stub.unlink(missing_ok=True)
    shutil.copy(original, stub)
    _ensure_libpython(stub)
    if not (backend / STUB).exists():
        _link(backend / STUB, stub)
    return None if (backend / STUB).readlink() == stub else stub


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def ensure_numpy() -> None:
    """Raises CannotBuild where every model would load, and then fail."""
    if not version("numpy").startswith("1."):
        raise CannotBuild(
            f"Triton's stub needs NumPy below 2, and {sys.prefix} has {version('numpy')}: make models makes it anew"
        )


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
            f"(Debian and Ubuntu: apt install libpython{PYTHON}), or make environments with a Python that brings it: "
            "UV_PYTHON_PREFERENCE=only-managed make models"
        )


def _misses_libpython(stub: Path) -> bool:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(Path(sys.prefix, "lib"))}
    listed = subprocess.run(["ldd", stub], env=environment, capture_output=True, text=True, check=False).stdout
    return any(_LIBPYTHON in line and "not found" in line for line in listed.splitlines())
