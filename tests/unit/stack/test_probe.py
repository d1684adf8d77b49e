"""A taken port is named, with the setting that moves it. A probe shows no credentials."""

from __future__ import annotations

import socket
from threading import Timer

import pytest

from devstack.stack.probe import answers, ensure_free, free_ports, without_credentials
from devstack.stack.settings import load_stack_settings
from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import LOOPBACK


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^port {port} is taken: free it, or set TOLLGATE_ENVOY_PORT"):
            ensure_free(load_stack_settings({"envoy_port": port}), ["envoy_port"], patience=0)


def test_two_parts_cannot_share_a_port() -> None:
    (port,) = free_ports(1)
    settings = load_stack_settings({"envoy_port": port, "redis_port": port})
    with pytest.raises(ConfigError, match=f"TOLLGATE_ENVOY_PORT and TOLLGATE_REDIS_PORT are both {port}"):
        ensure_free(settings, ["envoy_port", "redis_port"], patience=0)


def test_a_port_of_a_part_that_is_not_started_does_not_matter() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        settings = load_stack_settings({"redis_port": listener.getsockname()[1], "envoy_port": free_ports(1)[0]})
        ensure_free(settings, ["envoy_port"], patience=0)


def test_a_port_that_is_being_let_go_is_waited_for() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        settings = load_stack_settings({"envoy_port": listener.getsockname()[1]})
        leaving = Timer(0.02, listener.close)
        leaving.start()
        ensure_free(settings, ["envoy_port"], patience=20)
        leaving.join()
        assert listener.fileno() == -1


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://tollgate:secret@db:5432/tollgate?sslmode=require", "postgresql://db:5432"),
        ("postgres://db/tollgate", "postgres://db"),
        ("redis://:secret@cache:6379/0", "redis://cache:6379"),
        ("rediss://user:secret@[::1]:6379/0", "rediss://[::1]:6379"),
        ("redis+sentinel://:secret@one:26379,two/main/0?sentinel_password=s", "redis+sentinel://one:26379,two"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock"),
    ],
)
def test_credentials_are_left_out(url: str, place: str) -> None:
    assert without_credentials(url) == place


@pytest.mark.parametrize("scheme", ["http", "redis", "redis+sentinel", "postgresql"])
def test_a_port_on_which_nothing_listens_does_not_answer(scheme: str) -> None:
    assert not answers(f"{scheme}://127.0.0.1:{free_ports(1)[0]}")
