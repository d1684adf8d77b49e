"""`python -m bundle DIRECTORY`: write the archive and its checksum there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from zipfile import ZipFile

from bundle.archive import SUMS, pack, seal, sha256_of
from bundle.licences import Part, bill_of_materials, folder, listed, parts
from bundle.locked import ROOT, CannotBundle
from bundle.wheels import GLIBC, PIP, gather, requirements
from ext_authz import __version__

_OF_THE_CHECKOUT = ("applications", "model_servers/pyproject.toml", "model_servers/repository")
_SERVED_FROM = "model_servers/tollgate_models"
_SENTIMENT = ROOT / "model_servers" / "repository" / "sentiment" / "2"
_PYTHONS = ((3, 11), (3, 12))
"""Those that Triton has stubs for."""


def write(out: Path) -> Path:
    """The archive for this Python.

    Raises:
        CannotBundle: a part is not there, or has no licence.
    """
    version = sys.version_info[:2]
    if version not in _PYTHONS:
        raise CannotBundle(f"models run in Python 3.11 or 3.12, and this is {version[0]}.{version[1]}: set PYTHON")
    if not (_SENTIMENT / SUMS).exists() or not PIP.exists():
        raise CannotBundle(f"{_SENTIMENT} is not trained, or {PIP} not installed: make models does it, or says why")
    python = f"{version[0]}.{version[1]}"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tollgate-bundle-", dir=out) as place:
        directory = Path(place, f"tollgate-{__version__}-cp{version[0]}{version[1]}-linux-x86_64")
        directory.mkdir()
        wheels = gather(python, Path(place, "gathered"))
        _lay_out(directory, wheels, python)
        archive = out / f"{directory.name}.tar"
        pack(directory, archive, int(_git("log", "-1", "--format=%ct")))
    out.joinpath(f"{archive.name}.sha256").write_text(f"{sha256_of(archive)}  {archive.name}\n")
    return archive


def _lay_out(directory: Path, wheels: Mapping[str, list[Path]], python: str) -> None:
    every = {wheel.name: wheel for found in wheels.values() for wheel in found}.values()
    _describe(directory, parts(every))
    for environment, found in wheels.items():
        _write(directory / "requirements" / f"{environment}.txt", requirements(found).encode())
    (directory / "wheels").mkdir()
    for wheel in every:
        shutil.copy(wheel, directory / "wheels")
    for path in _of_the_checkout():
        (directory / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, directory / path.relative_to(ROOT))
    shutil.copy(ROOT / "bundle" / "install.py", directory)
    shutil.copy(ROOT / "bundle" / "README.md", directory)
    about = {
        "version": __version__,
        "commit": _git("describe", "--always", "--dirty", "--abbrev=40", "--match=").strip(),
        "python": python,
        "machine": "x86_64",
        "glibc": list(GLIBC),
        "bytes": sum(_installed(wheel) for found in wheels.values() for wheel in found),
        "environments": list(wheels),
    }
    _write(directory / "bundle.json", (json.dumps(about, indent=1) + "\n").encode())
    seal(directory)


def _describe(directory: Path, found: list[Part]) -> None:
    _write(directory / "LICENCES.md", listed(found).encode())
    _write(directory / "sbom.cdx.json", bill_of_materials(found, __version__).encode())
    for part in found:
        for name, text in part.texts.items():
            _write(directory / "licences" / folder(part) / name, text)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _of_the_checkout() -> Iterator[Path]:
    """What is committed, and sentiment 2 as it was trained here."""
    for name in _git("ls-files", *_OF_THE_CHECKOUT, _SERVED_FROM).splitlines():
        yield ROOT / name
    trained = [line.partition("  ")[2] for line in (_SENTIMENT / SUMS).read_text().splitlines()]
    for name in (*trained, SUMS, f"{SUMS}.sig"):
        if (_SENTIMENT / name).exists():
            yield _SENTIMENT / name


def _installed(wheel: Path) -> int:
    """Bytes of its files, and of what Python compiles of them."""
    with ZipFile(wheel) as files:
        return sum(entry.file_size * (1 + entry.filename.endswith(".py")) for entry in files.infolist())


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main(arguments: Iterable[str]) -> None:
    try:
        archive = write(*map(Path, arguments))
    except CannotBundle as why:
        sys.exit(f"make bundle: {why}")
    print(f"{archive}, {archive.stat().st_size // 1_000_000} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
