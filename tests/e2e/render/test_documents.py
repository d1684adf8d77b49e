"""Without a token: what the models are and how to get a token (RFC 9728); and calls from web pages (CORS)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx
import pytest

from ext_authz.decision import Deny, Reason
from ext_authz.policy.model import Cors, Resource
from tests.e2e.render.world import RENDERERS, World, running_world
from tests.unit.render.policies import EVERYDAY, of_kinds

INFER = "/v2/models/cancer/infer"
METADATA = "/.well-known/oauth-protected-resource"
APP, OTHER = "https://app.example.com", "https://evil.example.com"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
POLICY = of_kinds(
    *EVERYDAY,
    resource=Resource("https://models.example.com", "Models of ACME", scopes=("models",)),
    cors=Cors((APP,), ("authorization", "content-type"), ("retry-after", "x-decision-id"), 600),
)


@pytest.fixture(scope="module", params=RENDERERS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(request.param, POLICY, tmp_path_factory.mktemp("documents")) as world:
        yield world


def test_the_metadata_of_the_resource(world: World, caller: httpx.Client) -> None:
    answer = caller.get(METADATA)
    assert answer.headers.get_list("content-type") == ["application/json"]
    assert answer.json() == {
        "resource": "https://models.example.com",
        "authorization_servers": ["https://id.example/realms/tollgate"],
        "scopes_supported": ["models"],
        "bearer_methods_supported": ["header"],
        "resource_name": "Models of ACME",
    }
    assert world.authorizer.asked == []


@pytest.mark.parametrize("accept", ["application/json", "text/html, application/json;q=0.5"])
def test_who_asks_for_json_gets_it(world: World, caller: httpx.Client, accept: str) -> None:
    answer = caller.get("/", headers={"accept": accept})
    about = answer.json()
    assert (about["name"], about["resource_metadata"]) == ("Models of ACME", f"https://models.example.com{METADATA}")
    assert "KServe v2 over REST, under /v2" in about["apis"]
    assert world.authorizer.asked == []


@pytest.mark.parametrize("headers", [{}, {"accept": "text/html"}, {"authorization": "Bearer x"}])
def test_people_get_text(world: World, caller: httpx.Client, headers: dict[str, str]) -> None:
    answer = caller.get("/", headers=headers)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith("Models of ACME\n")
    assert "  https://id.example/realms/tollgate\n" in answer.text
    assert caller.head("/", headers=headers).headers["content-length"] == answer.headers["content-length"]
    assert world.authorizer.asked == []


@pytest.mark.parametrize("path", ["/", METADATA])
def test_other_methods_are_checked(world: World, caller: httpx.Client, path: str) -> None:
    assert caller.post(path).status_code == 404
    assert [attributes.request.http.path for attributes in world.authorizer.asked] == [path]


@pytest.mark.parametrize("path", [f"{METADATA}/", f"{METADATA}/x", "/x", "/index.html", "/?x=1/../v2"])
def test_documents_open_no_other_path(world: World, caller: httpx.Client, path: str) -> None:
    caller.get(path)
    assert len(world.authorizer.asked) == (0 if path.startswith("/?") else 1)
    assert world.reached() == []


def test_a_preflight_needs_no_token(world: World, caller: httpx.Client) -> None:
    answer = caller.options(INFER, headers={**PREFLIGHT, "origin": APP})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type"
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST"
    assert answer.headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in answer.headers
    assert world.authorizer.asked == world.reached() == []


def test_a_page_reads_refusals(world: World, caller: httpx.Client) -> None:
    world.authorizer.fails = Deny(str(uuid.uuid4()), Reason.NO_CREDENTIAL, "credential_missing", "send a token")
    answer = caller.post(INFER, json={}, headers={"origin": APP})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, APP)
    assert answer.headers["access-control-expose-headers"] == "retry-after, x-decision-id"
    own = caller.get("/.tollgate/quota", headers={"origin": APP})
    assert (own.status_code, own.headers["access-control-allow-origin"]) == (401, APP)


def test_a_page_reads_what_envoy_and_the_model_answer(world: World, caller: httpx.Client) -> None:
    for body, status in ((b"{}", 200), (b"x" * 9_000_000, 413)):
        answer = caller.post(INFER, content=body, headers={"origin": APP})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] in (APP, "*")
    assert "origin" in caller.post(INFER, json={}).headers["vary"]
    assert caller.get(METADATA, headers={"origin": APP}).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", [OTHER, "null", f"{APP}.evil.example.com", "http://app.example.com"])
def test_other_pages_read_nothing(world: World, caller: httpx.Client, origin: str) -> None:
    for answer in (
        caller.options(INFER, headers={**PREFLIGHT, "origin": origin}),
        caller.post(INFER, json={}, headers={"origin": origin}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert len(world.authorizer.asked) == 2
