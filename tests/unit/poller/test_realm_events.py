"""What events mean; those of a real Keycloak 26.7.4, shortened."""

from __future__ import annotations

import json

import pytest

from ext_authz.poller.admin_api import Event
from ext_authz.poller.realm_events import KINDS, NOTHING, OVERLAP, USER_TYPES, Meaning, Position, meaning
from ext_authz.revocation.entry import Kind

ALICE = "67b79888-d8e2-4520-b982-0479ce7feda6"
END = (Kind.USER, ALICE)


def admin(path: str, operation: str = "UPDATE", kind: str = "USER", written: object = None, **details: str) -> Event:
    representation = json.dumps(written) if written is not None else ""
    return Event(1, "id", operation, kind, path, representation, details=dict(details))


def user(kind: str, session: str = "", **details: str) -> Event:
    return Event(1, "id", type=kind, user_id=ALICE, session_id=session, details=dict(details))


MEANINGS = [
    (admin(f"users/{ALICE}", written={"enabled": False}), Meaning("user", END, ALICE)),
    (admin(f"users/{ALICE}", written={"enabled": True}), Meaning("user", user=ALICE)),
    (admin(f"users/{ALICE}"), Meaning("user", user=ALICE)),
    (admin(f"users/{ALICE}", "DELETE"), Meaning("user", END, ALICE, deleted=True)),
    (admin(f"users/{ALICE}", "CREATE"), NOTHING),
    (admin(f"users/{ALICE}/reset-password", "ACTION"), Meaning("password", END)),
    (admin(f"users/{ALICE}/credentials/c1", "ACTION", credential_type="password"), Meaning("password", END)),
    (admin(f"users/{ALICE}/credentials/c1", "ACTION", credential_type="otp"), NOTHING),
    (admin(f"users/{ALICE}/logout", "ACTION"), Meaning("logout", END)),
    (admin(f"users/{ALICE}/consents/web", "ACTION"), Meaning("logout", END)),
    (admin(f"users/{ALICE}/execute-actions-email", "ACTION"), NOTHING),
    (admin(f"users/{ALICE}/role-mappings/clients/c1", "DELETE", "CLIENT_ROLE_MAPPING"), Meaning("roles", user=ALICE)),
    (admin(f"users/{ALICE}/role-mappings/realm", "CREATE", "REALM_ROLE_MAPPING"), Meaning("roles", user=ALICE)),
    (admin(f"users/{ALICE}/groups/g1", "DELETE", "GROUP_MEMBERSHIP"), Meaning("group", user=ALICE)),
    (admin("sessions/s1", "DELETE", "USER_SESSION"), Meaning("session", (Kind.SESSION, "s1"))),
    (admin("groups/g1/role-mappings/realm", "DELETE", "REALM_ROLE_MAPPING"), Meaning("group", everybody=True)),
    (admin("groups/g1", "DELETE", "GROUP"), Meaning("group", everybody=True)),
    (admin("groups/g1", "CREATE", "GROUP"), Meaning("group")),
    (admin("roles/whole/composites", "DELETE", "REALM_ROLE"), Meaning("roles", everybody=True)),
    (admin("roles-by-id/r1/composites", "DELETE", "REALM_ROLE"), Meaning("roles", everybody=True)),
    (admin("roles/base", "UPDATE", "REALM_ROLE"), Meaning("roles", everybody=True)),
    (admin("roles/base", "CREATE", "REALM_ROLE"), Meaning("roles")),
    (admin("clients/c1/roles/infer", "DELETE", "CLIENT_ROLE"), Meaning("roles", everybody=True)),
    (admin("clients/c1", "UPDATE", "CLIENT"), Meaning("client", client="c1")),
    (admin("clients/c1", "CREATE", "CLIENT"), NOTHING),
    (admin("clients/c1/push-revocation", "ACTION", "CLIENT"), Meaning("client", client="c1")),
    (
        admin("clients/c1", "DELETE", "CLIENT", {"clientId": "web"}),
        Meaning("client", (Kind.CLIENT, "web"), everybody=True),
    ),
    (admin("clients/c1", "DELETE", "CLIENT"), Meaning("client", everybody=True)),
    (admin("clients/c1/protocol-mappers/models/m1", "UPDATE", "PROTOCOL_MAPPER"), NOTHING),
    (admin("", "UPDATE", "REALM", {"notBefore": 1}), Meaning("realm", realm=True)),
    (admin("logout-all", "ACTION", "REALM"), Meaning("realm", realm=True)),
    (admin("push-revocation", "ACTION", "REALM"), Meaning("realm", realm=True)),
    (admin(f"users/{ALICE}", "UPDATE", "REALM"), Meaning("realm", everybody=True)),
    (admin("components/x", "UPDATE", "COMPONENT"), Meaning("realm", everybody=True)),
    (admin("user-storage/x/sync", "ACTION"), Meaning("realm", everybody=True)),
    (admin("", "UPDATE", "AUTH_FLOW"), NOTHING),
    (admin("users/", "DELETE"), NOTHING),
    (admin("sessions/s1", "UPDATE", "USER_SESSION"), NOTHING),
    (user("LOGOUT", "s1"), Meaning("session", (Kind.SESSION, "s1"))),
    (user("LOGOUT"), NOTHING),
    (user("UPDATE_PASSWORD"), Meaning("password", END)),
    (user("UPDATE_CREDENTIAL", credential_type="password"), Meaning("password", END)),
    (user("UPDATE_CREDENTIAL", credential_type="otp"), NOTHING),
    (user("REVOKE_GRANT", token_id="onrtro:t1"), Meaning("token", (Kind.TOKEN, "onrtro:t1"))),
    (user("REVOKE_GRANT", "s1", revoked_client="web"), Meaning("logout", END)),
    (user("DELETE_ACCOUNT"), Meaning("user", END, ALICE, deleted=True)),
    (user("USER_DISABLED_BY_PERMANENT_LOCKOUT"), Meaning("user", END, ALICE)),
    (user("LOGIN", "s1"), NOTHING),
]


@pytest.mark.parametrize(("event", "expected"), MEANINGS, ids=lambda each: getattr(each, "resource_path", None))
def test_meanings(event: Event, expected: Meaning) -> None:
    assert meaning(event) == expected
    assert expected.kind in KINDS


def test_only_types_that_mean_something_are_asked_for() -> None:
    assert {event.type for event, expected in MEANINGS if event.type and expected != NOTHING} == set(USER_TYPES)


@pytest.mark.parametrize("written", ["", "{", "[]", '{"enabled": "no"}', '{"enabled": null}', "null"])
def test_what_was_written_may_be_anything(written: str) -> None:
    event = Event(1, "id", "UPDATE", "USER", f"users/{ALICE}", written)
    assert meaning(event) == Meaning("user", user=ALICE)


def test_a_position_keeps_what_may_come_again() -> None:
    start = Position(OVERLAP)
    first = start.after([Event(OVERLAP + 10, "a"), Event(OVERLAP + 20, "b")])
    assert (first.time, first.last, first.since, set(first.ids)) == (OVERLAP + 20, "b", 20, {"a", "b"})
    late = first.after([Event(OVERLAP + 5, "late")])
    assert (late.time, late.last, set(late.ids)) == (OVERLAP + 20, "b", {"a", "b", "late"})
    later = late.after([Event(2 * OVERLAP + 15, "c")])
    assert (later.last, set(later.ids)) == ("c", {"b", "c"})
    assert later.after([]) == later
