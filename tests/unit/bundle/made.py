"""Wheels and a bundle that are made here, of the form of the real ones and a thousandth of their size."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

from bundle.archive import seal
from bundle.wheels import requirements

ROOT = Path(__file__).parents[3]
LICENSED = {"{}.dist-info/licenses/LICENSE": "do as you like"}
_BUILD = """
import sys
from pathlib import Path
repository, out, wheel = map(Path, sys.argv[1:])
assert (repository / "sentiment" / "model.py").exists() and out.is_dir() and (wheel / "bin").is_dir()
print("built", Path(sys.prefix).name)
"""
_PROGRAM = "import sys\ndef main():\n    print('tollgate', *sys.argv[1:])\n"


def wheel(place: Path, name: str, files: Mapping[str, str], *, metadata: str = "License-Expression: MIT\n") -> Path:
    """`{}` in the name of a file is NAME-VERSION; version 1.0."""
    pinned = f"{name}-1.0"
    held = {key.format(pinned): text for key, text in files.items()}
    held[f"{pinned}.dist-info/METADATA"] = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}"
    held[f"{pinned}.dist-info/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    held[f"{pinned}.dist-info/RECORD"] = "".join(f"{key},,\n" for key in held)
    path = place / f"{pinned}-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        for key, text in held.items():
            archive.writestr(key, text)
    return path


def unpacked(place: Path, **about: object) -> Path:
    """A bundle as `tar` leaves it, for this Python and machine; `about` replaces what it says of itself."""
    directory = place / "unpacked"
    (directory / "wheels").mkdir(parents=True)
    (directory / "requirements").mkdir()
    service = [
        _service(directory / "wheels"),
        wheel(directory / "wheels", "pytriton", {"pytriton/tritonserver/bin/x": ""}),
    ]
    models = [wheel(directory / "wheels", "tollgate_models", {"tollgate_models/build.py": _BUILD})]
    for environment, wheels in {"tollgate": service, "sklearn": models}.items():
        (directory / "requirements" / f"{environment}.txt").write_text(requirements(wheels))
    _pip(directory / "wheels")
    for name in ("applications/page.py", "licences/x/LICENSE", "LICENCES.md", "sbom.cdx.json"):
        _write(directory / name)
    _write(directory / "model_servers/repository/sentiment/model.py")
    shutil.copy(ROOT / "bundle" / "install.py", directory)
    said = {
        "version": "1.0",
        "python": platform.python_version().rpartition(".")[0],
        "machine": platform.machine(),
        "glibc": [2, 17],
        "bytes": 1000,
        "environments": ["tollgate", "sklearn"],
    }
    (directory / "bundle.json").write_text(json.dumps(said | about))
    seal(directory)
    return directory


def _service(place: Path) -> Path:
    entry = "[console_scripts]\ntollgate = said:main\n"
    return wheel(place, "tollgate", {"said.py": _PROGRAM, "{}.dist-info/entry_points.txt": entry})


def _pip(place: Path) -> None:
    """The one that came with the environment of uv, which `make` has made before any test runs."""
    [package] = (ROOT / ".tools" / "lib").glob("python*/site-packages/pip")
    with ZipFile(place / "pip-1.0-py3-none-any.whl", "w") as archive:
        for path in package.rglob("*"):
            archive.write(path, Path("pip", path.relative_to(package)))


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file\n")


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
