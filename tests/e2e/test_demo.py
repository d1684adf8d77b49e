"""The tour of `make demo`, as it is typed."""

from __future__ import annotations

import subprocess
import sys


def test_every_step_of_the_tour_is_as_expected() -> None:
    command = [sys.executable, "-m", "ext_authz", "demo"]
    tour = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert "DIFFERS" not in tour.stdout, tour.stdout
    assert tour.stdout.rstrip().endswith("everything as expected"), tour.stdout + tour.stderr
    assert tour.returncode == 0
