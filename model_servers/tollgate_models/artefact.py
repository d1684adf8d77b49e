"""What training writes into a version's directory, and `SHA256SUMS`, which `sha256sum --check` reads too."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tollgate_models.environments import CannotBuild

SUMS = "SHA256SUMS"


def seal(directory: Path, names: list[str]) -> None:
    lines = [f"{_sum(directory / name)}  {name}\n" for name in sorted(names)]
    (directory / SUMS).write_text("".join(lines))


def verify(directory: Path) -> None:
    """Raises CannotBuild: a file is not what was exported."""
    for line in (directory / SUMS).read_text().splitlines():
        wanted, _, name = line.partition("  ")
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise CannotBuild(f"{path} is missing: export the model again")
        if _sum(path) != wanted:
            raise CannotBuild(f"{path} is not what {SUMS} says: export the model again")


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
