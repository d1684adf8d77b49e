"""The pipeline of `sentiment` 2: what it runs again, what it makes, and where that is pushed to."""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.training.conftest import MODELS, TRAINING, Copy
from tests.services import free_port, wait_for

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]
STAGES = ("prepare", "train", "evaluate", "export")
KEY, SECRET = "key", "a-secret-of-the-test"


def test_again_it_does_nothing(copy: Copy) -> None:
    again = copy.dvc("repro")
    assert [f"Stage '{stage}' didn't change, skipping" in again.stdout for stage in STAGES] == [True] * 4
    assert "Data and pipelines are up to date." in again.stdout
    assert copy.dvc("status").stdout.strip() == "Data and pipelines are up to date."


def test_it_makes_what_make_models_makes_byte_for_byte(copy: Copy) -> None:
    served = MODELS / "repository/sentiment/2"
    if (served / "promoted.json").exists() or not (served / "SHA256SUMS").exists():
        pytest.skip("what is served here is not of `make models`")
    assert (copy.sentiment / "data/model/SHA256SUMS").read_text() == (served / "SHA256SUMS").read_text()


def test_the_committed_lock_file_is_of_this_code_and_of_what_it_makes(copy: Copy) -> None:
    made = (copy.sentiment / "dvc.lock").read_text()
    assert made == (MODELS / "training/sentiment/dvc.lock").read_text(), "run dvc repro and commit dvc.lock"


def test_what_fails_its_gate_is_not_exported(copy: Copy) -> None:
    parameters = copy.sentiment / "params.toml"
    before = parameters.read_text()
    parameters.write_text(before.replace("overall = 0.80", "overall = 0.99"))
    try:
        failed = copy.dvc("repro")
    finally:
        parameters.write_text(before)
    assert failed.returncode != 0
    assert "Stage 'train' didn't change, skipping" in failed.stdout
    assert re.search(r"sentiment 2 fails its gate: right in 8\d\.\d% of all sentences, and 99% is asked", failed.stderr)
    assert "export" not in failed.stdout
    assert copy.dvc("checkout").returncode == 0


def test_s3_has_the_model_and_not_the_sentences(copy: Copy, tmp_path: Path) -> None:
    with _s3(tmp_path) as endpoint:
        assert copy.dvc("remote", "add", "--local", "--default", "s3", "s3://bucket/models").returncode == 0
        assert copy.dvc("remote", "modify", "--local", "s3", "endpointurl", endpoint).returncode == 0
        wrong = copy.dvc("push", AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY="wrong")
        assert wrong.returncode != 0
        pushed = copy.dvc("push", AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET)
        assert pushed.returncode == 0, pushed.stderr
    stored = {hashlib.md5(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*") if path.is_file()}
    data = copy.sentiment / "data"
    assert hashlib.md5((data / "model/weights.npz").read_bytes()).hexdigest() in stored
    assert hashlib.md5((data / "sentences.jsonl").read_bytes()).hexdigest() not in stored


@contextmanager
def _s3(root: Path) -> Iterator[str]:
    (root / "bucket").mkdir()
    port = free_port()
    command: list[str | Path] = [TRAINING / "rclone", "serve", "s3", root, "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{KEY},{SECRET}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: _answers(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
