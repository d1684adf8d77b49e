"""The REST interface: a grant from creation to revocation, refusals in one shape, and nothing of other people."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ext_authz.identity.api_tokens import unwrap
from tests.e2e.api.world import BOB, PATH, World, admin, alice, bob
from tests.tokens import ALICE

WANTED = {"name": "nightly", "lifetime": 86_400, "models": ["sentiment"]}


async def created(world: World, token: str, **changes: object) -> dict[str, Any]:
    answer = await world.rest("POST", "/grants", token, {**WANTED, **changes})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_grant_lives(world: World) -> None:
    answer = await world.rest("POST", "/grants", alice(), WANTED)
    issued = answer.json()
    grant, token = issued["grant"], issued["token"]
    assert (answer.status_code, answer.headers["etag"], answer.headers["cache-control"]) == (201, '"1"', "no-store")
    assert answer.headers["location"] == f"/tollgate/api/v1/grants/{grant['id']}"
    assert (grant["owner"]["subject"], grant["models"], grant["state"]) == (ALICE, ["sentiment"], "active")

    renewed = await world.rest("POST", f"/grants/{grant['id']}/renew", alice(), {"grace": 60}, if_match='"1"')
    assert (renewed.status_code, renewed.headers["etag"]) == (200, '"2"')
    assert renewed.json()["grant"]["id"] == grant["id"]
    assert renewed.json()["token"] != token
    again = await world.rest("POST", f"/grants/{grant['id']}/renew", alice(), {"grace": 60}, if_match='"1"')
    assert (again.status_code, again.json()["code"]) == (412, "conflict")

    read = (await world.rest("GET", f"/grants/{grant['id']}", alice())).json()
    assert (len(read["tokens"]), read["version"]) == (2, 2)
    revoked = await world.rest("POST", f"/grants/{grant['id']}/revoke", alice(), {"reason": "lost"})
    assert revoked.json()["state"] == "revoked"
    listed = (await world.rest("GET", "/grants?state=revoked", alice())).json()
    assert [each["id"] for each in listed["grants"]] == [grant["id"]]
    assert token not in json.dumps(listed)


async def test_the_same_request_under_one_key_makes_one_grant(world: World) -> None:
    first = await world.rest("POST", "/grants", alice(), WANTED, idempotency_key="once")
    second = await world.rest("POST", "/grants", alice(), WANTED, idempotency_key="once")
    assert first.json()["token"] == second.json()["token"]
    other = await world.rest("POST", "/grants", alice(), {**WANTED, "name": "other"}, idempotency_key="once")
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    assert (await world.rest("POST", "/grants", bob(), WANTED, idempotency_key="once")).status_code == 201


async def test_pages(world: World) -> None:
    names = [(await created(world, alice(), name=f"n{number}"))["grant"]["name"] for number in range(4)]
    found, cursor = [], ""
    while True:
        page = (await world.rest("GET", f"/grants?limit=3&cursor={cursor}", alice())).json()
        found += [grant["name"] for grant in page["grants"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert found == names[::-1]
    assert (await world.rest("GET", "/grants?cursor=invented", alice())).status_code == 400


async def test_nobody_reads_or_changes_what_is_not_theirs(world: World) -> None:
    grant = (await created(world, alice()))["grant"]["id"]
    for method, path in (
        ("GET", f"/grants/{grant}"),
        ("POST", f"/grants/{grant}/renew"),
        ("POST", f"/grants/{grant}/revoke"),
    ):
        answer = await world.rest(method, path, bob(), {} if method == "POST" else None)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert (await world.rest("GET", "/grants", bob())).json()["grants"] == []
    for path, body in (
        ("/grants?everybody=true", None),
        ("/audit", None),
        ("/revocations", None),
        ("/revocations/preview", {"kind": "user", "issuer": "demo", "value": ALICE}),
        ("/revocations", {"kind": "user", "issuer": "demo", "value": ALICE}),
        ("/revocations/lift", {"kind": "user", "issuer": "demo", "value": ALICE}),
        ("/grants/revoke-all", {"issuer": "demo", "subject": ALICE}),
    ):
        answer = await world.rest("POST" if body else "GET", path, bob(), body)
        assert answer.status_code in (403, 404), (path, answer.text)
    assert (await world.rest("GET", f"/grants/{grant}", admin())).status_code == 200
    assert (await world.rest("GET", f"/grants/{grant}", alice())).json()["state"] == "active"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"models": ["secret"]}, "models"),
        ({"models": ["*"]}, "models"),
        ({"models": ["fraud-*", "absent"]}, "models"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"scopes": ["tollgate:revocations"]}, "scopes"),
        ({"roles": ["boss"]}, "roles"),
    ],
)
async def test_nothing_is_wider_than_its_owner(world: World, changes: dict[str, object], field: str) -> None:
    answer = await world.rest("POST", "/grants", alice(), {**WANTED, **changes})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (403, "too_wide", field)


async def test_an_api_token_gives_no_more_than_it_has(world: World) -> None:
    token = (await created(world, alice(), scopes=["tollgate:tokens", "openid"]))["token"]
    wider = await world.rest("POST", "/grants", token, {**WANTED, "name": "wider", "models": ["fraud-1"]})
    assert wider.json()["code"] == "too_wide"
    scope = await world.rest("POST", "/grants", token, {**WANTED, "name": "scope", "scopes": ["profile"]})
    assert scope.json()["code"] == "too_wide"
    shorter = {"name": "open", "models": None, "lifetime": 3600}  # none may outlive the token that makes it
    open_models = await world.rest("POST", "/grants", token, {**WANTED, **shorter})
    assert open_models.json()["grant"]["models"] == ["sentiment"]


async def test_an_api_token_needs_the_scope(world: World) -> None:
    token = (await created(world, alice()))["token"]
    answer = await world.rest("GET", "/grants", token)
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_missing")
    assert 'scope="tollgate:tokens"' in answer.headers["www-authenticate"]


async def test_callers_are_verified(world: World) -> None:
    for token, code in (
        ("", "credential_missing"),
        ("x.y.z", "token_malformed"),
        (alice(aud="other"), "audience_mismatch"),
        (alice(exp=1), "token_expired"),
    ):
        answer = await world.rest("GET", "/grants", token)
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="tollgate"')
        assert answer.headers["content-type"] == "application/problem+json"


async def test_who_is_revoked_is_refused_at_the_next_request(world: World) -> None:
    of_alice = alice()
    token = (await created(world, of_alice, scopes=["tollgate:tokens"]))["token"]
    assert (await world.rest("GET", "/grants", token)).status_code == 200
    answer = await world.rest("POST", "/revocations", admin(), {"kind": "user", "issuer": "demo", "value": ALICE})
    assert (answer.status_code, answer.json()["again"]) == (201, False)
    assert (await world.rest("GET", "/grants", of_alice)).status_code == 401
    assert (await world.rest("GET", "/grants", token)).status_code == 401


async def test_revocations(world: World) -> None:
    target = {"kind": "session", "issuer": "demo", "value": "bobs-session"}
    before = (await world.rest("POST", "/revocations/preview", admin(), target)).json()
    assert before == {"tokens": 0, "last_seen_at": None, "client": "", "in_force": False}
    made = (await world.rest("POST", "/revocations", admin(), {**target, "reason": "left"})).json()
    assert (made["revocation"]["value"], made["revocation"]["reason"]) == ("bobs-session", "left")
    assert (await world.rest("POST", "/revocations/preview", admin(), target)).json()["in_force"]
    assert (await world.rest("GET", "/grants", bob())).status_code == 401
    listed = (await world.rest("GET", "/revocations?kind=session", admin())).json()
    assert [each["value"] for each in listed["revocations"]] == ["bobs-session"]
    assert (await world.rest("POST", "/revocations/lift", admin(), target)).status_code == 204
    assert (await world.rest("GET", "/grants", bob())).status_code == 200
    assert (await world.rest("POST", "/revocations/lift", admin(), target)).status_code == 404
    unknown = await world.rest("POST", "/revocations", admin(), {**target, "issuer": "other"})
    assert (unknown.status_code, unknown.json()["field"]) == (400, "issuer")


async def test_the_audit_log_has_who_did_what_from_where(world: World) -> None:
    grant = (await created(world, alice(), name="n"))["grant"]["id"]
    await world.rest("POST", f"/grants/{grant}/revoke", admin(), {"reason": "leaked"})
    entries = (await world.rest("GET", "/audit", admin())).json()["entries"]
    found = [(each["actor"], each["via"], each["action"]) for each in entries]
    assert ("alice@demo", "rest", "grant.created") in found
    assert ("carol@demo", "rest", "grant.revoked") in found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "name: Field required"),
        ({**WANTED, "lifetime": 1}, "lifetime: "),
        ({**WANTED, "lifetime": 10**12}, "lifetime: "),
        ({**WANTED, "name": "x" * 65}, "name: "),
        ({**WANTED, "name": "a\u0000b"}, "name: "),
        ({**WANTED, "modles": []}, "modles: "),
        ({**WANTED, "models": ["m"] * 101}, "models: "),
        ([], "the body: "),
    ],
)
async def test_a_wrong_request_is_one_sentence(world: World, body: object, said: str) -> None:
    answer = await world.rest("POST", "/grants", alice(), body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert answer.json()["detail"].startswith(said)


async def test_who_finds_a_leaked_token_can_end_it(world: World) -> None:
    issued = await created(world, alice())
    form = {"token": issued["token"]}
    seen = await world.http.post("/tollgate/oauth/introspect", data=form, headers={"authorization": f"Bearer {bob()}"})
    assert (seen.json()["active"], seen.json()["sub"], seen.json()["sid"]) == (True, ALICE, issued["grant"]["id"])
    assert (await world.http.post("/tollgate/oauth/introspect", data=form)).status_code == 401
    for _ in range(2):
        assert (await world.http.post("/tollgate/oauth/revoke", data=form)).status_code == 200
    seen = await world.http.post("/tollgate/oauth/introspect", data=form, headers={"authorization": f"Bearer {bob()}"})
    assert seen.json() == {"active": False}
    for data in ({"token": alice()}, {"token": "tgl_x"}, {"token": ""}):
        assert (await world.http.post("/tollgate/oauth/revoke", data=data)).status_code == 200
    assert (await world.rest("GET", "/grants", alice())).status_code == 200, (
        "no token of the identity provider ends here"
    )
    assert (await world.http.post("/tollgate/oauth/revoke", json=form)).status_code == 400


async def test_discovery_leads_to_the_keys(world: World) -> None:
    document = (await world.http.get("/tollgate/.well-known/openid-configuration")).json()
    assert document["issuer"] == "https://models.example/tollgate"
    keys = (await world.http.get(document["jwks_uri"])).json()["keys"]
    issued = await created(world, alice())
    header = unwrap(issued["token"]).partition(".")[0]
    assert json.loads(base64.urlsafe_b64decode(header + "=="))["kid"] in {key["kid"] for key in keys}
    assert all("d" not in key for key in keys)


async def test_what_is_not_served_is_a_problem_too(world: World) -> None:
    assert (await world.rest("GET", "/nothing", alice())).json()["code"] == "not_served"
    answer = await world.rest("DELETE", "/grants", alice())
    assert (answer.status_code, answer.json()["title"]) == (405, "Method not allowed")
    assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    "body", [b"{", b"", b"[" * 60_000, b'{"name": "\xff"}', b'{"lifetime": ' + b"1" * 9_000 + b"}"]
)
async def test_what_is_no_json_is_said_to_be_none(world: World, body: bytes) -> None:
    headers = {"authorization": f"Bearer {alice()}", "content-type": "application/json"}
    answer = await world.http.post(f"{PATH}/grants", content=body, headers=headers)
    found = answer.json()
    assert (answer.status_code, found["code"], found["field"]) == (400, "invalid", "")
    assert found["detail"].startswith("the body: ")


async def test_a_service_account_may_have_any_name_that_it_has_elsewhere(world: World) -> None:
    wanted = {"name": "a" * 60 + "_.-9", "group": "/team"}
    answer = await world.rest("POST", "/service-accounts", alice(groups=["/team"]), wanted)
    assert (answer.status_code, answer.json()["subject"]) == (201, f"service:{wanted['name']}")


async def test_administrators_act_for_others(world: World) -> None:
    await created(world, bob(), name="a")
    await created(world, bob(), name="b")
    whose = {"issuer": "demo", "subject": BOB, "reason": "left"}
    assert (await world.rest("POST", "/grants/revoke-all", admin(), whose)).json() == {"revoked": 2}
    listed = (await world.rest("GET", f"/grants?everybody=true&subject={BOB}", admin())).json()["grants"]
    assert {grant["state"] for grant in listed} == {"revoked"}
