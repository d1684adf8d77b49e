"""What is known of the owner of a token beside the token, and what that leaves of it.

`owners/known.py` has the standing of every owner, as Postgres has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ext_authz.errors import Denied
from ext_authz.identity.identity import Claim, Identity, RefusedToken, invalid, plain

Changed = frozenset[str]
"""The `owner_key` of each owner who is not what they were."""


class Standing(Struct, frozen=True, array_like=True):
    """One row of the table `owners`; the fields in the order in which `owners/known.py` reads them."""

    service: bool
    """A service account, which no identity provider knows."""
    enabled: bool
    username: str
    roles: frozenset[str]
    """Of the last sign-in, as `groups`, `scopes` and `claims`; of a service account what it was given."""
    groups: frozenset[str]
    scopes: frozenset[str]
    claims: Mapping[str, Claim]
    signed_in_at: float
    """`iat` of the token of that sign-in; 0: there was none."""
    current_roles: frozenset[str] | None
    """As the identity provider said at `checked_at`, as `current_groups`; None: it was not asked, or cannot be."""
    current_groups: frozenset[str] | None
    checked_at: float
    """When it was asked; 0: never."""
    ends: Mapping[str, float]
    """By `jti`: when API tokens end before they expire, because they were replaced."""

    def now(self) -> Held:
        """By whatever is the latest: the answer of the identity provider, or a sign-in after it."""
        if self.signed_in_at > self.checked_at:
            return Held(self.roles, self.groups)
        roles = self.roles if self.current_roles is None else self.current_roles
        return Held(roles, self.groups if self.current_groups is None else self.current_groups)

    def of_tokens(self) -> Held:
        """What API tokens can have: what the last sign-in said, as far as the user still has it."""
        held = self.now()
        return Held(held.roles & self.roles, held.groups & self.groups)


class Held(Struct, frozen=True):
    """What a user has now, as far as is known."""

    roles: frozenset[str]
    groups: frozenset[str]


decode_standing = msgspec.json.Decoder(Standing).decode


def owner_key(issuer: str, subject: str) -> str:
    """`issuer`: its name in the policy, which holds no colon."""
    return f"{issuer}:{subject}"


def ensure_enabled(standing: Standing) -> None:
    """Raises Denied for a user whom the identity provider has disabled or deleted."""
    if not standing.enabled:
        raise invalid("user_disabled", "the identity provider has disabled this user: ask its administrators")


def capped(identity: Identity, standing: Standing | None) -> Identity:
    """A token of the identity provider, without the roles and groups that its user has lost since it was issued.

    A token that was issued after the provider was last asked is believed.

    Raises:
        Denied
    """
    if standing is None or standing.service:
        return identity
    ensure_enabled(standing)
    if identity.issued_at > standing.checked_at:
        return identity
    roles, groups = _left(identity.roles, standing.current_roles), _left(identity.groups, standing.current_groups)
    if (roles, groups) == (identity.roles, identity.groups):
        return identity
    return replace(
        identity, principal=replace(identity.principal, roles=plain(sorted(roles))), roles=roles, groups=groups
    )


def _left(names: frozenset[str], now: frozenset[str] | None) -> frozenset[str]:
    return names if now is None else names & now


class Owners(Protocol):
    """`owners.known.KnownOwners` in a worker."""

    def find(self, issuer: str, subject: str) -> Standing | None:
        """None: nothing is known of this owner, which is the usual case for users without API tokens.

        Raises:
            Unavailable: "postgres": it is not known who is known.
        """

    async def seek(self, issuer: str, subject: str) -> Standing | None:
        """As `find`; of an owner who is not known asks Postgres once more."""

    def listen(self, listener: Callable[[Changed], None]) -> None:
        """Call it with every change, after `find` has it."""


def judged(identity: Identity, owners: Owners) -> Identity:
    """`capped` by what is known of the user.

    Raises:
        RefusedToken
        Unavailable: "postgres": it is not known who is known.
    """
    try:
        return capped(identity, owners.find(identity.issuer_name, identity.principal.subject))
    except Denied as refusal:
        raise RefusedToken(refusal, identity) from None
