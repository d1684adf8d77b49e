"""A real Keycloak in the stack: where it is found, and what is said where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devstack.stack import keycloak
from devstack.stack.child import Child
from devstack.stack.directory import StateDirectory
from devstack.stack.settings import load_stack_settings
from devstack.stack.stack import Stack
from ext_authz.errors import ConfigError
from tests.http_server import serving_files

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked distribution, as far as it is looked at, and a Java."""
    for directory in ("bin", "conf", "lib", "providers", "themes"):
        (tmp_path / "kc" / directory).mkdir(parents=True)
    (tmp_path / "kc" / "bin" / "kc.sh").write_text("#!/bin/sh\n")
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.touch(mode=0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
    return tmp_path / "kc"


def test_without_an_installation_one_sentence_says_how_to_get_one(tmp_path: Path) -> None:
    settings = load_stack_settings({"idp": "keycloak", "keycloak_home": tmp_path})
    with pytest.raises(ConfigError) as raised:
        Stack(settings, StateDirectory(tmp_path))
    assert str(raised.value).startswith(
        f"no Keycloak in {tmp_path}: `make keycloak` in a checkout fetches one, or name"
    )


def test_without_java_one_sentence_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keycloak.find_keycloak(home) == home
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(ConfigError, match="Keycloak needs Java 17 or newer"):
        keycloak.find_keycloak(home)


def test_it_takes_the_place_of_the_development_realm(home: Path, tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.create()
    settings = load_stack_settings({"idp": "keycloak", "keycloak_home": home, "idp_port": 7000, "envoy_port": 7001})
    child = Stack(settings, state).child("identity")
    assert isinstance(child, Child)
    assert child.probe == "http://127.0.0.1:7000/realms/tollgate/.well-known/openid-configuration"
    assert child.environment["TOLLGATE_ENVOY_URL"] == "http://127.0.0.1:7001"
    assert not any(child.environment["KC_BOOTSTRAP_ADMIN_PASSWORD"] in str(word) for word in child.command)
    child.prepare()
    own = state.plain_part("keycloak") / "home"
    assert json.loads((own / "data" / "import" / "realm-tollgate.json").read_text())["realm"] == "tollgate"
    assert (own / "lib").resolve() == home / "lib"
    assert Path(child.command[0]) == own / "bin" / "kc.sh"
    assert (own / "bin" / "kc.sh").stat().st_mode & 0o100


def test_another_server_keeps_the_issuer(home: Path, tmp_path: Path) -> None:
    given = {"idp": "keycloak", "keycloak_home": home, "issuer": "https://id.example/realms/ml"}
    names = [child.name for child in Stack(load_stack_settings(given), StateDirectory(tmp_path)).children]
    assert "identity" not in names


def test_the_makefile_builds_it_for_the_stack() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    assert f"KEYCLOAK_VERSION := {keycloak.VERSION}" in lines
    assert any(line.startswith(f"KEYCLOAK_BUILD := {' '.join(keycloak.BUILD)}  #") for line in lines)


def test_a_refused_administrator_is_one_sentence(tmp_path: Path) -> None:
    with serving_files(tmp_path) as port, pytest.raises(ConfigError, match="set the realm 'r' up"):
        keycloak.allow_signals(f"http://127.0.0.1:{port}", "r", "x")
