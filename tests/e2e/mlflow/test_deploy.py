"""`tollgate models deploy`: an ONNX model from a real MLflow server over a real Triton into the catalogue."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from devstack.stack.stack import Stack, running_stack
from tests.e2e.mlflow.world import World
from tests.e2e.stack.conftest import token_of
from tests.e2e.training.conftest import MODELS, TRAINING
from tests.stac.validation import complaints

pytestmark = [pytest.mark.mlflow, pytest.mark.training, pytest.mark.timeout(600)]

ONNX = MODELS / ".venvs/onnx/bin/python"
STEPS = ["fetch", "checksums", "gate", "signature", "keep", "install", "build", "load", "catalogue", "alias"]


class Deploys:
    """A stack that serves `digits`, and commands beside it. Its registry is MLflow's server."""

    def __init__(self, stack: Stack, models: Path, mlflow: str) -> None:
        self.stack, self.models = stack, models
        self._environ = {**os.environ, **stack.variables, "MLFLOW_TRACKING_URI": mlflow}
        self._environ |= {"TOLLGATE_MODELS": str(models), "TOLLGATE_STATE_DIR": str(stack.settings.state_dir)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._command(arguments), env=self._environ, capture_output=True, text=True, check=False)

    def killed_after(self, step: str, *arguments: str) -> None:
        """With all that it started."""
        with subprocess.Popen(
            self._command(arguments), env=self._environ, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert process.stdout
            assert any(line.startswith(step) for line in process.stdout)
            os.killpg(process.pid, signal.SIGKILL)

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "ext_authz", "models", *arguments]

    def item(self, user: str) -> dict[str, Any]:
        """Of the catalogue, over the console behind the real Envoy."""
        url = f"{self.stack.addresses.public_url}/tollgate/api/stac/collections/ai-model/items/digits"
        answer = httpx.get(url, headers=self._as(user))
        assert answer.status_code in (200, 404), answer.text
        return dict(answer.json()) if answer.is_success else {}

    def call(self, user: str) -> httpx.Response:
        pixels = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
        url = f"{self.stack.addresses.public_url}/v2/models/digits/versions/1/infer"
        return httpx.post(url, headers=self._as(user), json={"inputs": [pixels]}, timeout=30)

    def _as(self, user: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token_of(self.stack, user)}"}

    def records(self) -> list[dict[str, Any]]:
        lines = (self.models / "training/.deployments/digits/records.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def audited(self) -> list[str]:
        with psycopg.connect(self.stack.addresses.database_url) as connection:
            rows = connection.execute("SELECT action FROM audit_log WHERE object = 'model:digits' ORDER BY position")
            return [str(action) for (action,) in rows]

    def register(self) -> str:
        """What is in `exported`: its number."""
        sums = [f"{_sha256(file)}  {file.name}" for file in sorted(self.exported.iterdir()) if file.suffix]
        (self.exported / "SHA256SUMS").write_text("\n".join(sums) + "\n")
        done = self.run("register", "digits")
        found = re.search(r"^registered digits (\d+), alias candidate$", done.stdout, re.MULTILINE)
        assert found, done.stdout + done.stderr
        return found[1]

    @property
    def exported(self) -> Path:
        return self.models / "training/digits/data/model"


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def deploys(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deploys]:
    """Of `digits` alone, in a copy."""
    if not (TRAINING.exists() and ONNX.exists()):
        pytest.skip("needs the environments of `make models training`")
    models = tmp_path_factory.mktemp("deploys") / "model_servers"
    out = shutil.ignore_patterns(".venv*", "data", ".mlflow", ".deployments", "__pycache__", "SHA256SUMS*", "promoted*")
    shutil.copytree(MODELS, models, ignore=out)
    for model in (models / "repository").iterdir():
        if model.name != "digits":
            shutil.rmtree(model)
    (models / ".venvs").symlink_to(MODELS / ".venvs")
    (models / "training/.venv").symlink_to(MODELS / "training/.venv")
    policy = models.with_name("policy.yaml")
    policy.write_text(_of_digits((MODELS.parent / "devstack/stack/policy.yaml").read_text()))
    with running_stack(tmp_path_factory.mktemp("stack"), models=models, policy=policy) as stack:
        yield Deploys(stack, models, world.mlflow)


def _of_digits(policy: str) -> str:
    """Without the experiment and the application of another model."""
    whole = yaml.safe_load(policy)
    routes = [route for route in whole["routes"] if "upstream" not in route]
    return yaml.safe_dump({**{key: value for key, value in whole.items() if key != "experiments"}, "routes": routes})


@pytest.fixture(scope="module")
def champion(deploys: Deploys, world: World) -> str:
    """The number of what is deployed, by its alias."""
    assert "tollgate:origins" not in deploys.item("alice")["properties"]
    subprocess.run([ONNX, deploys.models / "training/digits/export.py", deploys.exported], check=True)
    number = deploys.register()
    world.past("registered-models/alias", name="digits", alias="champion", version=number)
    done = deploys.run("deploy", "digits", "champion")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[:-1]] == [[step, "ok"] for step in STEPS]
    return number


def test_one_command_brings_a_model_from_the_registry_to_its_callers(deploys: Deploys, champion: str) -> None:
    record = deploys.records()[0]
    assert (record["registered"], record["outcome"], len(record["steps"])) == (champion, "deployed", len(STEPS))
    item = deploys.item("alice")
    (origin,) = item["properties"]["tollgate:origins"]
    assert (origin["registered"], origin["version"]) == (f"digits {champion}", "1")
    assert origin["aliases"] == ["candidate", "champion", "served"]
    assert item["properties"]["mlflow:run_id"] == origin["run"]
    assert origin["checksum"] == _sha256(deploys.models / "repository/digits/1/SHA256SUMS")
    assert complaints(item) == []
    assert [deploys.call(user).status_code for user in ("alice", "carol")] == [200, 403]
    assert deploys.item("carol") == {}, "who may not call it does not find it"
    assert deploys.audited()[0] == "model.deployed"


def test_a_version_that_triton_cannot_load_leaves_what_was_served(deploys: Deploys, champion: str) -> None:
    (deploys.exported / "network.onnx").write_bytes(b"no network")
    broken = deploys.register()
    # Killed when it was installed: the next run knows what was served before.
    deploys.killed_after("install", "deploy", "digits", broken)
    failed = deploys.run("deploy", "digits", broken)
    assert failed.returncode == 1
    assert "load       failed  Triton cannot load digits: " in failed.stderr, failed.stdout + failed.stderr
    assert f"roll back  ok      before: digits {champion} of the registry" in failed.stdout
    (origin,) = deploys.item("alice")["properties"]["tollgate:origins"]
    assert (origin["registered"], deploys.call("alice").status_code) == (f"digits {champion}", 200)
    assert deploys.audited()[-1] == "model.rolled_back"
