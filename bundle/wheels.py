"""The wheels of an environment: fetched by pip, which compares the hashes of the lock file, and ours, built here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from packaging.utils import parse_wheel_filename

from bundle.locked import FRAMEWORKS, ROOT, SERVICE, UV, CannotBundle, locked

GLIBC = (2, 35)
"""What the newest of the wheels is built for (Triton's)."""
PIP = ROOT / "model_servers" / ".venvs" / "sklearn" / "bin" / "python"
"""The one pip that is locked."""
_PLATFORMS = [
    *(f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC[1], 4, -1)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"),
]


def gather(python: str, place: Path) -> dict[str, list[Path]]:
    """The wheels by environment, each in a directory of its own below `place`.

    Raises:
        CannotBundle: one cannot be fetched or built.
    """
    ours = {SERVICE: _built(place / "ours", "--all-packages")}
    ours |= dict.fromkeys(FRAMEWORKS, _built(place / "models", "model_servers"))
    return {name: sorted([*_fetched(locked(name, python), python, place / name), *ours[name]]) for name in ours}


def _fetched(lines: Iterable[str], python: str, place: Path) -> list[Path]:
    place.mkdir(parents=True)
    (place / "locked.txt").write_text("\n".join(lines))
    target = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    options = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--implementation", "cp", "--quiet"]
    command: list[str | Path] = [PIP, "-m", "pip", "download", *options, "--python-version", python, *target]
    _run([*command, "--dest", place, "--requirement", place / "locked.txt"], "pip cannot fetch the wheels")
    return [*place.glob("*.whl")]


def _built(place: Path, *what: str) -> list[Path]:
    _run([UV, "build", "--quiet", "--wheel", *what, "--out-dir", place], "uv cannot build our wheels")
    return [*place.glob("*.whl")]


def _run(command: Sequence[str | Path], failure: str) -> None:
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise CannotBundle(f"{failure}: {(ran.stderr or ran.stdout).strip()}")


def requirements(wheels: Iterable[Path]) -> str:
    """What installs exactly these files, for pip."""
    lines = []
    for wheel in wheels:
        name, version, _, _ = parse_wheel_filename(wheel.name)
        lines.append(f"{name}=={version} --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n")
    return "".join(sorted(lines))
