"""What is known of owners, as Postgres writes it."""

from __future__ import annotations

import pytest

from ext_authz.decision import Principal
from ext_authz.identity.identity import Identity
from ext_authz.identity.standing import Standing, capped, decode_standing, owner_key


def test_a_row() -> None:
    row = b'[false,true,"al",["infer"],[],["models"],{"seats":3,"teams":["a"]},12.5,null,["/g"],0,{"old":7}]'
    found = decode_standing(row)
    assert (found.roles, found.claims) == (frozenset({"infer"}), {"seats": 3, "teams": ("a",)})
    assert (found.current_roles, found.current_groups, found.ends) == (None, frozenset({"/g"}), {"old": 7.0})
    assert owner_key("demo", "alice") == "demo:alice"


def identity(issued_at: int = 100) -> Identity:
    return Identity(
        principal=Principal("https://kc.example", "alice", "web", ("admin", "infer"), "token-1"),
        issuer_name="demo",
        session="s1",
        issued_at=issued_at,
        expires_at=400,
        audiences=(),
        scopes=frozenset(),
        roles=frozenset({"admin", "infer"}),
        groups=frozenset({"/staff"}),
        claims={},
    )


def standing(roles: frozenset[str] | None, groups: frozenset[str] | None, signed_in_at: float = 0) -> Standing:
    everything = frozenset({"admin", "infer"}), frozenset({"/staff"})
    now = {"signed_in_at": signed_in_at, "current_roles": roles, "current_groups": groups, "checked_at": 200}
    roles_and_groups = dict(zip(("roles", "groups"), everything, strict=True))
    fields = {"service": False, "enabled": True, "username": "al", **roles_and_groups, "scopes": frozenset()}
    return Standing(**fields, **now, claims={}, ends={})  # type: ignore[arg-type]


INFER, NOBODY = frozenset({"infer"}), frozenset[str]()
CASES = [
    (INFER, NOBODY, (INFER, NOBODY)),
    (INFER, None, (INFER, frozenset({"/staff"}))),
    (None, NOBODY, (frozenset({"admin", "infer"}), NOBODY)),
    (None, None, (frozenset({"admin", "infer"}), frozenset({"/staff"}))),
]


@pytest.mark.parametrize(("roles", "groups", "left"), CASES)
def test_roles_count_where_nobody_can_be_asked_for_groups(
    roles: frozenset[str] | None, groups: frozenset[str] | None, left: tuple[frozenset[str], frozenset[str]]
) -> None:
    """And the other way round."""
    found = capped(identity(), standing(roles, groups))
    assert (found.roles, found.groups, frozenset(found.principal.roles)) == (*left, left[0])
    held = standing(roles, groups).now()
    assert (held.roles, held.groups) == left
    assert standing(roles, groups, signed_in_at=300).now().roles == {"admin", "infer"}
    assert capped(identity(issued_at=201), standing(roles, groups)).roles == {"admin", "infer"}
