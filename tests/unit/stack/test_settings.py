"""A wrong setting of the stack is one sentence that names it and shows no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack.stack.addresses import resolve
from devstack.stack.directory import StateDirectory
from devstack.stack.settings import load_stack_settings
from devstack.stack.stack import Stack
from ext_authz.errors import ConfigError
from ext_authz.render.endpoints import Address, Pipe, Triton

SECRET = "hunter2"


def test_nothing_needs_to_be_set() -> None:
    settings = load_stack_settings()
    assert settings.policy.is_file()
    assert settings.realm.is_file()
    assert (settings.models / "repository").is_dir()
    assert settings.state_dir.is_absolute()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ENVOY_PORT", "0", "TOLLGATE_ENVOY_PORT: input should be greater than or equal to 1"),
        ("REDIS_PORT", "http", "TOLLGATE_REDIS_PORT: input should be a valid integer"),
        ("POLICY", "/nowhere.yaml", "TOLLGATE_POLICY: no file at /nowhere.yaml"),
        ("REALM", __file__, "is not a realm export"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@h/d", "TOLLGATE_DATABASE_URL: is not a URL of the form postgresql://"),
        ("REDIS_URL", f"http://:{SECRET}@h", "TOLLGATE_REDIS_URL: is not a URL of the form redis://"),
        ("ISSUER", "keycloak/realms/ml", "TOLLGATE_ISSUER: is not a URL of the form https://"),
        (
            "PUBLIC_URL",
            "https://models.example/v2",
            "TOLLGATE_PUBLIC_URL: is not a scheme, a host and a port (1 to 65535) if",
        ),
        ("TRITON", "10.0.0.7:8000", "TOLLGATE_TRITON: is not of the form host:http_port:grpc_port"),
        ("TRITON", ":8000:8001", "TOLLGATE_TRITON: is not of the form"),
        ("TRITON", "h:8000:99999", "TOLLGATE_TRITON: is not of the form"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(f"TOLLGATE_{name}", value)
    with pytest.raises(ConfigError) as raised:
        load_stack_settings()
    assert sentence in str(raised.value)
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_parts_are_on_loopback_unless_a_setting_names_another_place(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    own = resolve(load_stack_settings({"redis_port": 7001, "idp_port": 7002}), state)
    assert own.redis_url.endswith("@127.0.0.1:7001/0")
    assert own.issuer == "http://127.0.0.1:7002/realms/tollgate"
    assert own.public_url == "http://127.0.0.1:8080"
    sockets = (own.triton.http, own.triton.grpc, Pipe(str(own.envoy_admin)), Pipe(str(own.admin_socket)))
    for socket in sockets:
        assert isinstance(socket, Pipe)
        assert len(socket.path) < 100
        assert Path(socket.path).parent.stat().st_mode & 0o777 == 0o700
    given = {"redis_url": "redis://cache:6379/0", "issuer": "https://kc/realms/ml", "triton": "gpu:18000:18001"}
    others = resolve(load_stack_settings(given), state)
    assert (others.redis_url, others.issuer) == ("redis://cache:6379/0", "https://kc/realms/ml")
    assert others.triton == Triton(Address("gpu", 18000), Address("gpu", 18001))


def test_the_next_up_in_a_shell_with_the_settings_of_a_stack_starts_its_own_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what `tollgate env` put there: another address, set on purpose, still replaces a part."""
    keycloak = "https://kc.example/realms/ml"
    monkeypatch.setenv("TOLLGATE_ISSUER", keycloak)
    for name, value in Stack(load_stack_settings(), StateDirectory(tmp_path)).variables.items():
        monkeypatch.setenv(name, value)
    settings = load_stack_settings()
    assert (settings.database_url, settings.redis_url, settings.public_url) == (None, None, None)
    assert settings.issuer == keycloak
    monkeypatch.setenv("TOLLGATE_REDIS_URL", "redis://cache:6379/0")
    assert load_stack_settings().redis_url is not None


def test_passwords_are_made_once_and_never_shown(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    first, second = (resolve(load_stack_settings(), state) for _ in range(2))
    assert first == second
    password = state.secret("redis", "password")
    assert len(password) > 20
    assert password not in repr(first)
    assert (tmp_path / "redis" / "password").stat().st_mode & 0o777 == 0o600
