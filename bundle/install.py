#!/usr/bin/env python3
"""Install Tollgate from this unpacked archive: `python3 install.py DIRECTORY`. No network, no root, no pip.

DIRECTORY becomes a Python environment with the service and its stack (`bin/tollgate`), and holds in `share/tollgate`
the models with their environments, the applications, and the licences.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parent
SHARED = Path("share", "tollgate")
ABOUT = "bundle.json"
"""In the archive; it is copied when all else is done."""
_COPIED = ("applications", "licences", "LICENCES.md", "model_servers", "sbom.cdx.json")
_SPARE = 1.15
_BUILD = "tollgate_models.build"
_INSTALL = (
    *("--no-index", "--require-hashes", "--no-deps", "--no-cache-dir", "--quiet", "--no-input"),
    *("--disable-pip-version-check", "--no-warn-script-location"),
)


class CannotInstall(Exception):
    """One sentence that says what is wrong and what to do."""


def install(target: Path) -> None:
    """Into a directory that is not there, or empty; it is removed if this fails.

    Raises:
        CannotInstall: this machine, the archive or the directory does not do.
    """
    about = _about()
    _ensure_python(about)
    _ensure_target(target, about)
    print("comparing checksums", flush=True)
    _ensure_whole()
    try:
        _fill(target, about)
    except BaseException:  # Ctrl-C and SIGTERM too
        shutil.rmtree(target, ignore_errors=True)
        raise


def _about() -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((BUNDLE / ABOUT).read_text())
    except (OSError, ValueError):
        raise CannotInstall(f"{BUNDLE / ABOUT} cannot be read: unpack the whole archive again") from None
    return about


def _ensure_python(about: dict[str, Any]) -> None:
    """Before all else: another Python would not find its wheels, and say something else."""
    here = platform.python_version().rpartition(".")[0]
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", about["machine"]):
        raise CannotInstall(
            f"this archive is for Linux on {about['machine']}, and this is {system} on {machine}: get the one for it"
        )
    if here != about["python"] or platform.python_implementation() != "CPython":
        raise CannotInstall(
            f"this archive is for CPython {about['python']}, and this is {platform.python_implementation()} {here}: "
            f"run python{about['python']} install.py, or get the archive for this one"
        )
    _ensure_libraries(here, about["glibc"])


def _ensure_libraries(python: str, glibc: list[int]) -> None:
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if name != "glibc" or [int(number) for number in version.split(".")[:2]] < glibc:
        here = f"this machine has glibc {version}" if name == "glibc" else "this machine has another C library"
        raise CannotInstall(f"this archive needs glibc {'.'.join(map(str, glibc))} or newer, and {here}")
    if shutil.which("bash") is None:
        raise CannotInstall("Triton starts models through bash, which is not on the PATH: install it")
    library = f"libpython{python}.so.1.0"
    if not Path(sys.base_prefix, "lib", library).is_file() and ctypes.util.find_library(f"python{python}") is None:
        raise CannotInstall(f"Triton needs {library}: install it (Debian and Ubuntu: apt install libpython{python})")


def _ensure_target(target: Path, about: dict[str, Any]) -> None:
    if (target / SHARED / ABOUT).exists():
        version = json.loads((target / SHARED / ABOUT).read_text())["version"]
        raise CannotInstall(
            f"{target} has Tollgate {version} already: name another directory, and remove this one later"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CannotInstall(f"{target} is not an empty directory: name one that is not there yet, or remove it")
    above = next(path for path in target.parents if path.exists())
    if not above.is_dir():
        raise CannotInstall(f"{above} is not a directory: name another one")
    if not os.access(target if target.exists() else above, os.W_OK):
        raise CannotInstall(f"{above} is not writable for this user: name another directory")
    needed, free = int(about["bytes"] * _SPARE), shutil.disk_usage(above).free
    if free < needed:
        megabytes = f"{needed // 1_000_000} MB, and {free // 1_000_000} MB are free there"
        raise CannotInstall(f"{target} needs {megabytes}: name another directory")


def _ensure_whole() -> None:
    """Raises CannotInstall for a file that is missing or changed. Who made the archive is not known by that."""
    try:
        lines = (BUNDLE / "SHA256SUMS").read_text().splitlines()
    except OSError:
        raise CannotInstall(f"{BUNDLE / 'SHA256SUMS'} is missing: unpack the whole archive again") from None
    for line in lines:
        wanted, _, name = line.partition("  ")
        try:
            found = hashlib.sha256((BUNDLE / name).read_bytes()).hexdigest()
        except OSError:
            raise CannotInstall(f"{BUNDLE / name} is missing: unpack the whole archive again") from None
        if found != wanted:
            how = "compare the archive with its .sha256, and unpack it again"
            raise CannotInstall(f"{BUNDLE / name} is not what SHA256SUMS says: {how}")


def _fill(target: Path, about: dict[str, Any]) -> None:
    shared = target / SHARED
    service, *frameworks = about["environments"]
    _make_environment(target, service)
    for name in _COPIED:
        copy = shutil.copytree if (BUNDLE / name).is_dir() else shutil.copy
        shared.mkdir(parents=True, exist_ok=True)
        copy(BUNDLE / name, shared / name)
    for framework in frameworks:
        environment = shared / "model_servers" / ".venvs" / framework
        _make_environment(environment, framework)
        _build_models(environment, shared / "model_servers" / "repository", target)
    shutil.copy(BUNDLE / ABOUT, shared)


def _make_environment(directory: Path, name: str) -> None:
    """With exactly the wheels that are listed for it."""
    print(f"installing {name}", flush=True)
    _run([sys.executable, "-m", "venv", "--without-pip", directory], "cannot make a Python environment")
    pip = next((BUNDLE / "wheels").glob("pip-*.whl")) / "pip"
    listed = BUNDLE / "requirements" / f"{name}.txt"
    program = [directory / "bin" / "python", pip]
    _run(
        [*program, "install", *_INSTALL, "--find-links", BUNDLE / "wheels", "--requirement", listed],
        f"cannot install {name}",
    )


def _build_models(environment: Path, repository: Path, target: Path) -> None:
    """Train what is trained here, and see that all of it builds; every start of the stack builds it again."""
    triton = next(target.glob("lib/python*/site-packages/pytriton/tritonserver"))
    with tempfile.TemporaryDirectory() as out:
        python = environment / "bin" / "python"
        Path(out, "built").mkdir()
        _run(
            [python, "-m", _BUILD, repository, Path(out, "built"), triton],
            f"cannot build the models of {environment.name}",
        )


def _run(command: Sequence[str | Path], failure: str) -> None:
    """Without the settings of this user's pip and Python."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    variables["PIP_CONFIG_FILE"] = os.devnull
    ran = subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, check=False)
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip().splitlines() or [f"{command[0]} ended with {ran.returncode}"]
        raise CannotInstall(f"{failure}: {said[-1]}")


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.exit("write the directory to install into: python3 install.py /opt/tollgate")
    target = Path(arguments[0]).resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        install(target)
    except (CannotInstall, OSError) as why:
        sys.exit(f"install.py: {why}")
    except KeyboardInterrupt:
        sys.exit(f"install.py: interrupted, and {target} removed")
    print(f"installed: {target / 'bin' / 'tollgate'}")


if __name__ == "__main__":
    main(sys.argv[1:])
