"""Spark's replay over Parquet files reports what that of DuckDB does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.parquet import exported
from tests.properties.test_grouped_replay import CHANGES, calls
from tests.properties.test_replay import POLICY
from tests.unit.policytool.command_line import ENVIRONMENT, run, written

PYTHON = Path(__file__).parent / "spark/.venv/bin/python"
pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason="needs the environment of `make spark`"),
    pytest.mark.skipif(not shutil.which("java"), reason="needs java"),
]
OPTIONS = (
    "spark.master=local[2]",
    "spark.ui.enabled=false",
    "spark.driver.host=127.0.0.1",
    "spark.sql.shuffle.partitions=2",
)


def replayed(*arguments: Path) -> subprocess.CompletedProcess[str]:
    options = " ".join(f"--conf {each}" for each in OPTIONS)
    environ = {**os.environ, **ENVIRONMENT, "PYSPARK_SUBMIT_ARGS": f"{options} pyspark-shell"}
    command: list[str | Path] = [PYTHON, "-m", "ext_authz.policytool.spark_replay", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


@pytest.mark.timeout(900)
def test_the_report_is_that_of_duckdb(tmp_path: Path) -> None:
    change, text = "a limit by token", POLICY
    for before, after in CHANGES[change]:
        text = text.replace(before, after)
    old, new = written(tmp_path, POLICY, "old.yaml"), written(tmp_path, text, "new.yaml")
    ledger = exported(calls(len(change)), tmp_path / "ledger", batch=40)
    expected = run("diff", old, new, "--replay", ledger)
    found = replayed(old, new, ledger)
    assert found.returncode == expected.exit_code, found.stderr[-2000:]
    report = expected.output[expected.output.index("150 recorded decisions") :]
    assert found.stdout == report
