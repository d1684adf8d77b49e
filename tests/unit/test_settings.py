"""A wrong setting is one sentence that names it and shows no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.errors import ConfigError
from ext_authz.settings import load_settings, load_store_settings

SECRET = "hunter2"


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A good environment, to be spoilt."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1")
    monkeypatch.setenv("TOLLGATE_POLICY", str(policy))
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", f"postgresql://tollgate:{SECRET}@db/tollgate")
    monkeypatch.setenv("TOLLGATE_REDIS_URL", f"redis://:{SECRET}@redis:6379/0")
    return monkeypatch


def test_defaults_are_enough(environ: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert (settings.server, settings.listen_host, settings.listen_port) == ("auto", "127.0.0.1", 9000)


def test_settings_are_frozen_and_secrets_masked(environ: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert SECRET not in f"{settings} {settings!r} {settings.redis_url} {settings.database_url!r}"
    with pytest.raises(ValueError, match="frozen"):
        settings.listen_port = 1


def test_the_command_line_wins(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TOLLGATE_SERVER", "pyvoy")
    assert load_settings({"server": "grpcio"}).server == "grpcio"


def test_commands_without_a_policy_need_only_the_stores(environ: pytest.MonkeyPatch) -> None:
    environ.delenv("TOLLGATE_POLICY")
    assert load_store_settings().usage_batch == 1000


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("POLICY", None, "TOLLGATE_POLICY: field required"),
        ("POLICY", "/nowhere.yaml", "TOLLGATE_POLICY: no readable file at /nowhere.yaml"),
        ("DATABASE_URL", None, "TOLLGATE_DATABASE_URL: field required"),
        ("DATABASE_URL", f"mysql://x:{SECRET}@h/d", "TOLLGATE_DATABASE_URL: is not a URL of the form postgresql://"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h/d?nonsense=1", "TOLLGATE_DATABASE_URL: is not a URL of the form"),
        ("REDIS_URL", f"http://:{SECRET}@h", "TOLLGATE_REDIS_URL: is not a URL of the form redis://"),
        ("REDIS_URL", "", "TOLLGATE_REDIS_URL: is not a URL of the form redis://"),
        ("LISTEN_PORT", "99999", "TOLLGATE_LISTEN_PORT: input should be less than or equal to 65535"),
        ("LISTEN_PORT", "http", "TOLLGATE_LISTEN_PORT: input should be a valid integer"),
        ("WORKERS", "0", "TOLLGATE_WORKERS: input should be greater than or equal to 1"),
        ("SERVER", "gunicorn", "TOLLGATE_SERVER: input should be 'auto', 'pyvoy' or 'grpcio'"),
        ("LOG_LEVEL", "loud", "TOLLGATE_LOG_LEVEL: input should be 'debug', 'info', 'warning' or 'error'"),
        ("REDIS_SHARDS", "0", "TOLLGATE_REDIS_SHARDS: input should be greater than or equal to 1"),
        ("REDIS_SHARDS", "65", "TOLLGATE_REDIS_SHARDS: input should be less than or equal to 64"),
        ("REDIS_TIMEOUT", "0", "TOLLGATE_REDIS_TIMEOUT: input should be greater than 0"),
        ("REDIS_TIMEOUT", "nan", "TOLLGATE_REDIS_TIMEOUT: input should be"),
        ("POSTGRES_TIMEOUT", "inf", "TOLLGATE_POSTGRES_TIMEOUT: input should be less than or equal to 30"),
        ("MAX_MESSAGE_BYTES", "10", "TOLLGATE_MAX_MESSAGE_BYTES: input should be greater than or equal to 1024"),
        ("TLS_CERT", "/tmp/cert.pem", "TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY go together: set both or neither"),
        ("TLS_CLIENT_CA", "/tmp/ca.pem", "TOLLGATE_TLS_CLIENT_CA needs TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY"),
        ("LOG_DECISIONS", "maybe", "TOLLGATE_LOG_DECISIONS: input should be a valid boolean"),
    ],
)
def test_a_wrong_setting_is_named(environ: pytest.MonkeyPatch, name: str, value: str | None, sentence: str) -> None:
    if value is None:
        environ.delenv(f"TOLLGATE_{name}")
    else:
        environ.setenv(f"TOLLGATE_{name}", value)
    with pytest.raises(ConfigError) as wrong:
        load_settings()
    assert str(wrong.value).startswith(sentence)
    assert SECRET not in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_all_wrong_settings_are_told_at_once(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TOLLGATE_WORKERS", "many")
    environ.setenv("TOLLGATE_SERVER", "gunicorn")
    with pytest.raises(ConfigError, match=r"TOLLGATE_SERVER.*TOLLGATE_WORKERS"):
        load_settings()
