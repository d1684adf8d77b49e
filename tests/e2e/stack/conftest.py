"""One whole stack for this folder."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from devstack.stack.stack import Stack, running_stack


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """On free ports, with a state directory of its own."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def served(stack: Stack, triton: str = "triton") -> dict[str, list[str]]:
    """The versions of each model that this Triton serves, as its version policy names them."""
    configs = (stack.state.plain_part(triton) / "served").glob("*/config.pbtxt")
    policies = {config.parent.name: re.findall(r"versions: \[(.*?)\]", config.read_text()) for config in configs}
    return {name: versions.split(", ") for name, (versions,) in policies.items()}


def token_of(stack: Stack, user: str) -> str:
    """As the printed `curl` line gets one."""
    form = {"grant_type": "password", "client_id": "web-app", "username": user, "password": user}
    answer = httpx.post(f"{stack.addresses.issuer}/protocol/openid-connect/token", data=form).raise_for_status()
    return str(answer.json()["access_token"])
