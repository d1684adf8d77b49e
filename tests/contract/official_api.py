"""The official descriptors of Envoy's API, as data in a descriptor pool of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_HERE = Path(__file__).parent
_UV_OF_MAKE = _HERE.parents[1] / ".tools" / "bin" / "uv"


class OfficialApi:
    """What xds-protos says."""

    def __init__(self, descriptors: bytes) -> None:
        self._pool = DescriptorPool()
        for file in FileDescriptorSet.FromString(descriptors).file:
            self._pool.AddSerializedFile(file.SerializeToString())
        self.descriptor = self._pool.FindMessageTypeByName
        self.enum = self._pool.FindEnumTypeByName
        self.service = self._pool.FindServiceByName

    def new(self, name: str) -> Any:  # noqa: ANN401 - its type exists at run time only
        """An empty official message."""
        message: Message = GetMessageClass(self.descriptor(name))()
        return message


def dump_official_descriptors() -> bytes:
    """Ask a Python that has xds-protos; uv makes it from the lock file on the first run."""
    uv = str(_UV_OF_MAKE) if _UV_OF_MAKE.exists() else shutil.which("uv")
    assert uv, "needs uv: run make setup"
    project = _HERE / "official"
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["UV_PROJECT_ENVIRONMENT"] = ".venv"
    command = [uv, "run", "--quiet", "--locked", "--project", str(project), "python", str(project / "dump.py")]
    return subprocess.run(command, check=True, capture_output=True, env=environment).stdout
