"""Where a token comes from, when there is a next one, and where no secret goes."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import httpx
import pytest

from tests.fakes import FakeClock
from tests.unit.client.flows import Script, answer, form
from tollgate.client.errors import SignInFailed
from tollgate.client.sign_in import ClientCredentials, Device, Prompt, SignIn, Tokens, print_prompt

ORIGIN, ISSUER = "https://models.example", "https://id.example/realms/ml"
METADATA: dict[str, Any] = {"resource": ORIGIN, "authorization_servers": [ISSUER]}
DISCOVERED: dict[str, Any] = {
    "issuer": ISSUER,
    "token_endpoint": f"{ISSUER}/token",
    "device_authorization_endpoint": f"{ISSUER}/device",
}
JOB = ClientCredentials(client_id="job", client_secret="s%:", scope="models")
CODE: dict[str, Any] = {
    "device_code": "d",
    "user_code": "AB-CD",
    "verification_uri": f"{ISSUER}/device",
    "expires_in": 20,
}


def token(name: str = "a", **more: object) -> httpx.Response:
    return answer(access_token=name, expires_in=100, **more)


def found() -> list[httpx.Response]:
    return [answer(**METADATA), answer(**DISCOVERED)]


class World:
    def __init__(self, sign_in: SignIn | str = JOB, issuer: str = "") -> None:
        self.clock = FakeClock()
        self.tokens = Tokens(sign_in, ORIGIN, issuer, self.clock.monotonic)

    def renewed(self, *answers: httpx.Response) -> Script:
        script = Script(*answers)
        script.run(self.tokens.renewed())
        return script

    def refused(self, *answers: httpx.Response) -> str:
        with pytest.raises(SignInFailed) as failure:
            self.renewed(*answers)
        return failure.value.code


def test_client_credentials_at_the_issuer_that_the_resource_names() -> None:
    world = World()
    assert world.tokens.fresh("") == ""
    script = world.renewed(*found(), token())
    assert [str(request.url) for request in script.sent if isinstance(request, httpx.Request)] == [
        f"{ORIGIN}/.well-known/oauth-protected-resource",
        f"{ISSUER}/.well-known/openid-configuration",
        f"{ISSUER}/token",
    ]
    last = script.sent[-1]
    assert isinstance(last, httpx.Request)
    assert httpx.BasicAuth("job", "s%:")._auth_header == last.headers["authorization"]
    assert form(last) == {"grant_type": "client_credentials", "scope": "models"}


def test_a_token_is_renewed_before_it_ends_and_when_it_is_refused() -> None:
    world = World()
    world.renewed(*found(), token())
    world.clock.advance(79)
    assert (world.tokens.fresh(""), world.tokens.fresh("a")) == ("a", "")
    world.clock.advance(1)
    assert world.tokens.fresh("") == ""
    assert len(world.renewed(token("b")).sent) == 1, "the issuer is known"
    assert world.tokens.fresh("") == "b"


def test_a_long_token_is_renewed_half_a_minute_before_its_end() -> None:
    world = World()
    world.renewed(*found(), answer(access_token="a", expires_in=3600))
    world.clock.advance(3569)
    assert world.tokens.fresh("") == "a"
    world.clock.advance(1)
    assert world.tokens.fresh("") == ""


def test_a_session_is_refreshed_until_it_is_over() -> None:
    world = World()
    world.renewed(*found(), token(refresh_token="r1"))
    again = world.renewed(token("b", refresh_token="r2"))
    assert form(again.sent[0]) == {"grant_type": "refresh_token", "refresh_token": "r1"}
    over = world.renewed(answer(400, error="invalid_grant"), token("c"))
    assert [form(request)["grant_type"] for request in over.sent] == ["refresh_token", "client_credentials"]
    assert world.tokens.fresh("") == "c"
    world.renewed(token("d", refresh_token="r3"))
    assert world.refused(answer(503)) == "no_answer"
    for _ in range(2):  # an issuer may let a refresh token live on
        assert form(world.renewed(token("e")).sent[0])["refresh_token"] == "r3"


def test_no_secret_is_shown() -> None:
    assert "s%:" not in repr(JOB)
    assert "hush" not in repr(Device(client_id="cli", client_secret="hush"))


def test_a_given_token_is_used_as_it_is() -> None:
    world = World("tgl_x")
    assert (world.tokens.can_renew, world.tokens.fresh("")) == (False, "tgl_x")
    assert world.refused() == "token_refused"


def test_a_pinned_issuer_needs_no_metadata_of_the_resource() -> None:
    assert len(World(issuer=ISSUER).renewed(answer(**DISCOVERED), token()).sent) == 2


@pytest.mark.parametrize(
    ("code", "answers"),
    [
        ("no_metadata", [answer(404)]),
        ("no_metadata", [httpx.Response(200, content=b"<html>")]),
        ("no_metadata", [httpx.Response(200, content=b"[]")]),
        ("wrong_resource", [answer(**METADATA | {"resource": "https://other.example"})]),
        ("no_issuer", [answer(resource=ORIGIN)]),
        ("no_issuer", [answer(**METADATA | {"authorization_servers": [1]})]),
        ("not_private", [answer(**METADATA | {"authorization_servers": ["http://id.example"]})]),
        ("wrong_issuer", [answer(**METADATA), answer(**DISCOVERED | {"issuer": "https://other.example"})]),
        ("not_supported", [answer(**METADATA), answer(issuer=ISSUER)]),
        ("not_private", [answer(**METADATA), answer(**DISCOVERED | {"token_endpoint": "http://id.example/t"})]),
        ("invalid_client", [*found(), answer(401, error="invalid_client", error_description="no")]),
        ("invalid_client", [*found(), answer(401, error="invalid_client", error_description=1)]),
        ("no_answer", [*found(), answer(200)]),
        ("no_answer", [*found(), answer(500)]),
    ],
)
def test_what_gives_no_token(code: str, answers: list[httpx.Response]) -> None:
    assert World().refused(*answers) == code


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_this_machine_needs_no_tls(host: str) -> None:
    issuer = f"http://{host}:8081"
    World(issuer=issuer).renewed(answer(issuer=issuer, token_endpoint=f"{issuer}/token"), token())


def test_a_device_waits_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    prompts: list[Prompt] = []
    world = World(Device(client_id="cli", prompt=prompts.append))
    pending, slower = (answer(400, error=error) for error in ("authorization_pending", "slow_down"))
    script = world.renewed(*found(), answer(**CODE | {"interval": 2}), pending, slower, token())
    assert prompts == [Prompt(f"{ISSUER}/device", "AB-CD", 20.0)]
    assert script.waited == [2.0, 2.0, 7.0]
    asked, last = form(script.sent[2]), form(script.sent[-1])
    digest = hashlib.sha256(last["code_verifier"].encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    pkce = {"code_challenge": challenge, "code_challenge_method": "S256"}
    assert asked == {"scope": "openid", "client_id": "cli", **pkce}
    assert last["device_code"] == "d"
    print_prompt(prompts[0])
    assert "confirm the code AB-CD" in capsys.readouterr().err


def test_a_prompt_is_printable() -> None:
    prompts: list[Prompt] = []
    code = answer(**CODE | {"user_code": "A\x1b[2J", "verification_uri": 7})
    World(Device(client_id="cli", prompt=prompts.append)).renewed(*found(), code, token())
    assert prompts == [Prompt("", "A[2J", 20.0)]


def test_a_device_gives_up() -> None:
    world = World(Device(client_id="cli", client_secret="x", prompt=lambda _: None))
    pending = [answer(400, error="authorization_pending") for _ in range(4)]
    assert world.refused(*found(), answer(**CODE), *pending) == "expired_token"
    assert world.refused(answer(**CODE), answer(400, error="access_denied")) == "access_denied"
    assert (
        World(Device(client_id="cli")).refused(
            answer(**METADATA), answer(issuer=ISSUER, token_endpoint=f"{ISSUER}/token")
        )
        == "not_supported"
    )
