"""Write the official descriptors of Envoy's authorization and access log APIs to standard output, as one set.

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
    files, seen = FileDescriptorSet(), set[str]()
    for root in ("envoy.service.auth.v3.external_auth_pb2", "envoy.service.accesslog.v3.als_pb2"):
        for file in _with_dependencies(importlib.import_module(root).DESCRIPTOR, seen):
            file.CopyToProto(files.file.add())
    sys.stdout.buffer.write(files.SerializeToString())


main()
