"""A caller with hundreds of roles, from the identity provider to the model and over both protocols."""

from __future__ import annotations

from typing import Any

import pytest
import tritonclient.grpc

from devstack.stack.stack import Stack
from tests.e2e.gateway.caller import Caller


@pytest.mark.parametrize(("user", "least"), [("collector", 9000), ("hoarder", 21_000)])
def test_hundreds_of_roles_reach_the_model(stack: Stack, caller: Caller, user: str, least: int) -> None:
    token = caller.token(user)
    assert len(token) > least
    answer = caller.ready(token)
    assert answer.status_code == 200, answer.text
    client: Any = tritonclient.grpc.InferenceServerClient(stack.addresses.envoy.partition("//")[2])
    # A server over its soft limit refuses some of the time.
    assert all(client.is_model_ready("sentiment", headers={"authorization": f"Bearer {token}"}) for _ in range(20))


def test_a_token_that_is_too_large_is_refused_with_its_reason(caller: Caller) -> None:
    answer = caller.ready("x" * 33_000)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_too_large")
    assert "32768 bytes" in answer.json()["detail"]
    assert caller.ready("x" * 62_000).status_code == 431, "Envoy takes 60 KiB of headers"
