"""Callers of the gateway, each with a token of its own, and the bodies that they send."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import cast

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferInput, service_pb2

from tests.mesh.world.world import World
from tests.tokens import AUDIENCE, mint

SENTIMENT = "/v2/models/sentiment/infer"
CANCER = "/v2/models/cancer/infer"
BODIES = {
    SENTIMENT: {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["What a wonderful day!"]}]},
    CANCER: {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 30], "data": [1.0] * 30}]},
}
_NUMBERS = count()


def token(user: str = "", *roles: str) -> str:
    """Without a name, that of a new user: limits are per user."""
    access = {AUDIENCE: {"roles": list(roles or ("infer",))}}
    name = user or f"user-{next(_NUMBERS)}"
    return mint({"sub": name, "jti": f"of-{name}", "sid": f"of-{name}", "resource_access": access})


def bearer(user: str = "", *roles: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token(user, *roles)}"}


def features() -> InferInput:
    tensor = InferInput("features", [1, 30], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 30), dtype=np.float32))
    return tensor


def grpc_code(world: World, model: str, headers: Mapping[str, str], padding: int = 0) -> grpc.StatusCode:
    """What a call without input gets: Triton answers INVALID_ARGUMENT, so anything else is a refusal on the way."""
    message = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[b"x" * padding])
    credentials = grpc.ssl_channel_credentials(world.ca.read_bytes())
    options = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(f"localhost:{world.port}", credentials, options) as channel:
        path = "/inference.GRPCInferenceService/ModelInfer"
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        with pytest.raises(grpc.RpcError) as answer:
            infer(message.SerializeToString(), metadata=tuple(headers.items()), timeout=10)
    return cast("grpc.Call", answer.value).code()
