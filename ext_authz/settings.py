"""Every setting of `tollgate serve` and the usage worker.

The stack (`tollgate up`) has its own settings in `stack/settings.py`.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from ext_authz.budget_settings import BudgetSettings
from ext_authz.db.store_urls import PostgresUrl, RedisUrl, redis_database
from ext_authz.environment import FromEnvironment, read_settings
from ext_authz.tls import TlsSettings

_MAX_TOKEN = 32_768
_OTHER_HEADERS = 32_768
"""Bytes of a CheckRequest besides the token."""

_ELSEWHERE = frozenset(
    {
        # the stack's (a test compares), and what it and the supervisor tell their children
        *("state_dir", "realm", "models", "applications", "issuer", "triton", "public_url", "envoy_port", "usage_port"),
        *("idp", "keycloak_home", "idp_port", "postgres_port", "redis_port", "prometheus_port", "status_port"),
        *("observability", "prometheus", "monitoring_files", "models_public_key", "models_signing_key"),
        *("model_answer_seconds", "model_load_seconds", "variant"),  # the last is the models'
        *("stack", "stack_addresses", "worker_fd", "worker_factory"),
        # of the console, the filter, `gitlab` and `ledger publish` (a test compares)
        *("console_host", "console_port", "console_grpc_port", "console_metrics_port", "console_issuer"),
        *("console_client_id", "console_client_secret", "console_keys", "console_poll", "console_trusted_hops"),
        *("console_reminder_url", "console_events_poll", "console_signal_clients", "console_door_url"),
        *("catalogue_models", "catalogue_terms", "filter_listen", "filter_mlflow_url", "filter_prefix"),
        *("kafka_servers", "kafka_topic", "kafka_source", "kafka_security", "kafka_ca_file", "kafka_cert_file"),
        *("gitlab_issuer", "gitlab_url", "gitlab_token", "gitlab_hook_token", "gitlab_listen", "gitlab_poll"),
        *("kafka_key_file", "kafka_user", "kafka_password", "kafka_mechanism", "filter_artifact_bytes"),
        "env_file",  # the file of settings itself
    }
)


class DatabaseSettings(FromEnvironment):
    """All that commands about recorded usage need."""

    beside_stack: ClassVar[bool] = True

    database_url: PostgresUrl = Field(
        description="Postgres, the source of truth: postgresql://user:password@host:port/database"
    )


class MigrationSettings(DatabaseSettings):
    """Of `migrate`, which changes no database by accident."""

    beside_stack: ClassVar[bool] = False


class StoreSettings(DatabaseSettings):
    """Where the truth and its copy are: all that commands without a policy need."""

    redis_url: RedisUrl = Field(
        description="Redis, the shared fast copy: redis://[:password@]host:port/0, unix://path, or with Sentinel "
        "redis+sentinel://[:password@]host:port,host:port/NAME/0"
    )
    redis_shards: int = Field(
        1, ge=1, le=64, description="hash slots that keys are spread over; more than 1 only on a Redis Cluster"
    )

    @model_validator(mode="after")
    def _shards_fit_redis(self) -> Self:
        if self.redis_shards > 1 and redis_database(self.redis_url.get_secret_value()):
            raise ValueError("TOLLGATE_REDIS_SHARDS: more than 1 is for a Redis Cluster, which has the database 0 only")
        return self


class ProcessSettings(StoreSettings):
    """What `serve` and the usage worker share. Neither takes the stores of a running stack by itself."""

    beside_stack: ClassVar[bool] = False

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level written")
    replica: str = Field(
        default_factory=socket.gethostname, description="name of this instance in logs; unset: the host's name"
    )
    admin_names: str | None = Field(
        None,
        description="Host names of /metrics, /livez and /readyz besides addresses and private names, comma-separated",
    )

    @property
    def accepted_names(self) -> frozenset[str]:
        """In lower case."""
        return frozenset(name.strip().lower() for name in (self.admin_names or "").split(","))


class PolicySettings(FromEnvironment):
    """The policy, for commands that read it if there is one."""

    beside_stack: ClassVar[bool] = True

    policy: Path | None = Field(None, description="the policy: a file, or a directory of files")

    @field_validator("policy", "candidate_policy", check_fields=False)
    @classmethod
    def _policy_is_readable(cls, path: Path | None) -> Path | None:
        if path is not None and not ((path.is_file() or path.is_dir()) and os.access(path, os.R_OK)):
            raise ValueError(f"no readable file at {path}")
        return path


class UsageWorkerSettings(ProcessSettings, PolicySettings, TlsSettings, BudgetSettings):
    """Of the usage worker. TLS is that of the listener for access logs."""

    usage_batch: int = Field(1000, ge=1, le=10_000, description="events the usage worker moves per transaction")
    facts_keep: int = Field(
        0, ge=0, le=315_360_000, description="seconds that decision records are kept; 0: as long as their rows"
    )
    usage_keep: int = Field(0, ge=0, le=1200, description="whole months that rows of the ledger are kept; 0: for ever")
    usage_metrics_host: str = Field("127.0.0.1", min_length=1, description="address of its /metrics and /readyz")
    usage_metrics_port: int | None = Field(None, ge=1, le=65535, description="port of them; unset: not served")
    access_log_listen: str | None = Field(
        None,
        pattern=r"^(unix:/.+|[^\s/]+:[0-9]{1,5})$",
        description="where Envoy's access log service (gRPC) is served: host:port or unix:/path; unset: not served",
    )
    predictions: Path | None = Field(
        None,
        description="directory where models write their predictions; the usage worker moves them as the policy says; "
        "unset: it does not",
    )
    predictions_key: SecretStr | None = Field(
        None, min_length=32, description="secret of hashed inputs in the prediction log, at least 32 characters"
    )

    @model_validator(mode="after")
    def _predictions_have_a_policy(self) -> Self:
        if self.predictions and not self.policy:
            raise ValueError("TOLLGATE_PREDICTIONS: takes TOLLGATE_POLICY too, which says what of them is kept")
        return self


class TokenSettings(FromEnvironment):
    """Which tokens are read, and how the keys of their issuers are fetched."""

    jwks_timeout: float = Field(
        1.0, gt=0, le=30, description="longest wait for an issuer's keys, and for what it says about a token"
    )
    jwks_ca_file: Path | None = Field(
        None, description="PEM CA certificates trusted for issuers' https, besides the system's"
    )
    max_token_bytes: int = Field(
        _MAX_TOKEN, ge=1024, le=61_440, description="longest token read; Envoy passes 60 KiB of headers"
    )

    @field_validator("jwks_ca_file")
    @classmethod
    def _holds_certificates(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
            except ssl.SSLError:
                raise ValueError(f"{path} holds no PEM certificate") from None
            except OSError as wrong:
                raise ValueError(f"cannot read {path} ({wrong.strerror})") from None
        return path


class AdminSettings(FromEnvironment):
    """Where a running service is asked about itself."""

    beside_stack: ClassVar[bool] = True

    admin_host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz")
    admin_port: int = Field(9001, ge=1, le=65535, description="port of /metrics, /livez and /readyz")
    admin_socket: Path | None = Field(
        None, description="Unix socket of /policy, for this user only; unset: /tmp/tollgate-UID/admin-PORT.sock"
    )

    @property
    def control_socket(self) -> Path:
        """The same for the service and for the commands that ask it."""
        return self.admin_socket or private_directory() / f"admin-{self.admin_port}.sock"


def private_directory() -> Path:
    """What this user has in /tmp: a short path, and the same whatever TMPDIR says. It may not be there yet."""
    return Path(f"/tmp/tollgate-{os.geteuid()}")  # noqa: S108 - its owner is checked where it is made


class Settings(ProcessSettings, PolicySettings, TokenSettings, AdminSettings, TlsSettings):
    """Durations are in seconds, sizes in bytes. Secrets are masked in `str()` and `repr()`."""

    policy: Path = Field(description="the policy: a file, or a directory of files")
    database_direct_url: PostgresUrl | None = Field(
        None, description="the same database without a pooler in between, for LISTEN; unset: database_url, or polling"
    )
    redis_timeout: float = Field(0.25, gt=0, le=10, description="longest wait for one settlement, then 503")
    postgres_timeout: float = Field(0.5, gt=0, le=30, description="longest wait for Postgres in a check, then 503")
    revocation_poll: float = Field(1.0, gt=0, le=60, description="longest time until a row written in SQL is in force")
    candidate_policy: Path | None = Field(None, description="a candidate policy: its decisions are compared, not used")
    candidate_sample: float = Field(
        1.0, gt=0, le=1, description="share of the checks that the candidate policy decides too"
    )

    server: Literal["auto", "h2corn", "grpcio"] = Field("auto", description="the gRPC server")
    listen_host: str = Field("127.0.0.1", description="address of the gRPC listener")
    listen_port: int = Field(9000, ge=1, le=65535, description="port of the gRPC listener")
    workers: int = Field(1, ge=1, le=64, description="worker processes that share the gRPC port")
    max_message_bytes: int = Field(262_144, ge=1024, le=16_777_216, description="largest CheckRequest taken")

    otlp_endpoint: str | None = Field(
        None, description="URL of an OpenTelemetry collector (OTLP over gRPC), which gets traces; unset: none are made"
    )
    otlp_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the traces that callers sample which is continued, 100 a second and worker at most",
    )

    token_cache_size: int = Field(10_000, ge=0, le=1_000_000, description="verified tokens kept per worker")
    token_cache_bytes: int = Field(
        67_108_864, ge=0, le=17_179_869_184, description="memory that they may take together, in bytes"
    )
    ledger_max_events: int = Field(1_000_000, ge=1000, description="events the Redis stream may hold, then 503")

    drain_delay: float = Field(2.0, ge=0, le=300, description="seconds between not-ready and refusing new connections")
    drain_timeout: float = Field(20.0, ge=0, le=600, description="longest wait for checks in flight at shutdown")
    log_decisions: bool = Field(default=False, description="log allowed decisions too, not only refusals")

    @field_validator("server", mode="before")
    @classmethod
    def _server_is_there(cls, server: object) -> object:
        if server == "pyvoy":
            raise ValueError("pyvoy is no longer supported: set h2corn, which replaces it, or auto")
        return server

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_collector(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://collector:4317")
        other = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.port or other:
            raise ValueError("is not a URL of the form http://host:port or https://host:port")
        return url

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        hosts = {self.listen_host, self.admin_host}
        if self.listen_port == self.admin_port and (len(hosts) == 1 or hosts & {"0.0.0.0", "::"}):  # noqa: S104 - no binding
            raise ValueError(f"TOLLGATE_LISTEN_PORT and TOLLGATE_ADMIN_PORT are both {self.listen_port}: choose two")
        return self

    @model_validator(mode="after")
    def _tokens_fit_messages(self) -> Settings:
        if self.max_token_bytes > max(_MAX_TOKEN, self.max_message_bytes - _OTHER_HEADERS):
            least = self.max_token_bytes + _OTHER_HEADERS
            raise ValueError(f"TOLLGATE_MAX_TOKEN_BYTES: needs TOLLGATE_MAX_MESSAGE_BYTES of {least} at least")
        return self


S = TypeVar("S", bound=FromEnvironment)


def load_settings(kind: type[S], overrides: Mapping[str, object] | None = None) -> S:
    """What a command needs, from all sources; `overrides` (from the command line) win.

    Raises:
        ConfigError: one sentence that names every wrong setting and never shows a secret.
    """
    return read_settings(kind, overrides, known_fields())


def known_fields() -> frozenset[str]:
    """Of every class of settings: their variables may be set for any command."""
    return _ELSEWHERE.union(Settings.model_fields, UsageWorkerSettings.model_fields)
