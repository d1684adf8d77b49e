"""What a token says about who presents it: `cnf`, the keys that go with it, and `act`, who acts for its subject."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ext_authz.identity.identity import MAX_TEXT, Binding, invalid, is_text
from ext_authz.policy.issuers import Issuer

MAX_ACTORS = 8
"""Of one chain of delegation; each is a token exchange."""

_SHA256 = re.compile("[A-Za-z0-9_-]{43}")
_METHODS = {"jkt": "key", "x5t#S256": "certificate"}
"""Members of `cnf`, to the fields of a `Binding`."""
_REMARK = ("kc-jkt-type", "DPoP")
"""Keycloak 26.7: by what `jkt` is proven. Another way than DPoP is none that we check."""
_NAMES = ("sub", "client_id", "azp")
"""What names an actor: the first that it has."""


def binding(claims: Mapping[str, object], issuer: Issuer) -> Binding | None:
    """The keys that the caller must prove to have; None where the token is a plain bearer token.

    Raises:
        Denied: bound tokens are not accepted, or it is bound in a way that cannot be verified here.
    """
    found = _binding(claims, issuer)
    # Keycloak's type of DPoP-bound tokens: one without its key would be a bearer token under another name.
    if claims["typ"] == "DPoP" and (found is None or not found.key):
        raise invalid("claim_invalid", "the token is of the type DPoP, and its claim cnf has no jkt")
    return found


def _binding(claims: Mapping[str, object], issuer: Issuer) -> Binding | None:
    if "cnf" not in claims or issuer.cnf == "ignore":
        return None
    if issuer.cnf == "refuse":
        raise invalid("token_bound", "the token is bound to a key (cnf), and such tokens are not accepted here")
    methods = claims["cnf"]
    if not isinstance(methods, dict):
        raise invalid("claim_invalid", "the claim cnf is not an object that names a key")
    methods = dict(item for item in methods.items() if item != _REMARK)
    if not methods:
        raise invalid("claim_invalid", "the claim cnf names no key")
    if not methods.keys() <= _METHODS.keys():  # RFC 7800 section 3.1 lets us ignore others; then nobody checks them
        raise invalid(
            "token_bound", "the token is bound in a way (cnf) that cannot be verified here: use jkt or x5t#S256"
        )
    return Binding(**{_METHODS[name]: _thumbprint(value, name) for name, value in methods.items()})


def _thumbprint(value: object, name: str) -> str:
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise invalid("claim_invalid", f"{name} in the claim cnf is not a SHA-256 thumbprint in base64url")
    return value


def actor(claims: Mapping[str, object]) -> tuple[str, ...]:
    """The chain of actors, the present one first (RFC 8693 section 4.1). Nothing is decided by it.

    Raises:
        Denied: one of them has no name that can be recorded: nobody could be held to account.
    """
    return tuple(_actors(claims.get("act")))


def _actors(act: object) -> Iterator[str]:
    for _ in range(MAX_ACTORS):
        if act is None:
            return
        if not isinstance(act, dict):
            raise invalid("claim_invalid", "the claim act is not an object that names an actor")
        name = next((act[key] for key in _NAMES if act.get(key) is not None), None)
        if not isinstance(name, str) or not is_text(name):
            raise invalid("claim_invalid", f"sub in the claim act must be 1 to {MAX_TEXT} printable characters")
        yield name
        act = act.get("act")
    if act is not None:
        raise invalid("claim_invalid", f"the claim act names more than {MAX_ACTORS} actors")
