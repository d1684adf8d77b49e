"""From what an operator has to what is revoked: the claim itself, a token, the id of a decision, or a user's name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from uuid import UUID

import jwt
from msgspec import Struct
from msgspec.structs import replace

from ext_authz.clock import SystemClock
from ext_authz.command_line import bare
from ext_authz.errors import ConfigError, Denied, Unavailable, escaped
from ext_authz.identity.api_tokens import PREFIX, unwrap
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.claim_values import Claims
from ext_authz.identity.fetch import HttpFetch
from ext_authz.identity.identity import MAX_TEXT, RefusedToken, is_text
from ext_authz.ledger.queries import User
from ext_authz.policy.issuers import Issuer
from ext_authz.revocation.entry import CLAIMS, Kind, Target
from ext_authz.settings import TokenSettings, load_settings

_NAME = re.compile(r"[a-z0-9-]{1,32}")


class Named(Struct, frozen=True):
    """The claims of a token, or what was recorded of one; empty where there is nothing."""

    what: str
    """For messages: the token, the decision."""
    iss: str = ""
    issuer: str = ""
    """Name of the issuer, where it was recorded."""
    token: str = ""
    session: str = ""
    user: str = ""
    client: str = ""

    @property
    def values(self) -> dict[Kind, str]:
        """By kind, without the empty ones."""
        values = {Kind.TOKEN: self.token, Kind.SESSION: self.session, Kind.USER: self.user, Kind.CLIENT: self.client}
        return {kind: value for kind, value in values.items() if value}


class Wanted(Struct, frozen=True, kw_only=True):
    """What an operator gives on the command line."""

    kind: Kind
    value: str = ""
    """The claim itself; of an issuer its name."""
    username: str = ""
    issuer: str = ""
    """Name of the issuer in the policy, where it does not follow from the rest."""
    force: bool = False
    """Accept the name of an unknown issuer."""
    named: Named | None = None
    """From a token."""
    decision: UUID | None = None


class Issuers(Struct, frozen=True):
    """The known issuers: by name, their URLs."""

    urls: Mapping[str, str] = {}
    source: str = "the ledger"
    """For messages: where they are known from."""

    def name_of(self, iss: str) -> str:
        """Empty when it is not known."""
        return next((name for name, url in self.urls.items() if iss and url == iss), "")

    def ensure_known(self, name: str) -> None:
        """A wrong name would revoke nothing.

        Raises:
            ConfigError: it is unknown; with the one that was meant, perhaps.
        """
        if name in self.urls:
            return
        if not self.urls:
            raise ConfigError(
                f"--issuer: it is not known whether there is an issuer '{escaped(name)}': set TOLLGATE_POLICY, "
                "or add --force"
            )
        near = get_close_matches(name, self.urls, n=1) or [known for known, url in self.urls.items() if url == name]
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(self.urls))};"
        raise ConfigError(
            f"--issuer: {self.source} has no issuer '{escaped(name)}': {hint} (--force revokes it all the same)"
        )


def target_of(
    wanted: Wanted, issuers: Issuers, *, named: Named | None = None, users: Sequence[User] | None = None
) -> Target:
    """`named`: from the token or the decision; `users`: those with the name `wanted.username`.

    Raises:
        ConfigError: this is nothing, several things, or what no token can carry.
    """
    issuer, value = _found(wanted, issuers, named, users)
    if not issuer:
        raise ConfigError("--issuer: give the name of the issuer in the policy")
    if not _NAME.fullmatch(issuer):
        raise ConfigError("--issuer: the name of an issuer is 1 to 32 of a-z, 0-9 and -, as in the policy")
    if not wanted.force:
        issuers.ensure_known(issuer)
    if wanted.kind is not Kind.ISSUER and not is_text(value):
        claim = CLAIMS[wanted.kind]
        raise ConfigError(f"no token can carry this {claim}: it must be 1 to {MAX_TEXT} printable characters")
    return Target(wanted.kind, issuer, value)


def _found(wanted: Wanted, issuers: Issuers, named: Named | None, users: Sequence[User] | None) -> tuple[str, str]:
    """The name of the issuer, and the value."""
    if named is not None:
        return _issuer_of(named, wanted, issuers), _value_of(named, wanted.kind)
    if users is not None:
        user = _only_one(users, wanted)
        return user.issuer, user.subject
    if wanted.kind is Kind.ISSUER:
        return wanted.value, ""
    only = next(iter(issuers.urls)) if len(issuers.urls) == 1 else ""
    return wanted.issuer or only, wanted.value


def _value_of(named: Named, kind: Kind) -> str:
    if kind is Kind.ISSUER:
        return ""
    if kind not in named.values:
        there = " or ".join(other.label for other in named.values)
        raise ConfigError(f"{named.what} has no {CLAIMS[kind]}" + (f": revoke its {there} instead" if there else ""))
    return named.values[kind]


def _issuer_of(named: Named, wanted: Wanted, issuers: Issuers) -> str:
    """The present name takes precedence over the recorded one: checks go by it."""
    name = issuers.name_of(named.iss) or named.issuer
    if name and wanted.issuer and name != wanted.issuer and not wanted.force:
        raise ConfigError(f"--issuer: {named.what} is of {name}, not of {escaped(wanted.issuer)}")
    if not (name or wanted.issuer):
        unknown = f"is of an issuer that {issuers.source} does not know, '{escaped(named.iss[:MAX_TEXT])}'"
        raise ConfigError(f"{named.what} {unknown if named.iss else 'names no issuer'}: add --issuer NAME")
    return wanted.issuer or name


def _only_one(users: Sequence[User], wanted: Wanted) -> User:
    of_issuer = [user for user in users if wanted.issuer in ("", user.issuer)]
    name = escaped(wanted.username)
    if not of_issuer:
        where = f" of {wanted.issuer}" if wanted.issuer else ""
        raise ConfigError(
            f"--username: no user{where} with the name '{name}' was seen in the last 7 days: give the sub "
            "(names are known if the policy has explain: {usernames: true})"
        )
    if len(of_issuer) > 1:
        each = "".join(f"\n  tollgate revoke user {user.subject} --issuer {user.issuer}" for user in of_issuer)
        raise ConfigError(f"--username: {len(of_issuer)} users have the name '{name}', choose one:{each}")
    return of_issuer[0]


def read_token(token: str) -> Named:
    """Not verified. Never repeats the token in an error.

    `exp` is not read: a forged one would let the revocation end before the real token does.

    Raises:
        ConfigError: this is no JWT.
    """
    text = bare(token)
    own = text.startswith(PREFIX)
    try:
        claims: Claims = jwt.decode(unwrap(text) if own else text, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise ConfigError(f"--jwt: standard input holds no {'whole API token' if own else 'JWT'}") from None
    return _of_owner(claims) if own else _named(claims)


def _of_owner(claims: Claims) -> Named:
    """Of an API token: it is revoked as one of its owner's issuer."""
    grant = claims.get("tollgate")
    issuer = grant.get("issuer") if isinstance(grant, Mapping) else None
    return replace(_named(claims), what="the API token", iss="", issuer=issuer if isinstance(issuer, str) else "")


def _named(claims: Claims) -> Named:
    text = {name: value for name, value in claims.items() if isinstance(value, str)}
    client = text.get("azp") or text.get("client_id", "")
    return Named(
        what="the token",
        iss=text.get("iss", ""),
        token=text.get("jti", ""),
        session=text.get("sid", ""),
        user=text.get("sub") or client,
        client=client,
    )


async def doubt(token: str, issuers: tuple[Issuer, ...]) -> str:
    """Why the claims of a token cannot be relied on; empty when a check would accept it."""
    if not issuers:
        return "there is no policy in TOLLGATE_POLICY that says whose keys to verify it with"
    settings = load_settings(TokenSettings)
    fetch = HttpFetch(settings.jwks_timeout, settings.jwks_ca_file)
    authenticator = TokenAuthenticator(
        issuers,
        fetch=fetch,
        ask=fetch.ask,
        fetch_key=fetch.key,
        clock=SystemClock(),
        cache_size=1,
        max_token=settings.max_token_bytes,
    )
    try:
        await authenticator.authenticate((f"Bearer {bare(token)}",))
    except Denied as refusal:
        # One that is bound to a key is refused here, where nobody proves it; all that it says was verified.
        verified = isinstance(refusal, RefusedToken) and refusal.identity.binding is not None
        return "" if verified else f"a check refuses it ({refusal.code})"
    except Unavailable as outage:
        return f"{outage.dependency} does not answer"
    else:
        return ""
    finally:
        await authenticator.stop()
        await fetch.aclose()
