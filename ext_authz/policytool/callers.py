"""Callers of simulated checks: described in a few words, by the payload of a token, or by a token on standard input.

Phase 2 without keys: `GivenCallers` trusts claims as if they came in a token with a valid signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jwt
from msgspec.structs import replace
from pydantic import Field, ValidationError, model_validator

from ext_authz.clock import Clock
from ext_authz.decision import Request
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.identity.api_tokens import PREFIX
from ext_authz.identity.claim_values import Claims
from ext_authz.identity.claims import identify
from ext_authz.identity.gitlab import JOB
from ext_authz.identity.identity import Identity, invalid
from ext_authz.identity.tokens import credential, single
from ext_authz.ledger.event import DecisionRecord
from ext_authz.policy.documents.base import Name, Part, Text, claim_path
from ext_authz.policy.documents.models import ModelName
from ext_authz.policy.faults import did_you_mean, shown
from ext_authz.policy.issuers import ClaimPath, Gitlab, Issuer
from ext_authz.policy.rights import ModelNames

_KEY = "given"
"""Stands for the id of the key that would have signed."""
_EXAMPLE = """'{"user": "alice", "roles": ["infer"]}'"""
_LIFE = 300
"""Seconds that such a token lives, unless its issuer accepts only shorter ones."""


class IdentityDocument(Part):
    """Who calls: a few words about the caller, or the whole payload of a token."""

    issuer: Name | None = Field(default=None, description="The policy's short name of the issuer. Default: its first.")
    user: Text = Field(default="somebody", description="The claim sub.")
    client: Text | None = Field(
        default=None,
        description="The claim azp; of users of a GitLab aud. Default: one that the issuer's policy takes.",
    )
    roles: tuple[Text, ...] = Field(default=(), description="Put where the issuer's tokens hold roles.")
    scopes: tuple[Text, ...] = Field(default=(), description="Put where the issuer's tokens hold scopes.")
    groups: tuple[Text, ...] = Field(default=(), description="Put where the issuer's tokens hold groups.")
    models: tuple[ModelName, ...] | None = Field(
        default=None,
        description="The caller uses an API token (tgl_...) that is limited to these models: names, or patterns.",
    )
    claims: dict[str, Any] = Field(default={}, description="Any other claims, by dotted path.")
    token: dict[str, Any] | None = Field(
        default=None,
        description="Instead of all else: the payload of a token, decoded. Its times count: see given.time.",
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.token is not None and len(self.model_fields_set) > 1:
            raise ValueError("token is the whole payload: remove the other keys")
        return self


class _ApiToken(dict[str, object]):
    """The claims of its owner, and what limits it."""

    models = ModelNames(())


class _Verified(NamedTuple):
    identity: Identity
    until: float


class GivenCallers:
    """The authenticator of a simulator: reads given claims as a worker reads those of a token."""

    def __init__(self, issuers: Sequence[Issuer], clock: Clock) -> None:
        self.lost_at: float | None = None
        """Monotonic time since which no issuer confirms its keys, and those in hand are too old."""
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._clock = clock
        self._given: dict[str, Claims] = {}
        self._verified: dict[str, _Verified] = {}

    def present(self, claims: Claims) -> str:
        """The value of an Authorization header that stands for these claims."""
        handle = f"{_KEY}-{len(self._given)}"
        self._given[handle] = claims
        return f"Bearer {handle}"

    def cached(self, authorization: str, _grace: float) -> Identity | None:
        """The caller of an earlier request with the same token, as long as it lives."""
        verified = self._verified.get(authorization)
        if verified is None or self.lost_at is not None or self._clock.now() >= verified.until:
            return None
        return verified.identity

    async def authenticate(
        self, authorization: tuple[str, ...], grace: float = 0, _request: Request | None = None, /
    ) -> Identity:
        """The caller; the refusals are those of a worker, but for what only a signed token can have wrong, for the
        proof of a key, and for a token that was used before.

        Raises:
            Denied: no credential, or claims that do not hold.
            Unavailable: "jwks", while no keys can be fetched, and the grace is over.
        """
        value = single(authorization)
        _, handle = credential(value)
        claims = self._given.get(handle)
        if claims is None:
            raise invalid("token_malformed", "the token cannot be understood")
        issuer = self._issuers.get(str(claims.get("iss")))
        if issuer is None:
            raise invalid("issuer_unknown", "the token comes from an issuer that is not accepted here")
        identity = identify(claims, issuer, self._clock.now())
        if isinstance(claims, _ApiToken):
            identity = replace(identity, grant=identity.session, models=claims.models)
        if self.lost_at is None:
            self._verified[value] = _Verified(identity, identity.expires_at + issuer.leeway)
            return identity
        if self._clock.monotonic() - self.lost_at >= grace:
            raise Unavailable("jwks", "down, as given")
        return replace(identity, degraded="jwks")


def given_claims(identity: IdentityDocument, issuers: Sequence[Issuer], now: float) -> Claims:
    """The whole payload where it was given; else that of a token just issued to this caller.

    Raises:
        ConfigError: the policy has no issuer of that name, or one whose tokens do not say that.
    """
    if identity.token is not None:
        return identity.token
    issuer = _issuer(identity.issuer, issuers)
    if issuer.asap and (said := sorted(identity.model_fields_set - {"issuer", "user"})):
        what = f"{said[0]} goes not with the issuer {shown(issuer.name)}: of the tokens of a service only sub is read"
        raise ConfigError(f"{what}; what it may do is in asap.roles")
    others = {claim_path(name): value for name, value in identity.claims.items()}
    claims = laid_out(_good_claims(identity, issuer, int(now)), issuer, identity, others)
    if identity.models is not None:
        claims = _ApiToken(claims)
        claims.models = ModelNames(identity.models)
    return claims


def written_claims(text: str, issuers: Sequence[Issuer], now: float) -> Claims:
    """From a command line: a caller in a few words or a token's payload, in JSON, or @FILE.

    Raises:
        ConfigError: this is neither.
    """
    found = _json(text)
    try:
        identity = IdentityDocument.model_validate({"token": found} if "iss" in found else found)
    except ValidationError as wrong:
        at = ".".join(map(str, wrong.errors()[0]["loc"]))
        known = ", ".join(sorted(IdentityDocument.model_fields.keys() - {"token"}))
        raise ConfigError(
            f"--claims: {shown(at)} is no key of a caller, or has a wrong value: write {_EXAMPLE}, with any of "
            f"{known}; or the payload of a token, with iss"
        ) from None
    return given_claims(identity, issuers, now)


def unverified_claims(token: str) -> Claims:
    """Of a JWT, whose signature is not checked. Never repeats the token in an error."""
    if token.startswith(PREFIX):
        raise ConfigError(
            "--jwt: an API token says what it is limited to, and not what its owner may do: use --claims, with the "
            "owner's roles, and models"
        )
    try:
        claims: Claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError):
        raise ConfigError("--jwt: standard input holds no JWT") from None
    return claims


def laid_out(
    claims: Claims, issuer: Issuer, names: IdentityDocument | DecisionRecord, others: Mapping[ClaimPath, object]
) -> Claims:
    """The claims of a token, with roles, scopes, groups and other claims where tokens of this issuer have them."""
    held = issuer.claims
    for paths, each in ((held.roles, names.roles), (held.scopes, names.scopes), (held.groups, names.groups)):
        _put(claims, paths[0], list(each))
    for path, value in others.items():
        _put(claims, path, list(value) if isinstance(value, tuple) else value)
    return claims


def _put(claims: Claims, path: ClaimPath, value: object) -> None:
    """Where the path leads to, with all that has to be made on the way."""
    *above, last = path
    holder = claims
    for step in above:
        below = holder.setdefault(step, {})
        if not isinstance(below, dict):
            below = holder[step] = {}
        holder = below
    holder[last] = value


def _good_claims(identity: IdentityDocument, issuer: Issuer, now: int) -> Claims:
    return {
        "iss": issuer.issuer,
        "sub": identity.user if "user" in identity.model_fields_set else _subject(identity, issuer),
        "azp": identity.client or min(issuer.clients, default="some-client"),
        "aud": min(issuer.audiences),
        "typ": "Bearer",
        "jti": "some-token",
        "sid": "some-session",
        "iat": now,
        "exp": now + min(_LIFE, issuer.max_token_age),
        **(_of_gitlab(identity, issuer.gitlab) if issuer.gitlab else {}),
    }


def _subject(identity: IdentityDocument, issuer: Issuer) -> str:
    """Where none is written."""
    return issuer.issuer if issuer.asap else "1" if issuer.gitlab else identity.user


def _of_gitlab(identity: IdentityDocument, rules: Gitlab) -> Claims:
    """A job says where it runs, and a user's token is for an application."""
    if identity.user.startswith(JOB):
        return {"project_path": identity.user.removeprefix(JOB).partition(":")[0]}
    return {"aud": identity.client or min(rules.applications, default="")}


def _issuer(name: str | None, issuers: Sequence[Issuer]) -> Issuer:
    if not name:
        return issuers[0]
    for issuer in issuers:
        if issuer.name == name:
            return issuer
    names = [issuer.name for issuer in issuers]
    hint = did_you_mean(name, names) or f"it has {', '.join(names)}"
    raise ConfigError(f"the policy has no issuer {shown(name)}: {hint}")


def _json(text: str) -> dict[str, object]:
    try:
        found = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as wrong:
        raise ConfigError(f"--claims: {wrong}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--claims: write a JSON object, such as {_EXAMPLE}")
    return found
