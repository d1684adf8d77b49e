"""Whether two policies take and read the tokens of their issuers alike, so that what is not recorded of a token is not
asked for."""

from __future__ import annotations

from collections.abc import Sequence

from ext_authz.policy.issuers import Issuer, OwnTokens


def all_alike(issuers: Sequence[Issuer], others: Sequence[Issuer]) -> bool:
    """No token is taken by one and refused by the other."""
    by_name = {issuer.issuer: issuer for issuer in others}
    return len(issuers) == len(others) and all(
        issuer.issuer in by_name and _takes_alike(issuer, by_name[issuer.issuer]) for issuer in issuers
    )


def tokens_alike(one: OwnTokens | None, other: OwnTokens | None) -> bool:
    """The same API tokens are taken."""
    if one is None or other is None:
        return one is other
    issuers = (one.issuer, other.issuer)
    found = [(issuer.issuer, issuer.audiences, issuer.leeway, issuer.max_token_age) for issuer in issuers]
    return found[0] == found[1]


def _takes_alike(one: Issuer, other: Issuer) -> bool:
    found = [
        (issuer.audiences, issuer.clients, issuer.leeway, issuer.max_token_age, issuer.claims)
        for issuer in (one, other)
    ]
    kinds = [(issuer.asap, issuer.gitlab) for issuer in (one, other)]
    return reads_alike(one, other) and found[0] == found[1] and kinds[0] == kinds[1]


def _kind(issuer: Issuer) -> tuple[bool, bool]:
    return issuer.asap is not None, issuer.gitlab is not None


def reads_alike(one: Issuer, other: Issuer) -> bool:
    """What is not recorded of a token (its header, `cnf`, claims that were not kept) makes no difference."""
    found = [
        (issuer.claims.roles, issuer.claims.scopes, issuer.claims.groups, issuer.cnf, issuer.types, _kind(issuer))
        for issuer in (one, other)
    ]
    return found[0] == found[1] and one.algorithms >= other.algorithms
