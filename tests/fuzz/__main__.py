"""`python -m tests.fuzz`: searches inputs that break the loader, the matcher or the authorizer, by coverage (Atheris).

What it finds is left in the state directory, as `NAME-found-*`; `--reproduce FILE` runs one of them again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

TARGETS = ("load", "match", "check_request")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(TARGETS))
@click.option("--seconds", default=60, show_default=True, help="For each target.")
@click.option("--state", default=Path(".state/fuzz"), show_default=True, type=click.Path(path_type=Path))
@click.option("--reproduce", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Of the one target.")
def main(names: Sequence[str], seconds: int, state: Path, reproduce: Path | None) -> None:
    """Fuzz the targets one after another; the corpus stays, and the next run goes on from it."""
    broken = [name for name in names or TARGETS if not _holds(name, seconds, state, reproduce)]
    sys.exit(f"found something in: {', '.join(broken)}" if broken else 0)


def _holds(name: str, seconds: int, state: Path, reproduce: Path | None) -> bool:
    click.echo(f"== {name}")
    if reproduce:
        code = f"from tests.fuzz.fuzz_{name} import target; target(open({str(reproduce)!r}, 'rb').read())"
        return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    command = [sys.executable, "-m", "tests.fuzz.engine", name, str(state), f"-max_total_time={seconds}"]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    main()
