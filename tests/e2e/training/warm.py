"""A command whose imports take seconds, run many times: `warm.py MODULE` imports it once, and forks for each line.

A line of its input is JSON: arguments, directory, variables of the environment, and two files for what the command
prints. Answered by a line with the exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Warm:
    """The other end: what `subprocess.run` does, many times."""

    def __init__(self, process: subprocess.Popen[str], place: Path) -> None:
        self._process, self._place = process, place

    def run(self, arguments: list[str], place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        assert self._process.stdin
        assert self._process.stdout
        stdout, stderr = self._place / "stdout", self._place / "stderr"
        asked = {"place": str(place), "variables": variables, "files": [str(stdout), str(stderr)]}
        print(json.dumps({"arguments": arguments, **asked}), file=self._process.stdin, flush=True)
        status = os.waitstatus_to_exitcode(int(self._process.stdout.readline()))
        return subprocess.CompletedProcess(arguments, status, stdout.read_text(), stderr.read_text())


@contextmanager
def warm(python: Path, module: str, place: Path, **variables: str) -> Iterator[Warm]:
    """`module` has a `main()`; it is imported with `place` on the path."""
    command, environ = [str(python), __file__, module], {**os.environ, **variables}
    with (
        tempfile.TemporaryDirectory() as printed,
        subprocess.Popen(
            command, cwd=place, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        yield Warm(process, Path(printed))


def serve(module: str) -> None:
    sys.path[0] = str(Path.cwd())  # in place of this file's directory
    main = importlib.import_module(module).main
    for line in sys.stdin:
        asked = json.loads(line)
        if not (child := os.fork()):
            os.chdir(asked["place"])
            os.environ.update(asked["variables"])
            for number, file in enumerate(asked["files"], 1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = [module, *asked["arguments"]]
            sys.exit(main())
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
