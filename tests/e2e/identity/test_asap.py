"""Services that sign their own tokens with the published library, through real Envoys, two replicas and one Redis."""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import atlassian_jwt_auth
import httpx
import jwt
import psycopg
import pytest
import requests
from atlassian_jwt_auth.contrib.aiohttp import JWTAuth as AiohttpAuth
from atlassian_jwt_auth.contrib.requests import JWTAuth as RequestsAuth
from click.testing import CliRunner
from psycopg import sql

from ext_authz.cli import cli
from ext_authz.identity.key_repository import MAX_FETCHES
from tests.e2e.identity.asap_world import World, code, private, running_world, signer, status, token
from tests.e2e.identity.world import INFER
from tests.services import wait_for
from tests.tokens import AUDIENCE, EC256, RSA, RSA_NEXT, sign, to_json

SERVICE = Path(__file__).with_name("sentiment_service.py")


@pytest.fixture(scope="module")
def world(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    database_url = postgres_server.replace("/postgres?", f"/{name}?")
    with running_world(tmp_path_factory.mktemp("asap"), tmp_path_factory.mktemp("redis"), database_url) as world:
        yield world


@pytest.fixture
def kid(world: World) -> str:
    """Of a key that is published for this test alone."""
    kid = f"team/web/{uuid.uuid4()}.pem"
    world.keys.publish(kid, RSA)
    return kid


def test_the_published_client_for_requests(world: World, kid: str) -> None:
    auth = RequestsAuth(signer(kid), AUDIENCE)
    for replica in (world.one, world.other, world.one):
        answer = requests.post(f"http://{replica.address}{INFER}", json={}, auth=auth, timeout=20)
        assert answer.status_code == 200, answer.text
        headers = answer.json()["headers"]
        assert "authorization" not in headers
        who = [headers[name] for name in ("x-user-id", "x-client-id", "x-user-roles", "x-token-issuer")]
        assert who == ["team/web", "team/web", "infer", "team/web"]


@pytest.mark.filterwarnings(
    "ignore:.*(BasicAuth|'auth' parameter):DeprecationWarning"
)  # what the library is in aiohttp
async def test_the_published_client_for_aiohttp(world: World, kid: str) -> None:
    world.keys.publish(kid, EC256)
    auth = AiohttpAuth.create("team/web", kid, private(EC256), AUDIENCE, algorithm="ES256")
    assert isinstance(auth, AiohttpAuth)
    async with aiohttp.ClientSession(auth=auth) as session:
        for _ in range(3):
            async with session.post(f"http://{world.one.address}{INFER}", json={}) as answer:
                assert answer.status == 200, await answer.text()
    assert world.keys.count(kid) >= 1


def test_keys_from_a_directory_as_the_published_client_keeps_them(world: World, kid: str, tmp_path: Path) -> None:
    place = tmp_path / kid
    place.parent.mkdir(parents=True)
    place.write_text(private(RSA))
    signs = atlassian_jwt_auth.create_signer_from_file_private_key_repository("team/web", str(tmp_path))
    assert world.post(signs.generate_jwt(AUDIENCE).decode()).status_code == 200


def test_a_replay_at_another_replica(world: World, kid: str) -> None:
    used = token(kid)
    assert world.post(used).status_code == 200
    for replica in (world.one, world.other):
        assert code(world.post(used, replica)) == "token_replayed"


def test_of_two_calls_at_the_same_time_one_is_answered(world: World, kid: str) -> None:
    assert world.post(token(kid)).status_code == 200
    used = [token(kid) for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        both = [[pool.submit(world.post, each, at) for at in (world.one, world.other)] for each in used]
        answers = [sorted(call.result().status_code for call in calls) for calls in both]
    assert answers == [[200, 401]] * len(used)


def test_tokens_that_are_used_again(world: World) -> None:
    world.keys.publish("jobs/one", RSA)
    signs = signer("jobs/one", reuse_jwts=True)
    used = [signs.generate_jwt(AUDIENCE).decode() for _ in range(3)]
    assert len(set(used)) == 1, "so this test shows something"
    assert [world.post(used[0], replica).status_code for replica in (world.one, world.other, world.one)] == [200] * 3


def test_who_it_is_and_what_it_may_do_are_two_things(world: World) -> None:
    world.keys.publish("guest/one", RSA)
    answer = world.post(signer("guest/one").generate_jwt(AUDIENCE, additional_claims={"roles": ["infer"]}).decode())
    assert (answer.status_code, answer.json()["code"]) == (403, "model_forbidden")


def test_what_no_verifier_may_take(world: World, kid: str) -> None:
    assert code(world.post(token(kid, RSA_NEXT))) == "signature_invalid"
    assert code(world.post(token(kid, subject="jobs"))) == "subject_refused"
    assert code(world.post(signer(kid).generate_jwt("another").decode())) == "audience_mismatch"
    assert code(world.post(token(f"nobody/{kid}"))) == "issuer_unknown"
    long = {"exp": dt.datetime.now(dt.UTC) + dt.timedelta(seconds=3700)}
    assert code(world.post(signer(kid).generate_jwt(AUDIENCE, additional_claims=long).decode())) == "claim_invalid"


@pytest.fixture
def service(world: World) -> Iterator[str]:
    """Its address: a service that verifies for itself, and that nobody changed for the door."""
    environ = {"PORT": str(world.service_port), "ASAP_AUDIENCE": AUDIENCE, "ASAP_PUBLICKEY_REPOSITORY": world.keys.url}
    environ["SSL_CERT_FILE"] = str(world.keys.authority)
    process = subprocess.Popen([sys.executable, SERVICE], env=os.environ | environ)
    url = f"http://127.0.0.1:{world.service_port}"
    try:
        wait_for(lambda: answers(url))
        yield url
    finally:
        process.terminate()
        process.wait(20)


def answers(url: str) -> bool:
    try:
        return httpx.post(f"{url}/sentiment/predict").status_code == 401
    except httpx.TransportError:
        return False


def test_a_service_that_verifies_for_itself_runs_unchanged_behind_the_door(
    world: World, kid: str, service: str
) -> None:
    auth = RequestsAuth(signer(kid), AUDIENCE)
    behind = f"http://{world.one.address}"
    for url in (service, behind, service, behind):  # with and without the door, by the same client
        answer = requests.post(f"{url}/sentiment/predict", json={"text": "I love it"}, auth=auth, timeout=20)
        assert (answer.status_code, answer.json()) == (200, {"label": "positive", "caller": "team/web"})
    used = {"authorization": f"Bearer {token(kid)}"}
    assert world.client.post(f"{behind}/sentiment/predict", json={"text": "bad"}, headers=used).is_success
    again = world.client.post(f"{behind}/sentiment/predict", json={"text": "bad"}, headers=used)
    assert code(again) == "token_replayed"
    # Where the policy does not say so, no application gets the token.
    fresh = {"authorization": f"Bearer {token(kid)}", "x-without": "1"}
    without = world.client.post(f"{behind}/sentiment/predict", json={"text": "bad"}, headers=fresh)
    assert (without.status_code, without.json()) == (401, {"error": "DecodeError"})


def test_explaining_a_token_does_not_use_it_up(world: World, kid: str) -> None:
    signed, policy = token(kid), str(world.one.server.directory / "policy.yaml")
    command = ["policy", "explain", "POST", INFER, policy, "--jwt", "-", "--verify"]
    trust = {"TOLLGATE_JWKS_CA_FILE": str(world.keys.authority)}
    assert "2 yes identity  (team/web of web)" in CliRunner().invoke(cli, command, input=signed, env=trust).output
    assert world.post(signed).status_code == 200


FORGED = (
    *("team/web/../jobs/one", "team/web/%2e%2e/jobs/one", "team/web/..%2fone", "jobs/one", "team/web", "team/web/"),
    *("team/web/one\n", "team/web/one?x", "team/web//one", "/team/web/one", "https://127.0.0.1/team/web/one"),
    *("team/web/\uff0e\uff0e/one", "team/web/one\0", "team/web/one/two", "team/webx/one"),
)


def test_no_forged_key_id_is_ever_fetched(world: World) -> None:
    world.keys.publish("jobs/one", RSA)
    claims = jwt.decode(token("team/web/one"), options={"verify_signature": False})
    before = len(world.keys.asked)
    for forged in FORGED:
        head = {"alg": "RS256", "typ": "JWT", "kid": forged}
        assert code(world.post(sign(to_json(head), to_json(claims)))) == "key_not_owned"
    assert [path for path in world.keys.asked[before:] if not path.startswith("/asap/team/web/")] == []


def test_thousands_of_invented_keys(world: World) -> None:
    """They cause so many fetches and no more, hold up no key that is known, and are answered 401 or, unasked, 503."""
    world.keys.publish("guest/one", RSA)
    assert status(world.one.server.check(token("guest/one"))) == 403
    claims = jwt.decode(token("guest/one"), options={"verify_signature": False})

    def invented(number: int) -> int:
        head = {"alg": "RS256", "typ": "JWT", "kid": f"guest/{number}"}
        return status(world.one.server.check(sign(to_json(head), to_json(claims))))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(invented, range(1000)))
    assert set(found) == {401, 503}
    fetched = {path for path in world.keys.asked if re.fullmatch("/asap/guest/[0-9]+", path)}
    assert 0 < found.count(401) <= len(fetched) <= MAX_FETCHES  # one that comes too late is a 503
    assert status(world.one.server.check(token("guest/one"))) == 403


def test_first_uses_at_the_same_time_share_a_fetch(world: World, kid: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda each: status(world.one.server.check(each)), [token(kid) for _ in range(32)]))
    assert found == [200] * 32
    # One for all of them; then, on a slow machine, those that are due every second.
    assert world.keys.count(kid) < 16


def test_a_key_that_is_withdrawn(world: World, kid: str) -> None:
    assert world.post(token(kid)).status_code == 200
    del world.keys.keys[kid]
    wait_for(lambda: world.post(token(kid)).status_code != 200)
    assert code(world.post(token(kid))) == "key_unknown"
    world.keys.publish(kid, RSA)
    wait_for(lambda: world.post(token(kid)).status_code == 200)


def test_while_the_repository_is_away(world: World) -> None:
    world.keys.publish("brief/one", RSA)
    assert world.post(token("brief/one")).status_code == 200
    world.keys.status = 503
    try:
        wait_for(lambda: world.post(token("brief/one")).status_code != 200)
        answer = world.post(token("brief/one"))
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    finally:
        world.keys.status = 200
    wait_for(lambda: world.post(token("brief/one")).status_code == 200)


def test_without_redis_no_token_is_believed(world: World, kid: str) -> None:
    """Whatever the failure mode: here tokens that may be used again pass."""
    world.keys.publish("jobs/one", RSA)
    world.redis.kill()
    try:
        assert world.post(token("jobs/one")).status_code == 200
        answer = world.post(token(kid))
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    finally:
        world.redis.start()
    wait_for(lambda: world.post(token(kid)).status_code == 200)
