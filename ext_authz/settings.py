"""Every setting of `tollgate serve` and the usage worker: read once from the environment, validated whole, frozen.

All names carry the prefix TOLLGATE_, and no others may: a misspelt one would be a setting left out, such as the CA that
makes clients show a certificate. The stack (`tollgate up`) has its own settings in `stack/settings.py`.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticUndefined

from ext_authz.db.store_urls import PostgresUrl, RedisUrl, redis_database
from ext_authz.errors import ConfigError

PREFIX = "TOLLGATE_"
_MAX_TOKEN = 32_768
_OTHER_HEADERS = 32_768
"""Bytes of a CheckRequest besides the token."""

_ELSEWHERE = frozenset(
    {
        # the stack's (a test compares), and what it and the supervisor tell their children
        *("state_dir", "realm", "models", "issuer", "triton", "envoy_port", "usage_port"),
        *("idp_port", "postgres_port", "redis_port"),
        *("stack", "stack_addresses", "worker_fd", "worker_factory"),
        # the tests'
        "keycloak_home",
    }
)

# What Kubernetes tells every container of a namespace about a Service whose name begins with tollgate, unless the pod
# sets enableServiceLinks: false. One named tollgate-admin even has a name of ours: TOLLGATE_ADMIN_PORT=tcp://...
_SERVICE_LINK = re.compile(
    r"TOLLGATE_(?:[A-Z0-9_]+_)?(?:"
    r"(?:SERVICE_HOST|PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR)=[0-9A-Fa-f.:]+"
    r"|(?:SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT)=[0-9]+"
    r"|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP))?=(?:tcp|udp|sctp)://[0-9A-Fa-f.:\[\]]+"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp))"
)


class FromEnvironment(BaseModel):
    """Settings by the names of their fields; made by `read_settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    empty_is_unset: ClassVar[bool] = False
    """Else an empty value is wrong: it is what is left of a variable that somebody forgot to set."""


class StoreSettings(FromEnvironment):
    """Where the truth and its copy are, and how to treat them: all that commands without a policy need."""

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

    @model_validator(mode="after")
    def _shards_fit_redis(self) -> Self:
        if self.redis_shards > 1 and redis_database(self.redis_url.get_secret_value()):
            raise ValueError("TOLLGATE_REDIS_SHARDS: more than 1 is for a Redis Cluster, which has the database 0 only")
        return self


class TokenSettings(FromEnvironment):
    """Which tokens are read, and how the keys of their issuers are fetched."""

    jwks_timeout: float = Field(1.0, gt=0, le=30, description="longest wait for an issuer's keys")
    jwks_ca_file: Path | None = Field(
        None, description="PEM CA certificates that issuers' https is trusted by, besides the usual ones"
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

    admin_host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz")
    admin_port: int = Field(9001, ge=1, le=65535, description="port of /metrics, /livez and /readyz")
    admin_names: str | None = Field(
        None, description="names by which they may be asked for besides addresses and private names, comma-separated"
    )
    admin_socket: Path | None = Field(
        None, description="Unix socket of /policy, for this user only; unset: /tmp/tollgate-UID/admin-PORT.sock"
    )

    @property
    def control_socket(self) -> Path:
        """The same for the service and for the commands that ask it."""
        return self.admin_socket or private_directory() / f"admin-{self.admin_port}.sock"


def private_directory() -> Path:
    """What this user has in /tmp: a short path, and the same whatever TMPDIR says. It may not be there yet."""
    return Path(f"/tmp/tollgate-{os.geteuid()}")  # noqa: S108 - whoever makes it looks whose it is


class Settings(StoreSettings, TokenSettings, AdminSettings):
    """Durations are in seconds, sizes in bytes. Secrets are masked in `str()` and `repr()`."""

    policy: Path = Field(description="the policy: a file, or a directory of files")
    shadow_policy: Path | None = Field(None, description="a candidate policy that looks on and decides nothing")
    shadow_sample: float = Field(1.0, gt=0, le=1, description="the part of the checks that the candidate sees")

    server: Literal["auto", "h2corn", "grpcio"] = Field("auto", description="which gRPC server carries the checks")
    listen_host: str = Field("127.0.0.1", description="address of the gRPC listener")
    listen_port: int = Field(9000, ge=1, le=65535, description="port of the gRPC listener")
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

    @field_validator("server", mode="before")
    @classmethod
    def _server_is_there(cls, server: object) -> object:
        if server == "pyvoy":
            raise ValueError("pyvoy is no longer supported: set h2corn, which replaces it, or auto")
        return server

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


def load_settings(overrides: Mapping[str, object] | None = None) -> Settings:
    """Read the environment; `overrides` (from the command line) win.

    Raises:
        ConfigError: one sentence that names every wrong setting and never shows a secret.
    """
    return read_settings(Settings, overrides)


def load_store_settings(overrides: Mapping[str, object] | None = None) -> StoreSettings:
    """As `load_settings`, for commands that need no policy."""
    return read_settings(StoreSettings, overrides)


def load_admin_settings() -> AdminSettings:
    """As `load_settings`, for commands that ask a running service."""
    return read_settings(AdminSettings, None)


def load_token_settings() -> TokenSettings:
    """As `load_settings`, for commands that verify tokens and do nothing else of what the service does."""
    return read_settings(TokenSettings, None)


def read_settings(kind: type[S], overrides: Mapping[str, object] | None = None) -> S:
    """Any class of settings, with its errors as one sentence.

    Raises:
        ConfigError: as of `load_settings`; also for a name with the prefix that is nobody's setting.
    """
    ours = {name: value for name, value in os.environ.items() if not _SERVICE_LINK.fullmatch(f"{name}={value}")}
    wrong = list(_unknown_names(ours, kind))
    given: dict[str, object] = {name: ours[_variable(name)] for name in kind.model_fields if _variable(name) in ours}
    if kind.empty_is_unset:
        given = {name: value for name, value in given.items() if value}
    wrong += [f"{_variable(name)}: is empty: unset it, or write a value" for name, value in given.items() if not value]
    try:
        settings = kind.model_validate({**given, **(overrides or {})})
    except ValidationError as invalid:
        told = (error for error in invalid.errors() if not error["loc"] or given.get(str(error["loc"][0])) != "")
        wrong += [_sentence(error["loc"], error["msg"]) for error in told]
    if wrong:
        raise ConfigError("; ".join(wrong))
    return settings


def describe(kind: type[FromEnvironment]) -> Iterator[tuple[str, str, str]]:
    """Every setting of this class: the variable, its default, what it means."""
    for name, field in kind.model_fields.items():
        default = "required" if field.is_required() else field.default
        yield _variable(name), "" if default in (None, PydanticUndefined) else f"{default}", field.description or ""


def _unknown_names(environ: Mapping[str, str], kind: type[FromEnvironment]) -> Iterator[str]:
    """Also those that only just miss the prefix."""
    known = {_variable(name) for name in {*Settings.model_fields, *kind.model_fields, *_ELSEWHERE}}
    for name in sorted(environ.keys() - known):
        if "TOLL" not in name.upper() and "GATE" not in name.upper():
            continue
        begins = name.upper().startswith(PREFIX)
        near = difflib.get_close_matches(name.upper()[:64], known, n=1, cutoff=0.7 if begins else 0.9)
        if begins or near:
            hint = f"did you mean {near[0]}?" if near else "`tollgate serve --settings` lists them"
            yield f"{name[:64]}: no setting has this name: {hint}"


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _sentence(loc: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ")
    return f"{_variable(str(loc[0]))}: {text[:1].lower()}{text[1:]}" if loc else text
