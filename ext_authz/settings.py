"""Every setting of `tollgate serve` and the usage worker: read once from the environment, validated whole, frozen.

All names carry the prefix TOLLGATE_. The stack (`tollgate up`) has its own settings in `stack/settings.py`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.asyncio.connection import parse_url

from ext_authz.errors import ConfigError


def _postgres_url(url: SecretStr) -> SecretStr:
    # The URL holds a password: say the shape, never the value.
    text = url.get_secret_value()
    try:
        conninfo_to_dict(text)
    except psycopg.Error:
        text = ""
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("is not a URL of the form postgresql://user:password@host:port/database")
    return url


def _redis_url(url: SecretStr) -> SecretStr:
    try:
        parse_url(url.get_secret_value())
    except ValueError:
        raise ValueError("is not a URL of the form redis://:password@host:port/0 or unix:///path") from None
    return url


PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]


class StoreSettings(BaseSettings):
    """Where the truth and its copy are, and how to treat them: all that commands without a policy need."""

    model_config = SettingsConfigDict(env_prefix="TOLLGATE_", frozen=True, extra="ignore")

    database_url: PostgresUrl = Field(description="Postgres, the truth: postgresql://user:password@host:port/database")
    database_direct_url: PostgresUrl | None = Field(
        None, description="the same database without a pooler in between, for LISTEN; unset: database_url, or polling"
    )
    redis_url: RedisUrl = Field(
        description="Redis, the shared fast copy: redis://[:password@]host:port/0, or unix://path"
    )
    redis_shards: int = Field(
        1, ge=1, le=64, description="hash slots that keys are spread over; more than 1 only on a Redis Cluster"
    )
    redis_timeout: float = Field(0.25, gt=0, le=10, description="longest wait for one settlement, then 503")
    postgres_timeout: float = Field(0.5, gt=0, le=30, description="longest wait for Postgres in a check, then 503")
    revocation_poll: float = Field(1.0, gt=0, le=60, description="longest time until a row written in SQL is in force")
    usage_batch: int = Field(1000, ge=1, le=10_000, description="events the usage worker moves per transaction")
    facts_keep: int = Field(
        0, ge=0, le=315_360_000, description="seconds that the ledger keeps what a decision went by; 0: as its row"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level written")
    replica: str = Field(default_factory=socket.gethostname, description="name of this instance in logs")


class TokenSettings(BaseSettings):
    """Which tokens are read, and how the keys of their issuers are fetched."""

    model_config = SettingsConfigDict(env_prefix="TOLLGATE_", frozen=True, extra="ignore")

    jwks_timeout: float = Field(1.0, gt=0, le=30, description="longest wait for an issuer's keys")
    jwks_ca_file: Path | None = Field(
        None, description="PEM CA certificates that issuers' https is trusted by, besides the usual ones"
    )
    max_token_bytes: int = Field(32_768, ge=1024, le=61_440, description="longest token read; Envoy passes 60 KiB")


class Settings(StoreSettings, TokenSettings):
    """Durations are in seconds, sizes in bytes. Secrets are masked in `str()` and `repr()`."""

    policy: Path = Field(description="the policy: a file, or a directory of files")
    shadow_policy: Path | None = Field(None, description="a candidate policy that looks on and decides nothing")
    shadow_sample: float = Field(1.0, gt=0, le=1, description="the part of the checks that the candidate sees")

    server: Literal["auto", "pyvoy", "grpcio"] = Field("auto", description="which gRPC server carries the checks")
    listen_host: str = Field("127.0.0.1", description="address of the gRPC listener")
    listen_port: int = Field(9000, ge=1, le=65535, description="port of the gRPC listener")
    admin_host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz")
    admin_port: int = Field(9001, ge=1, le=65535, description="port of /metrics, /livez and /readyz")
    workers: int = Field(1, ge=1, le=64, description="worker processes that share the gRPC port")
    tls_cert: Path | None = Field(None, description="PEM certificate chain of the gRPC listener")
    tls_key: Path | None = Field(None, description="PEM key of the gRPC listener")
    tls_client_ca: Path | None = Field(None, description="PEM CA; set, only clients it signed may connect (mTLS)")
    max_message_bytes: int = Field(262_144, ge=1024, le=16_777_216, description="largest CheckRequest taken")

    token_cache_size: int = Field(10_000, ge=0, le=1_000_000, description="verified tokens kept per worker")
    token_cache_bytes: int = Field(
        67_108_864, ge=0, le=17_179_869_184, description="memory that they may take together, in bytes"
    )
    ledger_max_events: int = Field(1_000_000, ge=1000, description="events the Redis stream may hold, then 503")

    drain_delay: float = Field(2.0, ge=0, le=300, description="seconds between not-ready and refusing new connections")
    drain_timeout: float = Field(20.0, ge=0, le=600, description="longest wait for checks in flight at shutdown")
    log_decisions: bool = Field(default=False, description="log allowed decisions too, not only refusals")

    @field_validator("policy", "shadow_policy")
    @classmethod
    def _policy_is_readable(cls, path: Path | None) -> Path | None:
        if path is not None and not ((path.is_file() or path.is_dir()) and os.access(path, os.R_OK)):
            raise ValueError(f"no readable file at {path}")
        return path

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY go together: set both or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("TOLLGATE_TLS_CLIENT_CA needs TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY")
        return self


S = TypeVar("S", bound=BaseSettings)


def load_settings(overrides: Mapping[str, object] | None = None) -> Settings:
    """Read the environment; `overrides` (from the command line) win.

    Raises:
        ConfigError: one sentence that names every wrong setting and never shows a secret.
    """
    return read_settings(Settings, overrides)


def load_store_settings(overrides: Mapping[str, object] | None = None) -> StoreSettings:
    """As `load_settings`, for commands that need no policy."""
    return read_settings(StoreSettings, overrides)


def load_token_settings() -> TokenSettings:
    """As `load_settings`, for commands that verify tokens and do nothing else of what the service does."""
    return read_settings(TokenSettings, None)


def read_settings(kind: type[S], overrides: Mapping[str, object] | None) -> S:
    """Any class of settings with the prefix TOLLGATE_, with its errors as one sentence."""
    try:
        return kind(**dict(overrides or {}))  # type: ignore[arg-type]
    except ValidationError as wrong:
        raise ConfigError("; ".join(_sentence(error["loc"], error["msg"]) for error in wrong.errors())) from None


def _sentence(loc: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ")
    return f"TOLLGATE_{str(loc[0]).upper()}: {text[:1].lower()}{text[1:]}" if loc else text
