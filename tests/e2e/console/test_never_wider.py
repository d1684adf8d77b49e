"""No form gives more than its person has: made by hand, with what no page offers."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import psycopg
import pytest

from tests.e2e.console.world import Console, Person

Visit = Callable[..., Person]
WIDER: list[dict[str, str | list[str]]] = [
    {"which_models": "some", "models": "secret-model"},
    {"which_models": "some", "models": ["sentiment", "secret-model"]},
    {"which_models": "some", "models": "*"},
    {"which_roles": "some", "roles": "tollgate-admin"},
    {"which_roles": "some", "roles": ["infer", "tollgate-admin"]},
    {"scopes": "admin"},
    {"scopes": ["openid", "tollgate:revocations admin"]},
    {"days": "91"},
]


@pytest.mark.parametrize("owner", ["herself", "an account of her group"])
def test_no_form_gives_more_than_its_person_has(
    console: Console, visit: Visit, things: dict[str, str], owner: str
) -> None:
    erin, before = visit("erin"), _grants(console)
    service, csrf = f"service:{things['name']}" if owner != "herself" else "", erin.csrf()
    for fields in WIDER:
        answer = erin.post("/tokens/new", csrf, **{"name": "wide", "days": "7", "service": service, **fields})
        assert answer.status_code in (400, 403), (fields, answer.text)
        assert "Nothing was changed" in answer.text
    assert _grants(console) == before


def test_no_form_gives_what_there_is_not(console: Console, visit: Visit) -> None:
    erin, before = visit("erin"), _grants(console)
    asked = (
        {"service": "service:nobodys"},
        {"days": "0"},
        {"days": "-1"},
        {"which_models": "some"},
        {"which_roles": "some"},
    )
    for fields in asked:
        answer = erin.post("/tokens/new", **{"name": "wide", "days": "7", **fields})
        assert answer.status_code in (400, 403, 404), fields
    assert _grants(console) == before


def test_no_form_makes_a_service_account_with_more_than_its_person_has(console: Console, visit: Visit) -> None:
    erin, name = visit("erin"), f"wide-{uuid.uuid4().hex[:6]}"
    asked = ({"group": "/nobody"}, {"group": "/"}, {"group": ""}, {"roles": "tollgate-admin"}, {"roles": "operator"})
    for fields in asked:
        answer = erin.post("/service-accounts", **{"name": name, "group": "/team-vision", **fields})
        assert answer.status_code in (400, 403), (fields, answer.text)
    with psycopg.connect(console.database_url) as connection:
        assert connection.execute("SELECT 1 FROM owners WHERE subject = %s", (f"service:{name}",)).fetchall() == []


def test_a_hand_made_renewal_gives_no_more(console: Console, visit: Visit) -> None:
    """Fields that a renewal does not have change nothing of the grant, and it lasts no longer than the longest."""
    erin, wide = visit("erin"), {"models": "cancer", "which_models": "some", "roles": "operator", "scopes": "admin"}
    grant = erin.make("narrow", which_models="some", models="sentiment")
    assert erin.post(f"/tokens/{grant}/renew", None, days="91", grace="24", **wide).status_code == 400
    assert erin.post(f"/tokens/{grant}/renew", None, days="7", grace="24", **wide).status_code == 303
    with psycopg.connect(console.database_url) as connection:
        found = connection.execute("SELECT models, roles, scopes FROM grants WHERE id = %s", (grant,)).fetchone()
    assert found == (["sentiment"], None, [])
    erin.post(f"/tokens/{grant}/revoke")


def _grants(console: Console) -> list[list[tuple[object, ...]]]:
    with psycopg.connect(console.database_url) as connection:
        return [connection.execute(query).fetchall() for query in ("TABLE grants", "TABLE tokens")]
