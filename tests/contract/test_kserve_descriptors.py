"""The descriptor set for Envoy's grpc_field_extraction filter names models where Triton's own client does."""

from __future__ import annotations

from pathlib import Path

import pytest
import tritonclient.grpc.service_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

import ext_authz.gen

DESCRIPTORS = Path(ext_authz.gen.__file__).parent / "kserve.binpb"


@pytest.fixture(scope="module")
def ours() -> FileDescriptorProto:
    (file,) = FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file
    return file


@pytest.fixture(scope="module")
def tritons() -> FileDescriptorProto:
    file = FileDescriptorProto()
    tritonclient.grpc.service_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def _methods(file: FileDescriptorProto) -> dict[str, tuple[str, str, bool, bool]]:
    (service,) = file.service
    return {f"/{file.package}.{service.name}/{method.name}": _signature(method) for method in service.method}


def _signature(method: MethodDescriptorProto) -> tuple[str, str, bool, bool]:
    return method.input_type, method.output_type, method.client_streaming, method.server_streaming


def _naming_fields(message: DescriptorProto) -> dict[str, tuple[int, int, int]]:
    names = {"name", "version", "model_name", "model_version"}
    return {field.name: (field.number, field.type, field.label) for field in message.field if field.name in names}


def test_every_method_is_tritons(ours: FileDescriptorProto, tritons: FileDescriptorProto) -> None:
    assert _methods(ours) == _methods(tritons)
    assert "/inference.GRPCInferenceService/ModelInfer" in _methods(ours)


def test_requests_name_models_in_the_same_fields(ours: FileDescriptorProto, tritons: FileDescriptorProto) -> None:
    theirs = {message.name: _naming_fields(message) for message in tritons.message_type}
    requests = {message.name: _naming_fields(message) for message in ours.message_type if "Request" in message.name}
    # In shared memory calls `name` is that of a region.
    models = {name: fields for name, fields in requests.items() if "SharedMemory" not in name}

    assert models == {name: theirs[name] for name in models}
    assert models["ModelInferRequest"] == {"model_name": (1, 9, 1), "model_version": (2, 9, 1)}


def test_nothing_but_names_is_described(ours: FileDescriptorProto) -> None:
    fields = {field.name for message in ours.message_type for field in message.field}

    assert fields == {"name", "version", "model_name", "model_version"}
