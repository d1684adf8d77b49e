"""Write the official descriptors of Envoy's authorization API to standard output, as one FileDescriptorSet.

Runs in an environment of its own; see pyproject.toml beside it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet


def _with_dependencies(file: FileDescriptor, seen: set[str]) -> Iterator[FileDescriptor]:
    """Every file once, after all that it imports."""
    if file.name in seen:
        return
    seen.add(file.name)
    for dependency in file.dependencies:
        yield from _with_dependencies(dependency, seen)
    yield file


def main() -> None:
    """Write the set."""
    root = importlib.import_module("envoy.service.auth.v3.external_auth_pb2")
    files = FileDescriptorSet()
    for file in _with_dependencies(root.DESCRIPTOR, set()):
        file.CopyToProto(files.file.add())
    sys.stdout.buffer.write(files.SerializeToString())


main()
