"""Models that tell who they are and what was forwarded to them: one compares it with itself, the others serve all."""

from __future__ import annotations

from pathlib import Path

_PROJECT = Path(__file__).parents[3] / "model_servers"

_CONFIG = """
name: "{name}"
backend: "python"
parameters {{ key: "framework" value {{ string_value: "sklearn" }} }}
max_batch_size: 8
version_policy {{ all {{}} }}
input [{{ name: "x" data_type: TYPE_FP32 dims: [1] }}]
output [{{ name: "who" data_type: TYPE_STRING dims: [1] }}, {{ name: "seen" data_type: TYPE_STRING dims: [1] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""

_MODEL = '''
import numpy as np
import triton_python_backend_utils as triton
from tollgate_models.batch import answer


class TritonPythonModel:
    """Who it is, and what Triton forwarded."""

    def initialize(self, args):
        self.name, self.version = args["model_name"], args["model_version"]

    def execute(self, requests):
        if self.name == "guarded":
            return answer(requests, self.name, self.version, lambda request: np.zeros(1), self._told)
        return [self._answer(request) for request in requests]

    def _told(self, batch):
        return {name: np.array([text] * len(batch.rows), dtype=object) for name, text in self._texts("").items()}

    def _answer(self, request):
        pairs = self._texts(request.parameters()).items()
        tensors = [triton.Tensor(name, np.array([[text]], dtype=object)) for name, text in pairs]
        return triton.InferenceResponse(tensors)

    def _texts(self, seen):
        return {"who": f"{self.name}/{self.version}", "seen": seen}
'''

_VERSIONS = {"plain": (1,), "staged": (1, 2), "guarded": (1, 2), "secret": (1,)}
"""All but `guarded` compare nothing, as models of ONNX or TensorRT."""


def write_models(out: Path) -> Path:
    """A models' project for the stack, in the environment of the real one."""
    for name, versions in _VERSIONS.items():
        for version in versions:
            place = out / "repository" / name / str(version)
            place.mkdir(parents=True)
            (place / "model.py").write_text(_MODEL)
        (out / "repository" / name / "config.pbtxt").write_text(_CONFIG.format(name=name))
    for name in (".venvs", "tollgate_models"):
        (out / name).symlink_to(_PROJECT / name)
    return out
