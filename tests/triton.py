"""A Triton of a test's own, started as the stack does it, with one more model, which does what it is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from devstack.stack.child import Child, is_alive
from devstack.stack.directory import StateDirectory
from devstack.stack.settings import load_stack_settings
from devstack.stack.stack import Stack
from devstack.stack.triton import triton_metrics
from ext_authz.render.endpoints import Pipe
from tests.services import over

OBEDIENT = "obedient"
_CONFIG = """\
backend: "python"
max_batch_size: 64
version_policy { specific { versions: [1] } }
input [{ name: "text" data_type: TYPE_STRING dims: [1] }]
output [{ name: "said" data_type: TYPE_STRING dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { }
parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/environment" } }
"""
_MODEL = '''
import atexit
import os
import time
from pathlib import Path

import numpy as np
from tollgate_models.batch import answer
from tollgate_models.labels import Labels
from tollgate_models.texts import texts


class TritonPythonModel:
    """Answers with the most rows that it was asked at once, and the parameters of the last request that it read."""

    def initialize(self, args):
        self.most, self.parameters = 0, ""
        self.labels = Labels("obedient", "1", ["a"])
        atexit.register(Path(os.environ["TOLLGATE_PREDICTIONS"], "obedient.ended").touch)

    def execute(self, requests):
        return answer(requests, "obedient", "1", self.read, self.predict)

    def read(self, request):
        self.parameters = request.parameters()
        return texts(request)

    def predict(self, batch):
        self.most = max(self.most, len(batch.rows))
        if "sleep" in batch.rows:
            time.sleep(0.5)
        while "hang" in batch.rows:
            pass
        if "break" in batch.rows:
            raise RuntimeError(f"in {__file__}")
        return {"said": np.array([f"{self.most} {self.parameters}"] * len(batch.rows), dtype=object)}
'''


class OwnTriton:
    """Its child, its sockets, and the model `obedient`, which `make` writes."""

    def __init__(self, stack: Stack) -> None:
        self.child: Child = stack.child("triton")
        self.state = stack.state
        self.predictions = stack.state.part("predictions")
        self.metrics = triton_metrics(stack.state, "triton")
        self.admin = {"x-triton-admin": stack.state.secret("triton", "admin-secret")}
        pipe = stack.addresses.triton.http
        assert isinstance(pipe, Pipe)
        self.socket = Path(pipe.path)
        self.prepare = self.child.prepare
        self.child.prepare = self._with_obedient

    def _with_obedient(self) -> None:
        self.prepare()
        home = self.state.plain_part("triton")
        model = home / "served" / OBEDIENT
        shutil.copytree(home / "models" / "sentiment" / "environment", model / "environment", symlinks=True)
        (model / "1").mkdir()
        (model / "1" / "model.py").write_text(_MODEL)
        (model / "config.pbtxt").write_text(_CONFIG)

    def client(self, seconds: float = 60) -> httpx.Client:
        return over(self.socket, seconds)

    def infer(self, client: httpx.Client, *texts: str, model: str = "sentiment", **headers: str) -> httpx.Response:
        body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts), 1], "data": list(texts)}]}
        allowed = {"x-authz-model": model, "x-authz-version": "*", "x-user-id": "alice", "x-model-variant": "-"}
        return client.post(f"/v2/models/{model}/infer", json=body, headers=allowed | headers)

    def stubs(self, model: str = "") -> list[psutil.Process]:
        """Processes of models."""
        return [each for each in self.family() if f"/served/{model}" in " ".join(each.cmdline()[:2])]

    def family(self) -> list[psutil.Process]:
        """What it started and runs: stubs and the watchdog."""
        return [each for each in psutil.Process(self.child.pid).children(recursive=True) if is_alive(each)]


@contextmanager
def own_triton(directory: Path) -> Iterator[OwnTriton]:
    """Its watchdog is impatient."""
    settings = load_stack_settings({"state_dir": directory, "model_answer_seconds": 3, "model_load_seconds": 4})
    state = StateDirectory(settings.state_dir)
    with state.locked():
        triton = OwnTriton(Stack(settings, state))
        triton.child.start()
        try:
            yield triton
        finally:
            triton.child.stop()
