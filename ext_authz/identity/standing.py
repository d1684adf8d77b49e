"""What is known of the owner of a token beside the token, and what that leaves of it.

`owners/known.py` has the standing of every owner, as Postgres has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from ext_authz.identity.identity import Claim

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
    """As the identity provider said at `checked_at`, as `current_groups`; None: it was never asked."""
    current_groups: frozenset[str] | None
    checked_at: float
    """When it was asked; 0: never."""
    ends: Mapping[str, float]
    """By `jti`: when API tokens end before they expire, because they were replaced."""


decode_standing = msgspec.json.Decoder(Standing).decode


def owner_key(issuer: str, subject: str) -> str:
    """`issuer`: its name in the policy, which holds no colon."""
    return f"{issuer}:{subject}"


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
