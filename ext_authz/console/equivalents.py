"""The same call from a program: lines to paste, with what was typed in them and nothing that a shell would run.

What people typed is ASCII here, all else as escapes: no character does anything to a terminal. The token is in the
variable TOKEN of whoever pastes them.
"""

from __future__ import annotations

import json
import shlex
from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from ext_authz.console.model_inputs import Tensor

_DEFAULT_PORTS = {"https": 443, "http": 80}
_CONTENTS = {"BYTES": "bytes", "BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64"}
_DTYPES = {"BYTES": "object", "BOOL": "bool", "FP32": "float32", "FP64": "float64"}


class Call(Struct, frozen=True):
    """One inference."""

    model: str
    version: str
    """Empty: the one that serves."""
    tensors: Sequence[Tensor]

    @property
    def path(self) -> str:
        """Model and version are canonical: nothing in them has a meaning in a URL."""
        return f"/v2/models/{self.model}{f'/versions/{self.version}' if self.version else ''}/infer"

    def body(self) -> dict[str, Any]:
        """Of the Open Inference Protocol."""
        return {
            "inputs": [
                {"name": each.name, "datatype": each.datatype, "shape": list(each.shape), "data": list(each.data)}
                for each in self.tensors
            ]
        }


def curl(door: str, call: Call) -> str:
    return (
        f'curl -s {shlex.quote(door + call.path)} -H "Authorization: Bearer $TOKEN" \\\n'
        f"  -d {shlex.quote(_json(call.body()))}"
    )


def python(door: str, call: Call) -> str:
    """With `tollgate.client`."""
    version = f", version={call.version!a}" if call.version else ""
    inputs = "\n".join(f"    {each.name!a}: {_array(each)}," for each in call.tensors)
    return (
        "import os\n\nimport numpy\nfrom tollgate.client import Client\n\n"
        f"inputs = {{\n{inputs}\n}}\n"
        f'with Client({door!a}, os.environ["TOKEN"]) as models:\n'
        f"    answer = models.infer({call.model!a}, inputs{version})\n"
        "    print(answer.outputs, answer.version, answer.decision_id)"
    )


def grpc(door: str, call: Call) -> str:
    """With grpcurl."""
    parts = urlsplit(door)
    plain = "" if parts.scheme == "https" else " -plaintext"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    where = f"{host}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"
    return (
        f'grpcurl{plain} -proto grpc_service.proto -H "authorization: Bearer $TOKEN" \\\n'
        f"  -d {shlex.quote(_json(_message(call)))} \\\n"
        f"  {shlex.quote(where)} inference.GRPCInferenceService/ModelInfer"
    )


def _message(call: Call) -> dict[str, Any]:
    """A ModelInferRequest, in the JSON of protobuf."""
    inputs = [
        {
            "name": each.name,
            "datatype": each.datatype,
            "shape": list(each.shape),
            "contents": {_contents(each.datatype): [_of_protobuf(value) for value in each.data]},
        }
        for each in call.tensors
    ]
    version = {"model_version": call.version} if call.version else {}
    return {"model_name": call.model, **version, "inputs": inputs}


def _contents(datatype: str) -> str:
    return f"{_CONTENTS.get(datatype) or ('uint' if datatype.startswith('U') else 'int')}_contents"


def _of_protobuf(value: object) -> object:
    return b64encode(value.encode()).decode() if isinstance(value, str) else value


def _array(tensor: Tensor) -> str:
    dtype = _DTYPES.get(tensor.datatype) or tensor.datatype.lower()
    return f'numpy.array({list(tensor.data)!a}, "{dtype}").reshape({", ".join(map(str, tensor.shape))})'


def _json(content: object) -> str:
    return json.dumps(content, allow_nan=False).replace("\x7f", "\\u007f")
