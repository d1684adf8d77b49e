"""What is known of owners, as Postgres writes it."""

from __future__ import annotations

from ext_authz.identity.standing import decode_standing, owner_key


def test_a_row() -> None:
    row = b'[false,true,"al",["infer"],[],["models"],{"seats":3,"teams":["a"]},12.5,null,["/g"],0,{"old":7}]'
    found = decode_standing(row)
    assert (found.roles, found.claims) == (frozenset({"infer"}), {"seats": 3, "teams": ("a",)})
    assert (found.current_roles, found.current_groups, found.ends) == (None, frozenset({"/g"}), {"old": 7.0})
    assert owner_key("demo", "alice") == "demo:alice"
