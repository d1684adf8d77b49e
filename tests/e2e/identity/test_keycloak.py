"""Tokens of a real Keycloak that are not plain bearer JWTs: bound to a key, lightweight, exchanged."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import jwt
import psycopg
import pytest
from psycopg import sql

from ext_authz.policy.load import load_policy
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints
from ext_authz.render.envoy import bootstrap
from ext_authz.render.tls import Tls, TlsOfAll
from tests.docs.blocks import read
from tests.dpop import Holder
from tests.e2e.identity.world import INFER, Replica, mark_of, running_replicas, secured
from tests.e2e.realm.client import Browser, RealmClient
from tests.e2e.render.world import Model, running_envoy
from tests.keycloak import RunningKeycloak, Secured
from tests.services import free_port, running_redis, wait_for
from tollgate.client import Client, Device, Prompt

pytestmark = pytest.mark.keycloak

HOLDER = Holder()
PAGE = Path(__file__).resolve().parents[3] / "docs/bound-tokens.md"


class World(NamedTuple):
    keycloak: RunningKeycloak
    realm: RealmClient
    replica: Replica
    model: Model

    @property
    def token_url(self) -> str:
        return f"{self.keycloak.issuer}/protocol/openid-connect/token"

    def login(self, client: str, user: str, holder: Holder | None = None, secret: str = "") -> dict[str, str]:
        """By password, which is the name; with a proof of the holder's key."""
        form = {"grant_type": "password", "client_id": client, "username": user, "password": user}
        form |= {"client_secret": secret} if secret else {}
        headers = {"dpop": holder.proof("POST", self.token_url)} if holder else {}
        answer = httpx.post(self.token_url, data=form, headers=headers, timeout=20)
        found: dict[str, str] = answer.raise_for_status().json()
        return found

    def call(self, token: str, proof: str = "") -> httpx.Response:
        scheme = "DPoP" if proof else "Bearer"
        return self.replica.post([("authorization", f"{scheme} {token}"), *([("dpop", proof)] if proof else [])])

    @property
    def secured(self) -> Secured:
        assert self.keycloak.secured
        return self.keycloak.secured

    @contextmanager
    def asking_for_certificates(self, directory: Path) -> Iterator[Replica]:
        """The same authorizer behind another Envoy, which knows the authority of Keycloak's clients."""
        authority, server, front = self.secured.authority, self.replica.server, Address(LOOPBACK, free_port())
        tls = Tls(str(authority.certificate), *map(str, authority.issue("envoy")))
        endpoints = Endpoints(
            listen=front, authorizer=Address(LOOPBACK, server.port), triton=self.model.place, access_log="/dev/null"
        )
        policy = load_policy(server.directory / "policy.yaml", {})
        with running_envoy(bootstrap(policy, endpoints, tls=TlsOfAll(listen=tls)), endpoints, directory):
            yield Replica(server, f"{front.host}:{front.port}")

    def proof(self, token: str) -> str:
        return HOLDER.proof("POST", f"http://{self.replica.address}{INFER}", token)


@pytest.fixture(scope="module")
def world(keycloak: RunningKeycloak, postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    database_url = postgres_server.replace("/postgres?", f"/{name}?")

    def policy(_: str, origin: str) -> str:
        return f"""
version: 1
resource: {{url: "{origin}"}}
issuers:
  - name: kc
    issuer: "{keycloak.issuer}"
    audiences: [triton-gateway]
    roles_client: triton-gateway
    cnf: verify
    introspection: {{client_id: triton-gateway, client_secret: triton-gateway-secret, lightweight: true, cache: 1s}}
models:
  "*": {{roles: [infer]}}
routes:
  - {{name: infer, operation: infer}}
"""

    with (
        running_redis(tmp_path_factory.mktemp("redis")) as redis,
        running_replicas(tmp_path_factory.mktemp("kc"), redis.url, database_url, policy, (None,), jwks_timeout=10) as (
            model,
            (replica,),
        ),
        RealmClient(keycloak.url) as realm,
    ):
        yield World(keycloak, realm, replica, model)


def code(answer: httpx.Response) -> str:
    assert answer.status_code == httpx.codes.UNAUTHORIZED, answer.text
    found: str = answer.json()["code"]
    return found


def test_a_token_that_keycloak_bound_to_a_key(world: World) -> None:
    answer = world.login("dpop-app", world.keycloak.admin.user("infer"), HOLDER)
    assert answer["token_type"] == "DPoP"
    token = answer["access_token"]
    used = world.proof(token)
    assert world.call(token, used).status_code == httpx.codes.OK
    assert code(world.call(token, used)) == "proof_replayed"
    assert code(world.call(token)) == "token_bound"


def test_a_token_that_keycloak_bound_to_a_certificate(world: World, tmp_path: Path) -> None:
    """RFC 8705."""
    admin, authority = world.keycloak.admin, world.secured.authority
    bound = {"attributes": {"tls.client.certificate.bound.access.tokens": "true"}, "clientId": "mtls-app"}
    mappers = [{**mapper, "id": None} for mapper in admin.get("/clients", clientId="dpop-app")[0]["protocolMappers"]]
    grants = {"publicClient": True, "directAccessGrantsEnabled": True}
    admin.http.post("/clients", json={**bound, **grants, "protocolMappers": mappers}).raise_for_status()
    user, caller = admin.user("infer"), authority.issue("caller")
    form = {"grant_type": "password", "client_id": "mtls-app", "username": user, "password": user}
    with (
        secured(authority.certificate, *caller) as client,
        secured(authority.certificate, *authority.issue("stranger")) as stranger,
        world.asking_for_certificates(tmp_path) as replica,
    ):
        assert httpx.post(world.token_url, data=form, timeout=20).status_code == httpx.codes.BAD_REQUEST
        url = world.token_url.replace(world.keycloak.url, world.secured.url)
        token = client.post(url, data=form, timeout=20).raise_for_status().json()["access_token"]
        assert jwt.decode(token, options={"verify_signature": False})["cnf"] == {"x5t#S256": mark_of(caller[0])}
        headers = [("authorization", f"Bearer {token}")]
        for _ in range(2):
            answer = replica.post(headers, client=client)
            assert answer.status_code == httpx.codes.OK, answer.text
            assert answer.json()["headers"]["x-user-id"] == admin.user_id(user)
            assert code(replica.post(headers, client=stranger)) == "certificate_mismatch"
            assert code(world.call(token)) == "certificate_missing"


def test_a_lightweight_token_until_its_session_ends(world: World) -> None:
    """Its roles come from the introspection endpoint, and so does its end, within `cache`."""
    user = world.keycloak.admin.user("infer")
    token = world.login("lightweight-app", user)["access_token"]
    said = jwt.decode(token, options={"verify_signature": False})
    assert {"aud", "sub", "realm_access", "resource_access"}.isdisjoint(said), "so this test shows something"
    answer = world.call(token)
    assert answer.status_code == httpx.codes.OK, answer.text
    assert answer.json()["headers"]["x-user-id"] == world.keycloak.admin.user_id(user)
    world.keycloak.admin.log_out(user)
    wait_for(lambda: world.call(token).status_code != httpx.codes.OK)
    assert code(world.call(token)) == "token_inactive"


def test_a_lightweight_token_of_a_user_without_the_role(world: World) -> None:
    token = world.login("lightweight-app", world.keycloak.admin.user())["access_token"]
    assert world.call(token).status_code == httpx.codes.FORBIDDEN


def test_an_exchanged_token_is_what_it_is(world: World) -> None:
    """The subject's own, of another client (azp). Keycloak names no actor."""
    secret = "exchange-service-secret"
    user = world.keycloak.admin.user("infer")
    subject = world.login("exchange-service", user, secret=secret)["access_token"]
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "client_id": "exchange-service",
        "subject_token": subject,
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "client_secret": secret,
    }
    exchanged = httpx.post(world.token_url, data=form, timeout=20).raise_for_status().json()["access_token"]
    assert exchanged != subject
    answer = world.call(exchanged)
    assert answer.status_code == httpx.codes.OK, answer.text
    assert answer.json()["headers"]["x-user-id"] == world.keycloak.admin.user_id(user)
    assert answer.json()["headers"]["x-client-id"] == "exchange-service"


def test_the_client_of_the_documentation(world: World, tmp_path: Path) -> None:
    """docs/bound-tokens.md: dpop.py, as a caller would run it."""
    (block,) = (block for block in read(PAGE).blocks if block.value == "dpop.py")
    (tmp_path / "dpop.py").write_text(block.text)
    environ = {"TOKEN_URL": world.token_url, "CLIENT_ID": "batch-job", "CLIENT_SECRET": "batch-job-secret"}
    environ |= {"MODEL_URL": f"http://{world.replica.address}{INFER}"}
    done = subprocess.run(
        [sys.executable, tmp_path / "dpop.py"], env=os.environ | environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("200 ")


def test_a_device_signs_in_for_a_person(keycloak: RunningKeycloak) -> None:
    """RFC 8628 with `tollgate.client`, while somebody confirms in a browser; then the session is refreshed."""
    keycloak.admin.change_client("web-app", attributes={"oauth2.device.authorization.grant.enabled": "true"})
    with RealmClient(keycloak.url) as realm:
        device = Device(client_id="web-app", prompt=lambda prompt: _confirm(Browser(realm), prompt))
        with Client("http://127.0.0.1:1", device, issuer=keycloak.issuer) as client:
            first = realm.claims(client.token(), "triton-gateway")
            assert (first["preferred_username"], first["azp"]) == ("alice", "web-app")
            client._tokens._renew_at = 0
            second = realm.claims(client.token(), "triton-gateway")
        assert first["jti"] != second["jti"]
        assert first["sid"] == second["sid"]


def _confirm(browser: Browser, prompt: Prompt) -> None:
    """As alice does: log in, and grant what the device asks for."""
    page = browser.get(prompt.address)
    for fields in ({"username": "alice", "password": "alice"}, {"accept": "Yes"}):
        page = browser.submit(_landed(browser, page), **fields)
    page = _landed(browser, page)
    assert page.status_code == 200
    assert "Device Login Successful" in page.text


def _landed(browser: Browser, page: httpx.Response) -> httpx.Response:
    while page.is_redirect:
        page = browser.get(str(page.url.join(page.headers["location"])))
    return page
