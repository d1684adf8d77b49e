"""The shape of `policy.yaml`, checked by pydantic. `load.py` compiles it into `model.py`."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from ext_authz.limits.limit import LimitPart

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
"""Names end up in Redis keys, metric labels and headers."""

HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#]+$")]
"""Kept as written: `iss` is compared byte by byte."""

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_SEGMENT = re.compile(r"\{[a-z_]+\}|[A-Za-z0-9_.~!$&'()*+,=:@-]+", re.ASCII)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


def seconds(text: object) -> int:
    """`30s`, `5m`, `1h`, `1d` to seconds."""
    found = re.fullmatch(r"([1-9][0-9]{0,8}|0)([smhd])", str(text), re.ASCII)
    if found is None:
        raise ValueError("write a duration as a whole number and s, m, h or d, for example 30s")
    return int(found[1]) * _DURATIONS[found[2]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IssuerDocument(_Part):
    """Who may sign tokens, and for whom."""

    name: Name
    issuer: HttpUrl
    jwks_url: HttpUrl | None = None
    """Default: Keycloak's place, `{issuer}/protocol/openid-connect/certs`."""
    plain_http: bool = False
    """Fetch keys over http from another host than loopback: only where something else protects the way (a mesh)."""
    audiences: Annotated[frozenset[str], Field(min_length=1)]
    algorithms: Annotated[frozenset[Algorithm], Field(min_length=1)] = frozenset({"RS256"})
    strict_type: bool = False
    """Take only `at+jwt` in the header (RFC 9068); Keycloak writes `JWT` unless told otherwise per client."""
    clients: frozenset[str] = frozenset()
    roles_client: str = ""
    leeway: int = 30
    max_token_age: int = 86_400
    jwks_refresh: int = 300
    jwks_cooldown: int = 10
    jwks_max_stale: int = 3600

    @field_validator("leeway", "max_token_age", "jwks_refresh", "jwks_cooldown", "jwks_max_stale", mode="before")
    @classmethod
    def _duration(cls, value: object) -> int:
        return seconds(value)

    @field_validator("leeway")
    @classmethod
    def _short_leeway(cls, value: int) -> int:
        if value > 60:
            raise ValueError("more than 60s of leeway lets expired tokens in")
        return value

    @model_validator(mode="after")
    def _keys_arrive_unchanged(self) -> Self:
        url = urlsplit(self.key_set_url())
        if url.scheme == "http" and not self.plain_http and url.hostname not in _LOOPBACK:
            raise ValueError("keys fetched over http can be replaced on the way: use https, or set plain_http: true")
        return self

    def key_set_url(self) -> str:
        """Where the issuer publishes its keys."""
        return self.jwks_url or f"{self.issuer}/protocol/openid-connect/certs"


class LimitDocument(_Part):
    """How often. `rate: 10/minute`; `burst` goes with `algorithm: gcra`."""

    key: Annotated[tuple[LimitPart, ...], Field(min_length=1)]
    rate: str
    algorithm: Literal["fixed_window", "gcra"] = "fixed_window"
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @field_validator("rate")
    @classmethod
    def _rate(cls, value: str) -> str:
        if re.fullmatch(rf"[1-9][0-9]{{0,8}}/({'|'.join(_PERIODS)})", value, re.ASCII) is None:
            raise ValueError(f"write a rate as number/period, for example 10/minute; periods: {', '.join(_PERIODS)}")
        return value

    @model_validator(mode="after")
    def _burst_needs_gcra(self) -> Self:
        if self.burst is not None and self.algorithm != "gcra":
            raise ValueError("burst goes with algorithm: gcra")
        return self

    def amount(self) -> tuple[int, int]:
        """(requests, seconds)."""
        number, period = self.rate.split("/")
        return int(number), _PERIODS[period]


class ModelDocument(_Part):
    """Who may call one model."""

    roles: Annotated[frozenset[str], Field(min_length=1)]


class RouteDocument(_Part):
    """One rule: a path template with methods, or a gRPC method."""

    name: Name
    path: str | None = None
    grpc: str | None = None
    methods: Annotated[frozenset[Method], Field(min_length=1)] | None = None
    public: bool = False
    roles: frozenset[str] = frozenset()
    model: Literal["none", "one", "all"] = "none"
    limits: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.path is None) == (self.grpc is None):
            raise ValueError("give either path or grpc")
        if (self.path is None) != (self.methods is None):
            raise ValueError("methods go with path, and path needs methods")
        if self.public and (self.roles or self.limits or self.model != "none"):
            raise ValueError("a public route takes no roles, limits or model")
        if self.path is not None and self.model == "one" and "{model}" not in self.path:
            raise ValueError("model: one needs {model} in the path")
        return self

    @field_validator("path")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        if value is not None and not (value.startswith("/") and all(map(_SEGMENT.fullmatch, value[1:].split("/")))):
            raise ValueError("write a path as /literal/{placeholder}/... without escapes or empty segments")
        return value

    @field_validator("grpc")
    @classmethod
    def _method(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(r"[A-Za-z_][\w.]*/[A-Za-z_]\w*", value, re.ASCII) is None:
            raise ValueError("write a gRPC method as package.Service/Method")
        return value


class PolicyDocument(_Part):
    """A whole `policy.yaml`."""

    version: Literal[1]
    realm: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 ._-]{1,64}$")] = "tollgate"
    problem_base: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*:[^\s]*$")] = "urn:tollgate:problem:"
    issuers: Annotated[tuple[IssuerDocument, ...], Field(min_length=1)]
    limits: dict[Name, LimitDocument] = {}
    models: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")], ModelDocument] = {}
    routes: Annotated[tuple[RouteDocument, ...], Field(min_length=1)]
