"""What anybody can have Envoy hold: a gRPC message is read as a whole before it is checked."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest

from ext_authz.render import overload
from ext_authz.render.endpoints import Timeouts
from tests.e2e.render.world import running_world
from tests.unit.render.policies import EVERYDAY, of_kinds

CALL = "/inference.GRPCInferenceService/ModelInfer"
MESSAGE = 4 * 1024 * 1024
CALLS = 60
PART = bytes(16_384)


def test_who_makes_envoy_hold_too_much_is_reset_and_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "OWN_HEAP", 100 * 1024 * 1024)
    monkeypatch.setattr(overload, "MOST_HELD", 20)
    with running_world("envoy", of_kinds(*EVERYDAY), tmp_path, Timeouts(grpc_bytes=MESSAGE)) as world:
        assert 0 < _reset_of_unfinished(world.port) < CALLS
        assert world.authorizer.asked == []
        good = ModelInferRequest(model_name="sentiment").SerializeToString()
        with grpc.insecure_channel(world.address) as channel:
            assert channel.unary_unary(CALL)(good, timeout=10) == b"stable"


def _reset_of_unfinished(port: int) -> int:
    """How many of some calls are, none of which sends all of its message."""
    http2 = h2.connection.H2Connection(h2.config.H2Configuration())
    http2.initiate_connection()
    left = {1 + 2 * number: MESSAGE - len(PART) for number in range(CALLS)}
    began, are_reset = len(left), 0
    headers = {
        ":method": "POST",
        ":path": CALL,
        ":scheme": "http",
        ":authority": "x",
        "content-type": "application/grpc",
    }
    for stream in left:
        http2.send_headers(stream, [*headers.items()])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        while left and are_reset < began // 4:
            for stream in left:
                while left[stream] and http2.local_flow_control_window(stream) >= len(PART):
                    http2.send_data(stream, PART)
                    left[stream] -= len(PART)
            caller.sendall(http2.data_to_send())
            left = {stream: more for stream, more in left.items() if more}
            for event in http2.receive_data(caller.recv(65_536)):
                if isinstance(event, h2.events.StreamReset):
                    left.pop(event.stream_id, None)
                    are_reset += 1
    return are_reset
