"""A model in R: a process of Rscript that answers each line of numbers with a line of numbers.

It is started again when it has died or does not answer, and the same numbers are asked once more: no caller notices
one kill of it. (R inside the model's own process would take that down with it, which Triton does not restart.)
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path

import numpy as np

_SECONDS = 20.0
"""R starts within one on an idle machine; predictions take milliseconds."""


class Rscript:
    def __init__(self, script: Path, *arguments: Path) -> None:
        self._command = ["Rscript", "--vanilla", script, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, rows: np.ndarray) -> np.ndarray:
        """`rows` of finite numbers, in one line of at most a pipe's 64 kB; one number for each of them.

        Raises:
            OSError: twice R died, or did not answer in time.
            ValueError: twice R answered something else.
        """
        line = " ".join(map(repr, rows.reshape(-1).tolist())).encode() + b"\n"
        try:
            return self._exchange(line, len(rows))
        except (OSError, ValueError):
            self.end()
        try:
            return self._exchange(line, len(rows))
        except (OSError, ValueError):
            self.end()  # what it may still say is no answer to the next line
            raise

    def end(self) -> None:
        """Called when the model is unloaded; when Triton dies, R reads the end of its input, and ends."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _exchange(self, line: bytes, rows: int) -> np.ndarray:
        process = self._started()
        process.stdin.write(line)
        answered, deadline = b"", time.monotonic() + _SECONDS
        while not answered.endswith(b"\n"):
            if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("R does not answer")
            if not (part := process.stdout.read(65_536)):
                raise BrokenPipeError("R has ended")
            answered += part
        found = np.array([float(number) for number in answered.split()])
        if len(found) != rows:
            raise ValueError(f"R answered {len(found)} numbers for {rows} rows")
        return found

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            # Triton's library path is for its stub; R has libraries of its own.
            environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
            self._process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        return self._process
