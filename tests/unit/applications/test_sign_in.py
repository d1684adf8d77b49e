"""Who may finish a sign-in, and when tokens are renewed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from msgspec.structs import replace
from starlette.requests import Request

from applications.sentiment.door import NotAnswered, SignedOut
from applications.sentiment.frame import Frame
from applications.sentiment.sessions import Session, Sessions
from applications.sentiment.sign_in import SignIn
from ext_authz.errors import Unavailable
from ext_authz.web.oidc import SessionOver, SignInRefused, Started, Tokens
from ext_authz.web.pages import Site
from tests.fakes import FakeClock

SITE = Site("https://models.example/sentiment", "https://id.example")


class Provider:
    """Signs `alice` in, and renews her tokens, or fails."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.refreshed: list[str] = []
        self.fails: Exception | None = None

    def tokens(self, *, lasts: float = 300, refresh: str = "r1") -> Tokens:
        access = jwt.encode({"exp": self._clock.now() + lasts}, "k" * 32)
        return Tokens(access, jwt.encode({"preferred_username": "alice"}, "k" * 32), refresh)

    async def begin(self, following: str) -> tuple[str, Started]:
        return "https://id.example/auth", Started("the-state", "n", "v", following, self._clock.now() + 600)

    async def redeem(self, code: str, _iss: str, _started: Started) -> tuple[Tokens, str]:
        if code != "good":
            raise SignInRefused("no")
        return self.tokens(), "alices-id"

    async def refresh(self, refresh_token: str) -> Tokens:
        self.refreshed.append(refresh_token)
        await asyncio.sleep(0)
        if self.fails:
            raise self.fails
        return replace(self.tokens(refresh=""), id_token="")

    async def signed_out_url(self, _id_token: str, after: str) -> str:
        if self.fails:
            raise self.fails
        return f"https://id.example/logout?to={after}"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def provider(clock: FakeClock) -> Provider:
    return Provider(clock)


@pytest.fixture
def sessions(clock: FakeClock) -> Sessions:
    return Sessions(clock)


@pytest.fixture
def sign_in(provider: Provider, sessions: Sessions, clock: FakeClock) -> SignIn:
    any_provider: Any = provider
    return SignIn(Frame(SITE), sessions, any_provider, clock)


def request(query: str = "", cookies: Mapping[str, str] | None = None) -> Request:
    header = "; ".join(f"{name}={value}" for name, value in (cookies or {}).items())
    headers = [(b"cookie", header.encode())] if header else []
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": headers})


def cookies_of(response: Any) -> dict[str, str]:  # noqa: ANN401 - starlette's
    found = SimpleCookie()
    for name, value in response.raw_headers:
        if name == b"set-cookie":
            found.load(value.decode())
    return {name: morsel.value for name, morsel in found.items()}


async def test_a_sign_in_from_its_beginning_to_its_end(sign_in: SignIn, sessions: Sessions) -> None:
    begun = await sign_in.login(request("page=v2"))
    held = cookies_of(begun)
    assert set(held) == {"__Host-sentiment-app.sign-in"}
    assert "the-state" not in begun.headers["set-cookie"]
    done = await sign_in.callback(request("code=good&state=the-state", held))
    assert done.headers["location"] == "/sentiment/v2/"
    assert cookies_of(done)["__Host-sentiment-app.sign-in"] == ""
    found = sessions.find(cookies_of(done)["__Host-sentiment-app"])
    assert found
    assert (found.subject, found.name) == ("alices-id", "alice")
    again = request("", cookies_of(done))
    assert sign_in.session(again) is found
    left = await sign_in.logout(again, found)
    assert urlsplit(left.headers["location"]).netloc == "id.example"
    assert sign_in.session(again) is None


async def test_a_new_sign_in_ends_the_session_before(sign_in: SignIn, sessions: Sessions) -> None:
    old = sessions.create("bob", "bob", Tokens("a"))
    held = cookies_of(await sign_in.login(request()))
    await sign_in.callback(request("code=good&state=the-state", {**held, "__Host-sentiment-app": old}))
    assert sessions.find(old) is None


@pytest.mark.parametrize("page", ["", "https://evil.example", "//evil.example", "v3"])
async def test_one_comes_back_to_a_page_of_ours(sign_in: SignIn, page: str) -> None:
    held = cookies_of(await sign_in.login(request(f"page={page}")))
    done = await sign_in.callback(request("code=good&state=the-state", held))
    assert done.headers["location"] == "/sentiment/"


@pytest.mark.parametrize("query", ["code=good&state=another", "code=good", "state=the-state&error=access_denied"])
async def test_what_this_browser_did_not_begin_is_not_finished(sign_in: SignIn, query: str) -> None:
    held = cookies_of(await sign_in.login(request()))
    with pytest.raises(NotAnswered):
        await sign_in.callback(request(query, held))
    with pytest.raises(NotAnswered, match="cannot be finished"):
        await sign_in.callback(request("code=good&state=the-state"))
    forged = {"__Host-sentiment-app.sign-in": held["__Host-sentiment-app.sign-in"][:-2] + "AA"}
    with pytest.raises(NotAnswered, match="cannot be finished"):
        await sign_in.callback(request("code=good&state=the-state", forged))


async def test_over_plain_http_nobody_signs_in(sign_in: SignIn) -> None:
    sign_in._frame = Frame(Site("http://models.example/sentiment", "https://id.example"))
    with pytest.raises(NotAnswered, match="plain http"):
        await sign_in.login(request())
    sign_in._frame = Frame(Site("http://127.0.0.1:8080/sentiment", "https://id.example"))
    assert "sentiment-app.sign-in" in cookies_of(await sign_in.login(request()))


async def test_a_token_is_renewed_once_shortly_before_its_end(
    sign_in: SignIn, provider: Provider, clock: FakeClock
) -> None:
    first = provider.tokens()
    session = Session("a", "alice", first, clock.now(), clock.now())
    assert await sign_in.token(session) == first.access_token
    clock.advance(271)
    found = await asyncio.gather(*(sign_in.token(session) for _ in range(3)))
    assert provider.refreshed == ["r1"]
    assert set(found) == {session.tokens.access_token} != {first.access_token}
    assert (session.tokens.refresh_token, session.tokens.id_token) == ("r1", first.id_token), "it sent no new ones"


async def test_while_the_identity_provider_is_away_a_token_is_used_to_its_end(
    sign_in: SignIn, provider: Provider, clock: FakeClock
) -> None:
    session = Session("a", "alice", provider.tokens(), clock.now(), clock.now())
    provider.fails = Unavailable("issuer", "gone")
    clock.advance(290)
    assert await sign_in.token(session) == session.tokens.access_token
    clock.advance(11)
    with pytest.raises(Unavailable):
        await sign_in.token(session)
    left = await sign_in.logout(request(), session)
    assert left.headers["location"] == "https://models.example/sentiment/signed-out"


@pytest.mark.parametrize("failure", [SessionOver("over"), SignInRefused("no")])
async def test_a_session_that_is_over_there_is_over_here(
    sign_in: SignIn, provider: Provider, clock: FakeClock, failure: Exception
) -> None:
    session = Session("a", "alice", provider.tokens(lasts=0), clock.now(), clock.now())
    provider.fails = failure
    with pytest.raises(SignedOut):
        await sign_in.token(session)
