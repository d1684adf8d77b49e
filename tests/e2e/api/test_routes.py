"""What each endpoint gives to whom, by the lists of routes and of methods: a new one without a line here fails.

The pages have the same in tests/e2e/console/test_security.py.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, LiteralString

import grpc
import psycopg
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from msgspec import Struct
from starlette.routing import Mount, Route

from ext_authz.api.grpc_services import REVOCATIONS, TOKENS
from ext_authz.api.rest import PROGRAMS
from ext_authz.billing.formats import FORMATS
from ext_authz.console.process import Console
from ext_authz.gen.tollgate.revocation.v1 import revocation_pb2
from tests.e2e.api.test_grpc import called, days
from tests.e2e.api.world import ADMIN, BOB, PATH, World, admin, alice, bob
from tests.e2e.billing.world import pay
from tests.tokens import ALICE

HIDDEN, FORBIDDEN = (404, "NOT_FOUND"), (403, "PERMISSION_DENIED")
OWN = (200, "OK")
"""It is about the caller's own things, and tells nothing of others."""


class Held(Struct, frozen=True):
    """Somebody, and what they have."""

    token: str
    subject: str
    group: str
    name: str
    """Of the grant, and of the service account."""
    grant: str
    of_service: str
    """A grant of the service account."""
    processor: str
    """A private entry of the catalogue."""
    run: str
    """Of the processor."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody else may read anywhere."""
        return self.subject, self.name, self.grant, self.of_service, self.group, self.processor, self.run


class Try(Struct, frozen=True):
    """One request about somebody else's things."""

    expected: tuple[int, str]
    path: Callable[[Held], Mapping[str, str]] = lambda _: {}
    """Parameters in the path, or in the query."""
    body: Callable[[Held], object] | None = None


def _revocation(held: Held) -> dict[str, str]:
    return {"kind": "user", "issuer": "demo", "value": held.subject}


def _of(model: str, **query: str) -> Callable[[Held], Mapping[str, str]]:
    return lambda _: {"model": model, **query}


def _bill(held: Held, **parameters: str) -> dict[str, str]:
    """The account is called as the group."""
    return {"account": held.group.strip("/"), **parameters}


def _entry(held: Held, **parameters: str) -> dict[str, str]:
    return {"collection": "processor", "id": held.processor, **parameters}


def _version(held: Held) -> dict[str, str]:
    return _entry(held, version="1.0")


def _published(held: Held) -> dict[str, Any]:
    return {"collection": "processor", "name": held.name, "version": "1.0", "accept_terms": "1"}


def _of_model(model: str, held: Held) -> dict[str, Any]:
    return _published(held) | {"collection": "ai-model", "name": model, "version": "1"}


def _model_entry(model: str, _: Held) -> dict[str, str]:
    return {"collection": "ai-model", "id": model}


def _run(held: Held) -> dict[str, str]:
    return {"run": held.run}


ENTRY = "/catalogue/entries/{collection}/{id}"
MODELS = ("sentiment", "secret", "unknown")
"""One that has predictions, which are none of theirs, one that has none, and one that does not exist."""
GRANT = {"name": "mine-now", "lifetime": 86_400}
REST: Mapping[str, list[Try]] = {
    "GET /choices": [Try(HIDDEN, lambda held: {"service": f"service:{held.name}"}), Try(OWN)],
    "GET /grants": [
        Try(OWN),
        Try(OWN, lambda held: {"text": held.grant}),
        Try(FORBIDDEN, lambda _: {"everybody": "true"}),
        Try(HIDDEN, lambda held: {"subject": held.subject}),
        Try(HIDDEN, lambda held: {"issuer": "demo", "subject": f"service:{held.name}"}),
    ],
    "POST /grants": [Try(HIDDEN, body=lambda held: {**GRANT, "service": f"service:{held.name}"})],
    "GET /grants/{grant}": [
        Try(HIDDEN, lambda held: {"grant": held.grant}),
        Try(HIDDEN, lambda held: {"grant": held.of_service}),
    ],
    "POST /grants/{grant}/renew": [
        Try(HIDDEN, lambda held: {"grant": held.grant}, lambda _: {}),
        Try(HIDDEN, lambda held: {"grant": held.of_service}, lambda _: {"grace": 60}),
    ],
    "POST /grants/{grant}/revoke": [
        Try(HIDDEN, lambda held: {"grant": held.grant}, lambda _: {}),
        Try(HIDDEN, lambda held: {"grant": held.of_service}, lambda _: {"reason": "mine"}),
    ],
    "POST /grants/revoke-all": [
        Try(HIDDEN, body=lambda held: {"issuer": "demo", "subject": held.subject}),
        Try(HIDDEN, body=lambda held: {"subject": f"service:{held.name}"}),
    ],
    "GET /service-accounts": [Try(OWN)],
    "POST /service-accounts": [Try(FORBIDDEN, body=lambda held: {"name": "new", "group": held.group})],
    "GET /audit": [Try(FORBIDDEN), Try(FORBIDDEN, lambda held: {"object": f"grant:{held.grant}"})],
    "GET /revocations": [Try(FORBIDDEN), Try(FORBIDDEN, lambda held: {"user": held.subject})],
    "POST /revocations": [Try(FORBIDDEN, body=_revocation)],
    "POST /revocations/lift": [Try(FORBIDDEN, body=_revocation)],
    "POST /revocations/preview": [Try(FORBIDDEN, body=_revocation)],
    "GET /models/{model}/predictions": [Try(HIDDEN, _of(each)) for each in MODELS],
    "GET /models/{model}/predictions/export": [Try(HIDDEN, _of(each)) for each in MODELS],
    "DELETE /models/{model}/predictions": [
        *(Try(HIDDEN, _of(each)) for each in MODELS),
        *(Try(HIDDEN, _of(each, all="true")) for each in MODELS),
    ],
    "GET /billing/accounts": [Try(OWN)],
    "GET /billing/accounts/{account}/bills": [Try(HIDDEN, _bill), Try(HIDDEN, lambda _: {"account": "nobody"})],
    "GET /billing/accounts/{account}/bills/{bill}": [
        Try(HIDDEN, partial(_bill, bill=each)) for each in ("current", "1", "2026-11-01")
    ],
    "GET /billing/accounts/{account}/bills/{bill}/export": [
        Try(HIDDEN, partial(_bill, bill="current", format=each)) for each in FORMATS
    ],
    "GET /billing/accounts/{account}/bills/{bill}/lines/{line}/calls": [
        Try(HIDDEN, partial(_bill, bill="current", line="1")),
    ],
    "GET /catalogue/terms": [Try(OWN)],
    "GET /catalogue/entries": [Try(OWN), Try(FORBIDDEN, lambda _: {"everybody": "true"})],
    "POST /catalogue/entries": [Try(HIDDEN, body=partial(_of_model, each)) for each in MODELS],
    f"GET {ENTRY}": [
        Try(HIDDEN, _entry),
        *(Try(HIDDEN, partial(_model_entry, each)) for each in MODELS),
    ],
    f"PATCH {ENTRY}": [
        Try(HIDDEN, _entry, lambda _: {"visibility": "public"}),
        Try(HIDDEN, _entry, lambda _: {"group": "/team-bob"}),
    ],
    f"POST {ENTRY}/versions": [Try(HIDDEN, _entry, lambda held: {**_published(held), "version": "2.0"})],
    f"GET {ENTRY}/versions/{{version}}": [Try(HIDDEN, _version)],
    f"POST {ENTRY}/versions/{{version}}/unpublish": [Try(HIDDEN, _version)],
    f"POST {ENTRY}/versions/{{version}}/republish": [Try(HIDDEN, _version, _published)],
    f"PUT {ENTRY}/star": [Try(HIDDEN, _entry), Try(HIDDEN, lambda _: {"collection": "ai-model", "id": "unknown"})],
    f"DELETE {ENTRY}/star": [Try(HIDDEN, _entry)],
    "POST /catalogue/processors/{processor}/runs": [
        Try(HIDDEN, lambda held: {"processor": held.processor}, lambda _: {"parameters": {"size": 3}})
    ],
    "GET /catalogue/runs": [Try(OWN)],
    "GET /catalogue/runs/{run}": [Try(HIDDEN, _run)],
    "DELETE /catalogue/runs/{run}": [Try(HIDDEN, _run)],
    "GET /openapi.json": [Try(OWN)],
}


def _target(held: Held) -> dict[str, Any]:
    return {"target": revocation_pb2.Target(kind=revocation_pb2.KIND_USER, issuer="demo", value=held.subject)}


Fields = Callable[[Held], dict[str, Any]]
GRPC: Mapping[str, list[tuple[tuple[int, str], Fields]]] = {
    "GetChoices": [(HIDDEN, lambda held: {"service": f"service:{held.name}"}), (OWN, lambda _: {})],
    "CreateGrant": [
        (HIDDEN, lambda held: {"name": "mine-now", "lifetime": days(1), "service": f"service:{held.name}"}),
    ],
    "RenewGrant": [(HIDDEN, lambda held: {"id": held.grant}), (HIDDEN, lambda held: {"id": held.of_service})],
    "RevokeGrant": [(HIDDEN, lambda held: {"id": held.grant}), (HIDDEN, lambda held: {"id": held.of_service})],
    "RevokeAllGrants": [
        (HIDDEN, lambda held: {"issuer": "demo", "subject": held.subject}),
        (HIDDEN, lambda held: {"subject": f"service:{held.name}"}),
    ],
    "GetGrant": [(HIDDEN, lambda held: {"id": held.grant}), (HIDDEN, lambda held: {"id": held.of_service})],
    "ListGrants": [
        (OWN, lambda held: {"text": held.grant}),
        (FORBIDDEN, lambda _: {"everybody": True}),
        (HIDDEN, lambda held: {"subject": held.subject}),
        (HIDDEN, lambda held: {"subject": f"service:{held.name}"}),
    ],
    "ListServiceAccounts": [(OWN, lambda _: {})],
    "CreateServiceAccount": [(FORBIDDEN, lambda held: {"name": "new", "group": held.group})],
    "ListAuditEntries": [(FORBIDDEN, lambda held: {"object": f"grant:{held.grant}"})],
    "Revoke": [(FORBIDDEN, _target)],
    "Lift": [(FORBIDDEN, _target)],
    "ListRevocations": [(FORBIDDEN, lambda held: {"user": held.subject})],
    "Preview": [(FORBIDDEN, _target)],
}
CATALOGUE = {
    "GET /auth/info",
    "GET /check/{path:path}",
    "GET /stac",
    "GET /stac/api",
    "GET /stac/collections",
    "GET /stac/collections/{collection}",
    "GET /stac/collections/{collection}/items",
    "GET /stac/collections/{collection}/items/{item}",
    "GET /stac/conformance",
    "GET /stac/openapi.json",
    "GET /stac/search",
    "POST /stac/search",
}
"""Of everybody: what each may see is in tests/unit/catalogue, and of a new path it must be said there."""
OTHERS: Mapping[str, int] = {
    "GET /tollgate/healthz": 200,
    "GET /tollgate/.well-known/openid-configuration": 200,
    "GET /tollgate/.well-known/oauth-authorization-server": 200,
    "GET /tollgate/jwks": 200,
    "POST /tollgate/oauth/revoke": 400,
    "POST /tollgate/oauth/introspect": 401,
    "POST /tollgate/signals/backchannel-logout": 400,
    "POST /tollgate/signals/k_logout": 400,
    "POST /tollgate/signals/k_push_not_before": 400,
    "POST /tollgate/signals/{issuer}/k_logout": 400,
    "POST /tollgate/signals/{issuer}/k_push_not_before": 400,
    "POST /tollgate/signals/events": 401,
}
"""Paths that are neither REST nor a page, and what they answer to an empty request without a credential."""


def rest_routes(console: Console) -> set[str]:
    return mounted(console, PATH)


def mounted(console: Console, path: str) -> set[str]:
    (rest,) = (each.app for each in console.application.routes if isinstance(each, Mount) and each.path == path)
    assert isinstance(rest, FastAPI)
    return {
        f"{method} {each.path}"
        for each in iter_route_contexts(rest.routes)
        for method in (each.methods or set()) - {"HEAD"}
    }


def grpc_methods(console: Console) -> dict[str, str]:
    """With the service that has it."""
    served = {path for handler in console.grpc.handlers for path in vars(handler)["_method_handlers"]}
    return {path.rpartition("/")[2]: path.split("/")[1] for path in served}


async def _holding(world: World, of: Callable[..., str], subject: str, team: str) -> Held:
    group, name = f"/{team}", f"{team}-{uuid.uuid4().hex[:8]}"
    token = of(groups=[group])
    account = await world.rest("POST", "/service-accounts", token, {"name": name, "group": group})
    assert account.status_code == 201, account.text
    pay(world.database_url, team, subject)
    made = []
    for service in ("", f"service:{name}"):
        answer = await world.rest("POST", "/grants", token, {**GRANT, "name": name, "service": service})
        assert answer.status_code == 201, answer.text
        made.append(answer.json()["grant"]["id"])
    made += await _publishing(world, token, name)
    return Held(token, subject, group, name, *made)


async def _publishing(world: World, token: str, name: str) -> tuple[str, str]:
    """A private processor, and a run of it."""
    parameters = [{"name": "size", "type": "integer", "default": 2}]
    wanted = {"collection": "processor", "name": name, "version": "1.0", "accept_terms": "1", "parameters": parameters}
    entry = await world.rest("POST", "/catalogue/entries", token, wanted)
    assert entry.status_code == 201, entry.text
    id_ = entry.json()["id"]
    run = await world.rest("POST", f"/catalogue/processors/{id_}/runs", token, {})
    assert run.status_code == 201, run.text
    return id_, run.json()["id"]


@pytest.fixture
async def people(world: World) -> dict[str, Held]:
    return {
        "alice": await _holding(world, alice, ALICE, "team-alice"),
        "bob": await _holding(world, bob, BOB, "team-bob"),
        "admin": await _holding(world, admin, ADMIN, "team-admin"),
    }


def _state(database_url: str) -> list[object]:
    """All that callers can change."""
    tables: tuple[LiteralString, ...] = (
        "grants",
        "tokens",
        "owners",
        "revocations",
        "predictions",
        "prediction_deletions",
        "audit_log",
        "billing_accounts",
        "billing_readers",
        "invoices",
        "catalogue_state",
        "catalogue_entries",
        "catalogue_versions",
        "catalogue_revisions",
        "catalogue_stars",
        "catalogue_runs",
    )
    with psycopg.connect(database_url) as connection:
        return [connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables]


PAIRS = [("bob", "alice"), ("alice", "bob"), ("alice", "admin")]


async def _grpc(world: World, method: str, token: str, **fields: Any) -> tuple[str, str, str]:  # noqa: ANN401 - of messages
    """Status, code and answer."""
    try:
        return "OK", "", str(await called(world, method, token, **fields))
    except grpc.aio.AioRpcError as refused:
        trailers = dict(refused.trailing_metadata() or ())
        return refused.code().name, str(trailers.get("code", "")), refused.details() or ""


async def _rest(world: World, route: str, token: str, tried: Try, whose: Held) -> tuple[int, str]:
    """Status and answer."""
    method, _, path = route.partition(" ")
    given, body = dict(tried.path(whose)), tried.body(whose) if tried.body else None
    for name in re.findall(r"\{(\w+)\}", path):
        path = path.replace(f"{{{name}}}", given.pop(name))
    query = "?" + "&".join(f"{name}={value}" for name, value in given.items()) if given else ""
    answer = await world.rest(method, path + query, token, body)
    return answer.status_code, answer.text


async def test_nobody_gets_at_what_is_anothers_by_rest(
    world: World, people: dict[str, Held], database_url: str
) -> None:
    assert rest_routes(world.console) == set(REST), "say of a new route what it hides"
    before = _state(database_url)
    for caller, victim in PAIRS:
        for route, tries in REST.items():
            for tried in tries:
                status, text = await _rest(world, route, people[caller].token, tried, people[victim])
                assert status == tried.expected[0], (caller, route, text)
                assert not [each for each in people[victim].secrets if each in text], (caller, route, text)
    assert _state(database_url) == before


async def test_nobody_gets_at_what_is_anothers_by_grpc(
    world: World, people: dict[str, Held], database_url: str
) -> None:
    assert set(grpc_methods(world.console)) == set(GRPC), "say of a new method what it hides"
    before = _state(database_url)
    for caller, victim in PAIRS:
        for method, tries in GRPC.items():
            for expected, fields in tries:
                status, _, text = await _grpc(world, method, people[caller].token, **fields(people[victim]))
                assert status == expected[1], (caller, method, text)
                assert not [each for each in people[victim].secrets if each in text], (caller, method, text)
    assert _state(database_url) == before


async def test_an_administrator_gets_no_token_of_a_person(
    world: World, people: dict[str, Held], database_url: str
) -> None:
    before, victim = _state(database_url), people["alice"]
    answer = await world.rest("POST", f"/grants/{victim.grant}/renew", people["admin"].token, {})
    assert answer.status_code == 403
    assert (await _grpc(world, "RenewGrant", people["admin"].token, id=victim.grant))[0] == "PERMISSION_DENIED"
    assert _state(database_url) == before


async def test_every_endpoint_needs_a_credential(world: World, people: dict[str, Held], database_url: str) -> None:
    before, victim = _state(database_url), people["alice"]
    for route, tries in REST.items():
        if route == "GET /openapi.json":
            continue
        for tried in tries:
            status, text = await _rest(world, route, "", tried, victim)
            assert (status, "credential_missing" in text) == (401, True), route
    for method, calls in GRPC.items():
        for _, fields in calls:
            found = await _grpc(world, method, "", **fields(victim))
            assert found[:2] == ("UNAUTHENTICATED", "credential_missing"), method
    assert _state(database_url) == before


async def test_every_other_path_is_known_too(world: World, database_url: str, people: dict[str, Held]) -> None:
    assert people
    before = _state(database_url)
    routes = [each for each in world.console.application.routes if isinstance(each, Route) and not _is_page(each)]
    served = {f"{method} {each.path}" for each in routes for method in (each.methods or set()) - {"HEAD"}}
    assert served == set(OTHERS), "say of a new path what it answers to anybody"
    for name, status in OTHERS.items():
        method, _, path = name.partition(" ")
        answer = await world.http.request(method, path.format(issuer="demo"))
        assert answer.status_code == status, (name, answer.text)
    assert _state(database_url) == before


def _is_page(route: Route) -> bool:
    """Those of tests/e2e/console/test_security.py: each is a handler in a guard, or a file."""
    return not hasattr(route.endpoint, "__name__") or route.path == "/tollgate/static/{name}"


async def test_an_api_token_finds_the_models_that_it_is_limited_to(world: World, people: dict[str, Held]) -> None:
    """Without a scope, as it calls them."""
    assert mounted(world.console, PROGRAMS) == CATALOGUE, "say of a new path what it hides"
    wanted = {**GRANT, "name": "limited", "models": ["sentiment"], "scopes": ["openid"]}
    limited = (await world.rest("POST", "/grants", people["alice"].token, wanted)).json()["token"]
    for token, found in (
        (limited, ["sentiment"]),
        (people["alice"].token, ["sentiment"]),
        (people["admin"].token, ["secret", "sentiment"]),
        ("", []),
    ):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        page = (await world.http.get(f"{PROGRAMS}/stac/search?collections=ai-model", headers=headers)).json()
        assert [item["id"] for item in page["features"]] == found
    await world.rest("POST", "/grants/revoke-all", people["alice"].token, {})
    answer = await world.http.get(f"{PROGRAMS}/stac/search", headers={"authorization": f"Bearer {limited}"})
    assert answer.status_code == 401, "revoked"


async def test_an_api_token_needs_the_scope_everywhere(
    world: World, people: dict[str, Held], database_url: str
) -> None:
    """An administrator's, that has all but the one that is needed."""
    needed = {TOKENS: "tollgate:tokens", REVOCATIONS: "tollgate:revocations"}
    needed |= {part: f"tollgate:{part}" for part in ("predictions", "billing", "catalogue")}
    tokens = {}
    await world.rest("POST", "/grants/revoke-all", people["admin"].token, {})  # nobody has more than five
    for service, scope in needed.items():
        others = [each for each in needed.values() if each != scope]
        wanted = {**GRANT, "name": f"not-{scope}", "scopes": [*others, "openid", "profile"]}
        tokens[service] = (await world.rest("POST", "/grants", people["admin"].token, wanted)).json()["token"]
    before, victim = _state(database_url), people["alice"]
    for route, tries in REST.items():
        if route == "GET /openapi.json":
            continue
        (service,) = [part for part in ("predictions", "billing", "catalogue") if f"/{part}" in route] or [
            REVOCATIONS if "/revocations" in route else TOKENS
        ]
        for tried in tries:
            status, text = await _rest(world, route, tokens[service], tried, victim)
            assert (status, "permission_missing" in text, needed[service] in text) == (403, True, True), route
    for method, service in grpc_methods(world.console).items():
        for _, fields in GRPC[method]:
            found = await _grpc(world, method, tokens[service], **fields(victim))
            assert found[:2] == ("PERMISSION_DENIED", "permission_missing"), method
    assert _state(database_url) == before


async def test_introspection_needs_the_scope_too(world: World, people: dict[str, Held]) -> None:
    wanted = {**GRANT, "name": "narrow", "scopes": ["openid"]}
    token = (await world.rest("POST", "/grants", people["alice"].token, wanted)).json()["token"]
    answer = await world.http.post(
        "/tollgate/oauth/introspect", data={"token": token}, headers={"authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 403
