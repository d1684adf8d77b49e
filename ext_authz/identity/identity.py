"""A verified caller, and the causes for which a credential is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from ext_authz.decision import Principal, Reason
from ext_authz.errors import Denied
from ext_authz.policy.rights import ModelNames  # at run time, too: the console reads identities from its sessions

MAX_TEXT = 255
"""Characters of any claim that is passed on into headers, logs, Redis keys and the ledger."""

# Control characters, line and paragraph separators, and halves of surrogate pairs.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

Claim = str | int | float | bool | tuple[str, ...]


class Binding(Struct, frozen=True):
    """The keys whose possession goes with the token (RFC 7800): each that is named must be proven."""

    key: str = ""
    """`jkt`: thumbprint of the key of DPoP proofs (RFC 9449 section 6.1)."""
    certificate: str = ""
    """`x5t#S256`: thumbprint of the client certificate (RFC 8705 section 3.1)."""


class Identity(Struct, frozen=True, eq=False):
    """The claims of one verified token. Compared and hashed by object identity, so that it can key per-token caches."""

    principal: Principal
    issuer_name: str
    """The issuer's name in the policy; prefixes every revocation key."""
    session: str
    """`sid`, or empty (service accounts have none)."""
    issued_at: int
    """`iat`, whole seconds, rounded down."""
    expires_at: float
    """`exp`, seconds since the epoch, without leeway."""
    audiences: tuple[str, ...]
    scopes: frozenset[str]
    roles: frozenset[str]
    """All of them, whatever their length; `principal.roles` has those that are passed on."""
    groups: frozenset[str] = frozenset()
    claims: Mapping[str, Claim] = {}
    """The claims that the policy keeps and the token has, by their name in the policy."""
    username: str = ""
    """`preferred_username`, if any: for operators who search for a user; nothing is decided by it."""
    leeway: int = 0
    """Seconds for which it is accepted beyond `expires_at`."""
    binding: Binding | None = None
    """None: any bearer may present the token."""
    actor: tuple[str, ...] = ()
    """Who acts for the subject (`act`, RFC 8693 section 4.1), then on whose behalf that one acts, and so on."""
    grant: str = ""
    """Of an API token of our own: the id of its grant, which is its `session` too."""
    models: ModelNames | None = None
    """The only ones that the token may be used for; None: all that its owner may use."""
    owner: Identity | None = None
    """Of an API token that has less than its owner: the owner. What the token may do, the owner must be able to."""
    degraded: str = ""
    """"jwks" when the signing key is no longer trusted and the failure mode of the route grants it a grace."""

    def texts(self, claim: str) -> tuple[str, ...]:
        """The values of a kept claim as text, to compare and to count by; empty if the token lacks it."""
        value = self.claims.get(claim, ())
        return value if isinstance(value, tuple) else (_text(value),)


def _text(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_text(text: str) -> bool:
    """Whether it may be passed on: 1 to `MAX_TEXT` characters, none of which is a control character."""
    return 1 <= len(text) <= MAX_TEXT and not _UNSAFE.search(text)


def printable(text: str, longest: int = 200) -> str:
    """As it may be logged: bounded and printable."""
    return "".join(character if character.isprintable() else "?" for character in text[:longest])


def plain(names: Iterable[str]) -> tuple[str, ...]:
    """Those that may be passed on, in their order."""
    return tuple(filter(is_text, names))


class RefusedToken(Denied):
    """A token whose signature is valid and that is refused all the same, such as one that has expired."""

    def __init__(self, refusal: Denied, identity: Identity) -> None:
        """`identity`: what could be read of it, for the log and the ledger only."""
        super().__init__(refusal.reason, refusal.code, refusal.detail, nonce=refusal.nonce)
        self.identity = identity


Code = Literal[
    "token_too_large",
    "token_malformed",
    "header_refused",
    "issuer_unknown",
    "algorithm_refused",
    "token_type",
    "key_not_owned",
    "key_unknown",
    "signature_invalid",
    "claim_missing",
    "claim_invalid",
    "token_expired",
    "token_not_yet_valid",
    "audience_mismatch",
    "client_refused",
    "subject_refused",
    "token_replayed",
    "token_bound",
    "token_unbound",
    "token_lightweight",
    "token_inactive",
    "owner_unknown",
    "user_disabled",
    "proof_missing",
    "proof_repeated",
    "proof_malformed",
    "proof_algorithm",
    "proof_key",
    "proof_signature",
    "proof_mismatch",
    "proof_expired",
    "proof_replayed",
    "proof_nonce",
    "certificate_missing",
    "certificate_mismatch",
]

NOT_REMEMBERED: frozenset[Code] = frozenset(
    {
        # The same token may be valid a moment later.
        "key_unknown",
        "token_not_yet_valid",
        "owner_unknown",
        # Cheaper to find than to look up.
        "token_too_large",
        "token_malformed",
    }
)


def invalid(code: Code, detail: str) -> Denied:
    """An invalid token (RFC 6750 section 3.1, invalid_token). The caller reads `detail`: plain ASCII, no quotes."""
    return Denied(Reason.INVALID_CREDENTIAL, code, detail)
