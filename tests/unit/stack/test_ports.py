"""A taken port is named, with the setting that moves it, before anything starts."""

from __future__ import annotations

import socket

import pytest

from ext_authz.errors import ConfigError
from ext_authz.stack.ports import LOOPBACK, ensure_free, free_ports
from ext_authz.stack.settings import load_stack_settings


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server((LOOPBACK, 0)) as somebody:
        port = somebody.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^port {port} is taken: free it, or set TOLLGATE_ENVOY_PORT"):
            ensure_free(load_stack_settings({"envoy_port": port}), ["envoy_port"])


def test_two_parts_cannot_share_a_port() -> None:
    (port,) = free_ports(1)
    settings = load_stack_settings({"envoy_port": port, "redis_port": port})
    with pytest.raises(ConfigError, match=f"TOLLGATE_REDIS_PORT and TOLLGATE_ENVOY_PORT are both {port}"):
        ensure_free(settings, ["envoy_port", "redis_port"])


def test_a_port_of_a_part_that_is_not_started_does_not_matter() -> None:
    with socket.create_server((LOOPBACK, 0)) as somebody:
        settings = load_stack_settings({"redis_port": somebody.getsockname()[1], "envoy_port": free_ports(1)[0]})
        ensure_free(settings, ["envoy_port"])


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20
