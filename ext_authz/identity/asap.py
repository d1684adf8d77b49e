"""Tokens that services sign themselves (Atlassian's Service Authentication Protocol): whose key, and who it is.

Such a token proves one thing: that its signer has a key of the service. So nothing else in it is believed. Roles are
those that the policy gives the service, and it names another subject only where the policy lets it.
"""

from __future__ import annotations

import re
from hashlib import sha256

from ext_authz.decision import Principal
from ext_authz.identity.claim_values import (
    Claims,
    audiences_of,
    ensure_begun,
    ensure_complete,
    ensure_issued_by,
    present,
    text_of,
    time_of_expiry,
    time_of_issue,
    token_id_of,
)
from ext_authz.identity.identity import Identity, invalid, plain
from ext_authz.identity.strict_json import encode_base64url
from ext_authz.policy.issuers import Asap, Issuer

_REQUIRED = ("iss", "exp", "iat", "jti", "aud")
# One segment of a path that is the same in every spelling: no escapes, no dot segments, nothing beyond ASCII.
_NAME = re.compile(r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*", re.ASCII)


def ensure_owned(key_id: str, issuer: Issuer) -> None:
    """The key is one of the service that the token names as its issuer: `kid` is `iss`, a slash, and one name.

    Before anything is fetched: `kid` becomes the path of an address. One name only, though the protocol lets more
    segments follow: a key of the service `team/web` would be one of the service `team` too.

    Raises:
        Denied
    """
    owner, _, name = key_id.rpartition("/")
    if owner != issuer.issuer or _NAME.fullmatch(name) is None:
        raise invalid("key_not_owned", "kid must be the iss of the token, a slash and the name of one of its keys")


def identify(claims: Claims, issuer: Issuer, rules: Asap, now: float) -> Identity:
    """The service, or whom it names. `rules`: those of this issuer.

    Raises:
        Denied: with the first claim that is missing or invalid.
    """
    claims = present(claims)
    ensure_complete(claims, _REQUIRED)
    ensure_issued_by(claims, issuer)
    if "cnf" in claims:
        raise invalid("token_bound", "the token is bound to a key (cnf), and such tokens are not accepted here")
    issued_at = time_of_issue(claims, issuer, now)
    expires_at = time_of_expiry(claims, issuer, issued_at, now)
    ensure_begun(claims, issuer, now)
    audiences = audiences_of(claims, issuer.audiences)
    roles = plain(sorted(rules.roles))
    return Identity(
        principal=Principal(issuer.issuer, _subject(claims, issuer, rules), issuer.issuer, roles, token_id_of(claims)),
        issuer_name=issuer.name,
        session="",
        issued_at=int(issued_at),
        expires_at=expires_at,
        audiences=audiences,
        scopes=frozenset(),
        roles=rules.roles,
        leeway=issuer.leeway,
    )


def _subject(claims: Claims, issuer: Issuer, rules: Asap) -> str:
    """Without `sub` the service itself."""
    subject = text_of(claims.get("sub", issuer.issuer), "sub")
    if subject != issuer.issuer and not rules.other_subjects:
        raise invalid("subject_refused", "sub must be the iss of the token, or missing: it may act for itself only")
    return subject


def use_of(identity: Identity) -> str:
    """The id of the one use of a token: no other issuer, and no DPoP proof, has the same."""
    who = identity.principal
    text = f"asap {who.issuer} {who.token_id}"
    return encode_base64url(sha256(text.encode()).digest())
