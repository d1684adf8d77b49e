"""A wrong setting is one sentence that names it and shows no secret."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from devstack.stack.directory import MARK
from devstack.stack.settings import OWN_ADDRESSES, StackSettings
from ext_authz import environment, settings_list
from ext_authz import settings as module
from ext_authz.console_settings import ConsoleSettings
from ext_authz.errors import ConfigError
from ext_authz.filter_settings import FilterSettings
from ext_authz.gitlab_settings import GitlabSettings
from ext_authz.publisher_settings import PublisherSettings
from ext_authz.server.worker import FACTORY, LINE_FD
from ext_authz.settings import (
    AdminSettings,
    PolicySettings,
    Settings,
    StoreSettings,
    TokenSettings,
    UsageWorkerSettings,
    load_settings,
)

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
    settings = load_settings(Settings)
    assert (settings.server, settings.listen_host, settings.listen_port) == ("auto", "127.0.0.1", 9000)


def test_settings_are_frozen_and_secrets_masked(environ: pytest.MonkeyPatch) -> None:
    settings = load_settings(Settings)
    assert SECRET not in f"{settings} {settings!r} {settings.redis_url} {settings.database_url!r}"
    with pytest.raises(ValueError, match="frozen"):
        settings.listen_port = 1


def test_the_command_line_wins(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TOLLGATE_SERVER", "h2corn")
    assert load_settings(Settings, {"server": "grpcio"}).server == "grpcio"


def test_commands_without_a_policy_need_only_the_stores(environ: pytest.MonkeyPatch) -> None:
    environ.delenv("TOLLGATE_POLICY")
    assert load_settings(UsageWorkerSettings).usage_batch == 1000


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("POLICY", None, "TOLLGATE_POLICY: is required: the policy: a file, or a directory of files"),
        ("POLICY", "/nowhere.yaml", "TOLLGATE_POLICY: no readable file at /nowhere.yaml"),
        ("DATABASE_URL", None, "TOLLGATE_DATABASE_URL: is required: Postgres, the source of truth: "),
        ("DATABASE_URL", f"mysql://x:{SECRET}@h/d", "TOLLGATE_DATABASE_URL: is not a URL of the form postgresql://"),
        ("DATABASE_DIRECT_URL", f"http://u:{SECRET}@h", "TOLLGATE_DATABASE_DIRECT_URL: is not a URL of the form"),
        ("REDIS_URL", f"http://:{SECRET}@h", "TOLLGATE_REDIS_URL: is not a URL of the form redis://"),
        ("REDIS_URL", "", "TOLLGATE_REDIS_URL: is empty: unset it, or write a value"),
        ("TLS_CLIENT_CA", "", "TOLLGATE_TLS_CLIENT_CA: is empty: unset it, or write a value"),
        ("JWKS_CA_FILE", "/nowhere.pem", "TOLLGATE_JWKS_CA_FILE: cannot read /nowhere.pem (No such file or directory)"),
        ("JWKS_CA_FILE", __file__, f"TOLLGATE_JWKS_CA_FILE: {__file__} holds no PEM certificate"),
        ("ADMIN_PORT", "9000", "TOLLGATE_LISTEN_PORT and TOLLGATE_ADMIN_PORT are both 9000: choose two"),
        ("MAX_TOKEN_BYTES", "61441", "TOLLGATE_MAX_TOKEN_BYTES: input should be less than or equal to 61440"),
        ("LISTEN_PORT", "99999", "TOLLGATE_LISTEN_PORT: input should be less than or equal to 65535"),
        ("LISTEN_PORT", "http", "TOLLGATE_LISTEN_PORT: input should be a valid integer"),
        ("WORKERS", "0", "TOLLGATE_WORKERS: input should be greater than or equal to 1"),
        ("SERVER", "gunicorn", "TOLLGATE_SERVER: input should be 'auto', 'h2corn' or 'grpcio'"),
        ("SERVER", "pyvoy", "TOLLGATE_SERVER: pyvoy is no longer supported: set h2corn, which replaces it, or auto"),
        ("LOG_LEVEL", "loud", "TOLLGATE_LOG_LEVEL: input should be 'debug', 'info', 'warning' or 'error'"),
        ("REDIS_SHARDS", "0", "TOLLGATE_REDIS_SHARDS: input should be greater than or equal to 1"),
        ("REDIS_SHARDS", "65", "TOLLGATE_REDIS_SHARDS: input should be less than or equal to 64"),
        ("REDIS_TIMEOUT", "0", "TOLLGATE_REDIS_TIMEOUT: input should be greater than 0"),
        ("REDIS_TIMEOUT", "nan", "TOLLGATE_REDIS_TIMEOUT: input should be"),
        ("POSTGRES_TIMEOUT", "inf", "TOLLGATE_POSTGRES_TIMEOUT: input should be less than or equal to 30"),
        ("MAX_MESSAGE_BYTES", "10", "TOLLGATE_MAX_MESSAGE_BYTES: input should be greater than or equal to 1024"),
        (
            "OTLP_ENDPOINT",
            f"https://u:{SECRET}@h:4317",
            "TOLLGATE_OTLP_ENDPOINT: is not a URL of the form http://host:port",
        ),
        ("OTLP_ENDPOINT", "collector:4317", "TOLLGATE_OTLP_ENDPOINT: is not a URL of the form http://host:port"),
        ("OTLP_ENDPOINT", "http://h:4317/?k=v", "TOLLGATE_OTLP_ENDPOINT: is not a URL of the form http://host:port"),
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
        load_settings(Settings)
    assert str(wrong.value).startswith(sentence)
    assert SECRET not in str(wrong.value)
    assert "\n" not in str(wrong.value)


def refusal(environ: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        environ.setenv(name, value)
    with pytest.raises(ConfigError) as wrong:
        load_settings(Settings)
    assert "\n" not in str(wrong.value)
    return str(wrong.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TOLLGATE_TLS_CLIENTCA", "TOLLGATE_TLS_CLIENT_CA"),
        ("TOLLGATE_TLS_CLIENT_CA_FILE", "TOLLGATE_TLS_CLIENT_CA"),
        ("TOLLGATE_CLIENT_CA", "TOLLGATE_TLS_CLIENT_CA"),
        ("TOLLGATE_TLS_CLIENT_CERT_CA", "TOLLGATE_TLS_CLIENT_CA"),
        ("tollgate_tls_client_ca", "TOLLGATE_TLS_CLIENT_CA"),
        ("TOLGATE_TLS_CLIENT_CA", "TOLLGATE_TLS_CLIENT_CA"),
        ("TOLLGATE__WORKERS", "TOLLGATE_WORKERS"),
        ("TOLLGATE_ENVOYPORT", "TOLLGATE_ENVOY_PORT"),
    ],
)
def test_a_misspelt_name_stops_the_start(environ: pytest.MonkeyPatch, name: str, meant: str) -> None:
    """As a setting left out it would, for one, let in clients without a certificate."""
    assert refusal(environ, **{name: SECRET}) == f"{name}: no setting has this name: did you mean {meant}?"


@pytest.mark.parametrize("name", ["TOLLGATE_XYZZY", "TOLLGATE_NOPE", "TOLLGATE_LEDGER_DSN"])
def test_a_name_that_is_like_no_other(environ: pytest.MonkeyPatch, name: str) -> None:
    """But for its prefix, which all have."""
    message = refusal(environ, **{name: SECRET})
    assert message == f"{name}: no setting has this name: `tollgate settings` lists them"


def test_commands_that_need_only_the_stores_know_the_names_too(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TOLLGATE_WORKERZ", "2")
    with pytest.raises(ConfigError, match="TOLLGATE_WORKERS"):
        load_settings(StoreSettings)
    with pytest.raises(ConfigError, match="TOLLGATE_WORKERS"):
        load_settings(TokenSettings)


@pytest.mark.parametrize("keys", ["", "c2hvcnQ=", "not base64", f"{'A' * 43}=,"])
def test_keys_of_the_console_are_whole(environ: pytest.MonkeyPatch, keys: str) -> None:
    environ.setenv("TOLLGATE_CONSOLE_CLIENT_SECRET", SECRET)
    environ.setenv("TOLLGATE_CONSOLE_KEYS", keys)
    with pytest.raises(ConfigError, match="TOLLGATE_CONSOLE_KEYS"):
        load_settings(ConsoleSettings)
    environ.setenv("TOLLGATE_CONSOLE_KEYS", f"{'A' * 43}=, {'B' * 43}=")
    assert "BBB" not in repr(load_settings(ConsoleSettings))


def test_the_names_of_the_stack_are_known(environ: pytest.MonkeyPatch) -> None:
    """`tollgate up` tells its own settings to the service, too."""
    classes = (StackSettings, ConsoleSettings, FilterSettings, GitlabSettings, PublisherSettings)
    elsewhere = {name: field for each in classes for name, field in each.model_fields.items()}
    own = elsewhere.keys() - Settings.model_fields.keys()
    assert own <= module.known_fields(), "write them there"
    for name in own:
        environ.setenv(f"TOLLGATE_{name.upper()}", "x")
    environ.setenv(MARK, "x")
    environ.setenv(OWN_ADDRESSES, "x")
    environ.setenv(FACTORY, "x")
    environ.setenv(LINE_FD, "7")
    load_settings(Settings)


# https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
SERVICE_LINKS = {
    "TOLLGATE_SERVICE_HOST": "10.96.0.12",
    "TOLLGATE_SERVICE_PORT": "9000",
    "TOLLGATE_SERVICE_PORT_GRPC": "9000",
    "TOLLGATE_PORT": "tcp://10.96.0.12:9000",
    "TOLLGATE_PORT_9000_TCP": "tcp://10.96.0.12:9000",
    "TOLLGATE_PORT_9000_TCP_PROTO": "tcp",
    "TOLLGATE_PORT_9000_TCP_PORT": "9000",
    "TOLLGATE_PORT_9000_TCP_ADDR": "10.96.0.12",
    "TOLLGATE_USAGE_WORKER_SERVICE_HOST": "fd00::12",
    "TOLLGATE_USAGE_WORKER_PORT_9002_UDP": "udp://[fd00::12]:9002",
    "TOLLGATE_ADMIN_PORT": "tcp://10.96.0.13:9001",
}


def test_variables_of_kubernetes_services_are_no_settings(environ: pytest.MonkeyPatch) -> None:
    """Of one named tollgate, and of one named tollgate-admin, whose port has the name of a setting."""
    for name, value in SERVICE_LINKS.items():
        environ.setenv(name, value)
    assert load_settings(Settings).admin_port == 9001


@pytest.mark.parametrize("name", ["TOLLGATE_SERVICE_HOST", "TOLLGATE_PORT", "TOLLGATE_PORT_9000_TCP_PORT"])
def test_a_similar_name_is_reported(environ: pytest.MonkeyPatch, name: str) -> None:
    assert refusal(environ, **{name: "models.example"}).startswith(f"{name}: no setting has this name")


def test_a_cluster_has_one_database(environ: pytest.MonkeyPatch) -> None:
    message = refusal(environ, TOLLGATE_REDIS_SHARDS="4", TOLLGATE_REDIS_URL="redis://h/1")
    assert message.startswith("TOLLGATE_REDIS_SHARDS: more than 1 is for a Redis Cluster")


def test_the_ports_may_be_one_on_two_addresses(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TOLLGATE_ADMIN_PORT", "9000")
    environ.setenv("TOLLGATE_ADMIN_HOST", "127.0.0.2")
    assert load_settings(Settings).admin_port == 9000
    assert "choose two" in refusal(environ, TOLLGATE_ADMIN_HOST="::")


def test_the_longest_token_fits_into_the_longest_message(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TOLLGATE_MAX_TOKEN_BYTES", "61440")
    assert load_settings(Settings).max_token_bytes == 61_440
    message = refusal(environ, TOLLGATE_MAX_MESSAGE_BYTES="65536")
    assert message == "TOLLGATE_MAX_TOKEN_BYTES: needs TOLLGATE_MAX_MESSAGE_BYTES of 94208 at least"


def listed(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(settings_list.settings, arguments)
    return (2 if isinstance(done.exception, ConfigError) else done.exit_code), done.output


def test_defaults_outside_of_packages_are_shown_by_their_place_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    models = Path(sys.prefix, "share", "tollgate", "model_servers")
    monkeypatch.setattr(StackSettings.model_fields["models"], "default", models)
    found = {one["setting"]: one for one in json.loads(listed("--format", "json")[1]) if one["command"] == "up"}
    assert found["TOLLGATE_MODELS"]["default"] == "share/tollgate/model_servers"


def test_every_setting_is_listed_with_its_value_and_source(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("TOLLGATE_WORKERS=4\n")
    environ.setenv("TOLLGATE_ENV_FILE", str(tmp_path / "env"))
    status, output = listed("--format", "json")
    found = {(one["command"], one["setting"]): one for one in json.loads(output)}
    assert status == 0
    assert all(one["meaning"] and one["type"] for one in found.values())
    assert {name.removeprefix("TOLLGATE_").lower() for command, name in found if command == "serve"} == {
        *Settings.model_fields
    }
    assert found["serve", "TOLLGATE_WORKERS"] == {
        "command": "serve", "setting": "TOLLGATE_WORKERS", "value": "4", "source": "env file", "default": "1",
        "type": "whole number, 1 to 64", "meaning": "worker processes that share the gRPC port",
    }  # fmt: skip
    assert found["serve", "TOLLGATE_POLICY"]["source"] == "environment"
    assert found["up", "TOLLGATE_POLICY"]["default"] == "devstack/stack/policy.yaml"
    assert found["serve", "TOLLGATE_LOG_LEVEL"]["source"] == "default"
    assert (found["serve", "TOLLGATE_TLS_CERT"]["source"], found["serve", "TOLLGATE_TLS_CERT"]["value"]) == (None, None)


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_the_list_shows_no_secret(environ: pytest.MonkeyPatch, form: str) -> None:
    assert "postgresql://***@db/tollgate" in listed("--format", form)[1]
    for url in (
        f"redis://:x/{SECRET}@h/0",
        f"redis://:{SECRET}",
        f"redis://h/0?password={SECRET}",
        f"redis://:1/{SECRET}@h",
    ):
        environ.setenv("TOLLGATE_REDIS_URL", url)
        assert SECRET not in listed("--format", form)[1], url


def test_the_list_is_printed_although_a_name_is_misspelt(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TOLLGATE_WORKERZ", "2")
    status, output = listed()
    assert status == 2
    assert "TOLLGATE_WORKERS" in output


def test_all_wrong_settings_are_reported_at_once(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TOLLGATE_WORKERS", "many")
    environ.setenv("TOLLGATE_SERVER", "gunicorn")
    with pytest.raises(ConfigError, match=r"TOLLGATE_SERVER.*TOLLGATE_WORKERS"):
        load_settings(Settings)


@pytest.fixture
def stack(environ: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """A stack runs on this machine, and nothing is set but what it has."""
    for name in ("POLICY", "DATABASE_URL", "REDIS_URL"):
        environ.delenv(f"TOLLGATE_{name}")
    has = {
        "TOLLGATE_POLICY": str(tmp_path / "policy.yaml"),
        "TOLLGATE_DATABASE_URL": "postgresql://stack/tollgate",
        "TOLLGATE_REDIS_URL": "redis://stack/0",
        "TOLLGATE_ADMIN_PORT": "9101",
    }
    environ.setattr(environment, "running_stack", lambda: has)
    return has


@pytest.mark.usefixtures("stack")
def test_commands_beside_a_running_stack_need_no_settings() -> None:
    settings = load_settings(StoreSettings)
    assert settings.database_url.get_secret_value() == "postgresql://stack/tollgate"
    assert settings.redis_url.get_secret_value() == "redis://stack/0"
    assert load_settings(AdminSettings).admin_port == 9101


@pytest.mark.usefixtures("stack")
def test_a_service_does_not_take_the_stores_of_a_running_stack() -> None:
    for kind in (Settings, UsageWorkerSettings):
        with pytest.raises(ConfigError, match=r"TOLLGATE_DATABASE_URL: .*; TOLLGATE_REDIS_URL"):
            load_settings(kind)


@pytest.mark.usefixtures("stack")
def test_the_stores_are_of_one_source(environ: pytest.MonkeyPatch) -> None:
    """Another Postgres with the Redis of the stack, or its policy: a revocation would be in force nowhere."""
    environ.setenv("TOLLGATE_DATABASE_URL", "postgresql://other/tollgate")
    with pytest.raises(ConfigError, match="TOLLGATE_REDIS_URL"):
        load_settings(StoreSettings)
    assert load_settings(AdminSettings).admin_port == 9001
    assert load_settings(PolicySettings).policy is None


@pytest.mark.usefixtures("stack")
def test_an_env_file_wins_over_a_running_stack(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# of the ops team\n\nTOLLGATE_ADMIN_PORT=9201\n")
    environ.setenv("TOLLGATE_ENV_FILE", str(file))
    assert load_settings(AdminSettings).admin_port == 9201
    environ.setenv("TOLLGATE_ADMIN_PORT", "9301")
    with pytest.raises(ConfigError, match=f"TOLLGATE_ADMIN_PORT: is set in the environment and in {file}: set it once"):
        load_settings(AdminSettings)


def test_a_misspelt_name_in_a_file_is_reported(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "env"
    environ.setenv("TOLLGATE_ENV_FILE", str(file))
    file.write_text("TOLLGATE_WORKERZ=2\n")
    assert refusal(environ) == "TOLLGATE_WORKERZ: no setting has this name: did you mean TOLLGATE_WORKERS?"
    file.write_bytes(b"\xef\xbb\xbfTOLLGATE_WORKERS='2'\r\n")
    assert refusal(environ) == f"{file}:1: write the value without quotes"
    file.write_text("WORKERS=2\n")
    assert refusal(environ) == f"{file}:1: write a setting as TOLLGATE_NAME=VALUE"
    file.write_text("TOLLGATE_WORKERS=2\nTOLLGATE_WORKERS=3\n")
    assert refusal(environ) == f"{file}:2: TOLLGATE_WORKERS is set a second time: keep one of them"
    file.unlink()
    assert refusal(environ) == f"{file}: cannot be read (No such file or directory)"
    assert refusal(environ, TOLLGATE_ENV_FILE="") == "TOLLGATE_ENV_FILE: is empty: unset it, or write a value"
