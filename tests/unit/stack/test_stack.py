"""Which parts are started, which are external, and what is recorded about them. Nothing runs here."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode
from pathlib import Path

import pytest

from devstack.stack.child import External, package_directory
from devstack.stack.directory import StateDirectory, running_record
from devstack.stack.settings import load_stack_settings
from devstack.stack.stack import Stack
from ext_authz.errors import ConfigError

SECRET = "hunter2"
ELSEWHERE = {
    "database_url": f"postgresql://u:{SECRET}@db:5432/d",
    "redis_url": f"redis://:{SECRET}@cache:6379/0",
    "issuer": "https://kc.example/realms/ml",
    "triton": "gpu:8000:8001",
}


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path)


def test_parts_start_in_an_order_in_which_each_finds_what_it_needs(state: StateDirectory, tmp_path: Path) -> None:
    """Without models: version 2 of sentiment would have a Triton of its own."""
    models = {"models": tmp_path / "models"}
    stack = Stack(load_stack_settings({"observability": True, "prometheus": "/bin/true", **models}), state)
    names = [part.name for part in stack.parts]
    needed = ["postgres", "redis", "identity", "triton", "console", "authorizer", "usage-worker"]
    needed += ["sentiment-app", "envoy"]
    assert names == [*needed, "prometheus", "status-page"]
    assert [part.name for part in Stack(load_stack_settings(models), state).parts] == needed
    taken = [port for child in stack.children for port in child.ports]
    assert sorted(taken) == sorted(name for name in type(stack.settings).model_fields if name.endswith("_port"))


def test_an_application_that_is_not_there_is_not_started_and_its_paths_get_404(
    state: StateDirectory, tmp_path: Path
) -> None:
    stack = Stack(load_stack_settings({"applications": tmp_path}), state)
    assert "sentiment-app" not in [part.name for part in stack.parts]
    stack.child("envoy").prepare()
    assert "upstream_" not in (state.part("envoy") / "bootstrap.json").read_text()


def test_an_application_gets_no_secret_but_its_own(state: StateDirectory) -> None:
    environment = Stack(load_stack_settings(), state).child("sentiment-app").environment
    assert environment["SENTIMENT_CLIENT_SECRET"] == "sentiment-app-secret"
    assert not [name for name in environment if name.startswith("TOLLGATE_CONSOLE")]


def test_the_console_is_told_of_logouts_from_an_application(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TOLLGATE_CONSOLE_SIGNAL_CLIENTS"
    monkeypatch.delenv(name, raising=False)
    found = Stack(load_stack_settings(), state).child("console").environment[name]
    assert "sentiment-app" in found.split(",")
    monkeypatch.setenv(name, "mine")
    assert Stack(load_stack_settings(), state).child("console").environment[name] == "mine"


def test_a_policy_without_tokens_has_no_console(state: StateDirectory, tmp_path: Path) -> None:
    settings = load_stack_settings()
    without = re.sub(r"\ntokens:\n(?:  .*\n)+", "\n", settings.policy.read_text())
    (tmp_path / "policy.yaml").write_text(without)
    stack = Stack(load_stack_settings({"policy": tmp_path / "policy.yaml"}), state)
    assert "console" not in [part.name for part in stack.parts]


def test_a_wrong_policy_is_named_before_anything_starts(state: StateDirectory, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("version: 2\n")
    with pytest.raises(ConfigError, match="'issuers' is missing"):
        Stack(load_stack_settings({"policy": tmp_path / "policy.yaml"}), state)


def test_the_console_has_keys_of_its_own_and_the_secret_of_its_client(
    state: StateDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    realm = json.loads(load_stack_settings().realm.read_text())
    realm["clients"] = [{"clientId": "web-app"}, {"clientId": "tollgate-console", "secret": SECRET}]
    (tmp_path / "realm.json").write_text(json.dumps(realm))
    known = Stack(load_stack_settings({"realm": tmp_path / "realm.json"}), state).child("console").environment
    assert known["TOLLGATE_CONSOLE_CLIENT_SECRET"] == SECRET
    assert len(b64decode(known["TOLLGATE_CONSOLE_KEYS"], validate=True)) == 32
    again = Stack(load_stack_settings({**ELSEWHERE, "console_client_secret": "mine"}), state).child("console")
    assert again.environment["TOLLGATE_CONSOLE_KEYS"] == known["TOLLGATE_CONSOLE_KEYS"]
    assert again.environment["TOLLGATE_CONSOLE_CLIENT_SECRET"] == "mine"
    realm["clients"].pop()
    (tmp_path / "realm.json").write_text(json.dumps(realm))
    unknown = Stack(load_stack_settings({"realm": tmp_path / "realm.json"}), state).child("console").environment
    assert unknown["TOLLGATE_CONSOLE_CLIENT_SECRET"] not in ("", SECRET)


def test_prometheus_that_is_not_installed_is_named(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(state.root))
    with pytest.raises(ConfigError, match="there is no program prometheus: install it"):
        Stack(load_stack_settings({**ELSEWHERE, "observability": True}), state)


def test_rules_that_are_not_there_are_named(state: StateDirectory) -> None:
    settings = load_stack_settings({"observability": True, "monitoring_files": state.root})
    with pytest.raises(ConfigError, match=r"no folder .*rules: unset TOLLGATE_MONITORING_FILES"):
        Stack(settings, state)


def test_what_a_setting_names_is_not_started(state: StateDirectory) -> None:
    stack = Stack(load_stack_settings(ELSEWHERE), state)
    asked = {part.name: (part.setting, part.probe) for part in stack.parts if isinstance(part, External)}
    assert asked == {
        "postgres": ("TOLLGATE_DATABASE_URL", "postgresql://db:5432"),
        "redis": ("TOLLGATE_REDIS_URL", "redis://cache:6379"),
        "identity": ("TOLLGATE_ISSUER", "https://kc.example/realms/ml/.well-known/openid-configuration"),
        "triton": ("TOLLGATE_TRITON", "http://gpu:8000/v2/health/ready"),
    }
    with pytest.raises(ConfigError, match="redis is not a child of this stack"):
        _ = stack.child("redis")


@pytest.mark.parametrize("name", ["postgres", "redis", "identity", "triton", "envoy"])
def test_no_secret_reaches_a_program_of_others(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    child = Stack(load_stack_settings(), state).child(name)
    assert not {"AWS_SECRET_ACCESS_KEY", "LD_LIBRARY_PATH"} & child.environment.keys()
    passwords = [state.secret("postgres", "password"), state.secret("redis", "password")]
    assert not [password for password in passwords if password in f"{child.command} {child.environment}"]


def test_the_record_holds_no_secret_and_is_believed_only_while_up_runs(state: StateDirectory) -> None:
    stack = Stack(load_stack_settings(ELSEWHERE), state)
    assert state.record() is None
    with state.locked():
        state.write_record(running_record(stack.parts, is_ready=True))
        found = state.record()
        assert found
        assert (found.pid, found.is_ready, len(found.parts)) == (os.getpid(), True, 9)
        assert SECRET not in state.record_file.read_text()
    assert state.record() is None


def test_a_wheel_that_is_missing_is_a_sentence_with_the_way_out() -> None:
    with pytest.raises(
        ConfigError, match=r"^no_such_wheel is not installed: pip install no_such_wheel, or set TOLLGATE_X"
    ):
        package_directory("no_such_wheel", "TOLLGATE_X")
