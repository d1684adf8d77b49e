"""Every command block of the documentation works, in the order of its page (`blocks.py`)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.docs.blocks import expected, matches, printed, read, script
from tests.docs.surroundings import Surroundings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RUN = [page for page in PAGES if read(page).commands]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_not_run_says_why(page: Path) -> None:
    kinds = {block.kind for block in read(page).blocks}
    assert kinds <= {"", "not run", "file", "output"}
    assert [block.line for block in read(page).blocks if block.kind == "not run" and not block.value] == []
    assert [block.line for block in read(page).blocks if block.language in {"bash", "console", "shell", ""}] == []


@pytest.mark.timeout(400)  # a Keycloak, and a Java per command
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_its_commands_work(page: Path, surroundings: Callable[[str], Surroundings], tmp_path: Path) -> None:
    content = read(page)
    here = surroundings(content.beside)
    path = os.pathsep.join(map(str, (*here.programs, Path(sys.executable).parent, os.environ["PATH"])))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")}
    folder = here.folder or tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    status, output, errors = run(
        script(content, here.instead), folder, tmp_path, {**inherited, **here.environ, "PATH": path}
    )
    assert status == 0, f"{output[-2000:]}\n{errors[-4000:]}"
    outputs = printed(output)
    wrong = {
        line: outputs[line]
        for line, text in expected(content, here.instead).items()
        if not matches(outputs[line], text)
    }
    assert wrong == {}


def run(commands: str, folder: Path, logs: Path, environ: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit status, standard output and errors. What the commands left running is ended."""
    with (logs / "stdout").open("w+") as output, (logs / "stderr").open("w+") as errors:
        process = subprocess.Popen(
            ["bash", "-c", commands], cwd=folder, env=environ, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            status = process.wait(350)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        errors.seek(0)
        return status, output.read(), errors.read()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_units_are_valid(tmp_path: Path) -> None:
    units = [block for block in read(ROOT / "docs/install.md").blocks if block.value.endswith(".service")]
    assert len(units) == 2
    for unit in units:
        file = tmp_path / unit.value
        file.write_text(unit.text.replace("/opt/tollgate/bin", str(Path(sys.executable).parent)))
        found = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", file], check=False, capture_output=True, text=True
        )
        assert (found.returncode, found.stderr) == (0, "")
