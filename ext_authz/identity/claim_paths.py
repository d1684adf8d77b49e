"""What the policy says where a token has it: roles, scopes, groups, and claims that are kept."""

from __future__ import annotations

from ext_authz.identity.claim_values import Claims, is_name, text_of
from ext_authz.identity.identity import Claim, invalid
from ext_authz.policy.issuers import ClaimPath, Issuer

MAX_NUMBER = 2**63 - 1
"""Conditions count in 64 bits."""

_MISSHAPEN = object()


def names_at(claims: Claims, issuer: Issuer, paths: tuple[ClaimPath, ...], what: str) -> frozenset[str]:
    """The names in all these claims; each an array, or one string, which is a name or, of scopes, names separated by
    spaces (RFC 8693 section 4.2). Whatever their length and characters: a comparison must see all of them.

    `what`: roles, scopes or groups.

    Raises:
        Denied: they cannot be read, and the policy grants something to those who lack one.
    """
    found: list[object] = []
    for path in paths:
        value = _at(claims, path)
        if isinstance(value, str) and what == "scopes":
            value = [name for name in value.split(" ") if name]
        found += value if isinstance(value, list) else [value]
    names = frozenset(name for name in found if is_name(name))
    if what in issuer.claims.decisive and not all(name is None or is_name(name) for name in found):
        raise invalid("claim_invalid", f"the {what} in the token are not an array of names")
    return names


def kept(claims: Claims, issuer: Issuer) -> dict[str, Claim]:
    """Raises Denied for a claim that cannot be passed on."""
    found = ((name, path, _at(claims, path)) for name, path in issuer.claims.keep.items())
    return {name: _keepable(value, ".".join(path)) for name, path, value in found if value is not None}


def _at(claims: Claims, path: ClaimPath) -> object:
    """The value at this path; None where it is absent, `_MISSHAPEN` where a part of the path is not an object."""
    holder: object = claims
    for key in path:
        if not isinstance(holder, dict):
            return holder if holder is None else _MISSHAPEN
        holder = holder.get(key)
    return holder


def _keepable(value: object, name: str) -> Claim:
    """A number is compared and counted by as it is; everything else is text that is passed on."""
    if isinstance(value, bool | int | float):
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise invalid("claim_invalid", f"the claim {name} is a number out of range")
        return value
    return tuple(text_of(item, name) for item in value) if isinstance(value, list) else text_of(value, name)
