"""The pages without a browser: whose things they are, what a form must bring, and what is refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from applications.sentiment.door import NotAnswered, Prediction, Row, SignedOut
from applications.sentiment.frame import Frame
from applications.sentiment.pages import LONGEST_TEXT, MOST_LINES, Pages
from applications.sentiment.sessions import Session, Sessions
from ext_authz.errors import Unavailable
from ext_authz.web.oidc import Tokens
from ext_authz.web.pages import Site
from tests.fakes import FakeClock

DECISION = "01a1f90a-d880-7b90-ac41-dd5d1119f28a"
SITE = Site("https://models.example/sentiment", "https://id.example")
COOKIE = "__Host-sentiment-app"
SAME = {"origin": SITE.origin}


class Parts:
    """A door that answers `positive`, and a feedback store in memory; each may fail."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.kept: dict[tuple[str, str, str, int], str] = {}
        self.fails: Exception | None = None
        self.full = False
        self.revoked: Exception | None = None

    async def ensure_accepted(self, _: str) -> None:
        if self.revoked:
            raise self.revoked

    async def first(self, _: str, texts: Sequence[str]) -> Prediction:
        if self.fails:
            raise self.fails
        self.asked.append([*texts])
        return Prediction(DECISION, "1", tuple(Row(text, "positive", 0.5) for text in texts))

    async def second(self, token: str, texts: Sequence[str]) -> Prediction:
        found = await self.first(token, texts)
        return Prediction(DECISION, "2", found.rows, second=True)

    async def put(self, issuer: str, subject: str, prediction: Prediction, row: int, given: str) -> bool:
        if self.fails:
            raise self.fails
        if not self.full:
            self.kept[issuer, subject, prediction.decision_id, row] = given
        return not self.full


class _SignIn:
    """Everybody is signed in who has the cookie."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def session(self, request: Any) -> Session | None:  # noqa: ANN401 - starlette's
        return self._sessions.find(request.cookies.get(COOKIE, ""))

    async def token(self, _: Session) -> str:
        return "t"

    login = callback = logout = None


class Person:
    """Somebody with a session of their own."""

    def __init__(self, pages: Pages, sessions: Sessions, name: str) -> None:
        self.cookies = {COOKIE: sessions.create(name, name, Tokens("a.b.c"))}
        found = sessions.find(self.cookies[COOKIE])
        assert found
        self.session = found
        self._transport = httpx.ASGITransport(pages.application())

    def get(self, path: str) -> httpx.Response:
        return self.send("GET", path)

    def post(self, path: str, headers: Mapping[str, str] = SAME, /, **fields: str) -> httpx.Response:
        """A form of this session."""
        return self.send("POST", path, data={"csrf": self.session.csrf, **fields}, headers=headers)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's
        async def sent() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self._transport, base_url=SITE.origin, cookies=self.cookies
            ) as client:
                return await client.request(method, f"/sentiment{path}", **options)

        return asyncio.run(sent())


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def sessions() -> Sessions:
    return Sessions(FakeClock())


@pytest.fixture
def pages(parts: Parts, sessions: Sessions) -> Pages:
    any_parts: Any = parts
    sign_in: Any = _SignIn(sessions)
    return Pages(Frame(SITE), sign_in, sessions, any_parts, any_parts, "https://id.example/realms/ml")


@pytest.fixture
def alice(pages: Pages, sessions: Sessions) -> Person:
    return Person(pages, sessions, "alice")


@pytest.fixture
def bob(pages: Pages, sessions: Sessions) -> Person:
    return Person(pages, sessions, "bob")


def asked(person: Person) -> str:
    """The page of a new prediction."""
    answer = person.post("/", text="I love it")
    assert answer.status_code == 303
    return str(answer.headers["location"]).removeprefix("/sentiment")


def test_a_prediction_and_what_the_person_says_of_it(alice: Person, parts: Parts) -> None:
    page = asked(alice)
    assert page == f"/predictions/{DECISION}"
    shown = alice.get(page)
    assert "It sounds positive" in shown.text
    assert DECISION in shown.text
    for label in ("negative", "neutral"):
        assert alice.post(page, row="0", label=label).status_code == 303
    [(key, given)] = parts.kept.items()
    assert (key, given) == (("https://id.example/realms/ml", "alice", DECISION, 0), "neutral")
    after = alice.get(page).text
    assert "Thank you." in after
    assert "You said: it is neutral" in after
    assert "Thank you." not in alice.get(page).text, "once"


def test_nobody_sees_or_judges_what_another_session_asked(alice: Person, bob: Person, parts: Parts) -> None:
    page = asked(alice)
    for answer in (bob.get(page), bob.post(page, row="0", label="negative")):
        assert answer.status_code == 404
        assert "I love it" not in answer.text
    assert bob.get("/predictions/none").status_code == 404
    assert parts.kept == {}


def test_several_texts_by_version_2(alice: Person, parts: Parts) -> None:
    answer = alice.post("/v2/", text="I love it\r\n\r\n  awful \r\n")
    assert parts.asked == [["I love it", "awful"]]
    shown = alice.get(answer.headers["location"].removeprefix("/sentiment")).text
    assert shown.count("Was this right?") == 2
    assert shown.count("75 %") == 4, "of each of two texts, in the meter and beside it"
    assert alice.post(f"/predictions/{DECISION}", row="1", label="negative").status_code == 303
    assert [key[3] for key in parts.kept] == [1]


@pytest.mark.parametrize(
    ("page", "text", "said"),
    [
        ("/", "", "Write something"),
        ("/", " \n ", "Write something"),
        ("/v2/", "\n\n", "Write something"),
        ("/", "x" * (LONGEST_TEXT + 1), f"at most {LONGEST_TEXT} characters"),
        ("/v2/", "\n".join("x" * (MOST_LINES + 1)), f"at most {MOST_LINES} lines"),
    ],
)
def test_what_is_no_text(alice: Person, parts: Parts, page: str, text: str, said: str) -> None:
    answer = alice.post(page, text=text)
    assert (answer.status_code, parts.asked) == (400, [])
    assert said in answer.text


@pytest.mark.parametrize("row", ["1", "-1", "x", "", "99999999999999999999"])
def test_what_is_no_row(alice: Person, parts: Parts, row: str) -> None:
    assert alice.post(asked(alice), row=row, label="negative").status_code == 400
    assert alice.post(f"/predictions/{DECISION}", row="0", label="<b>").status_code == 400
    assert parts.kept == {}


def test_a_refusal_is_above_the_form_and_the_text_is_still_in_it(alice: Person, parts: Parts) -> None:
    parts.fails = NotAnswered(429, "That was too often", "Try again in 9 seconds.", DECISION, 9)
    answer = alice.post("/", text="I <love> it")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "9")
    assert "I &lt;love&gt; it</textarea>" in answer.text
    assert f"<code>{DECISION}</code>" in answer.text


def test_when_the_door_does_not_know_the_token_the_session_ends(alice: Person, parts: Parts) -> None:
    parts.fails = SignedOut()
    answer = alice.post("/", text="a")
    assert (answer.status_code, "You are signed out" in answer.text) == (401, True)
    assert "Sign in" in alice.get("/").text


@pytest.mark.parametrize("path", ["/", "/v2/", f"/predictions/{DECISION}", "feedback"])
def test_whom_the_door_accepts_no_more_sees_nothing_and_says_nothing(alice: Person, parts: Parts, path: str) -> None:
    page = asked(alice)
    parts.revoked = SignedOut()
    answer = alice.post(page, row="0", label="neutral") if path == "feedback" else alice.get(path)
    assert (answer.status_code, "You are signed out" in answer.text, parts.kept) == (401, True, {})
    assert "I love it" not in answer.text
    parts.revoked = None
    assert alice.get(page).status_code == 401, "the session is over, whatever the door says later"


def test_while_the_door_says_nothing_nothing_is_shown(alice: Person, parts: Parts) -> None:
    page = asked(alice)
    parts.revoked = NotAnswered(503, "The models cannot be reached", "Try again in a minute.")
    answer = alice.get(page)
    assert (answer.status_code, "I love it" in answer.text) == (503, False)
    parts.revoked = None
    assert "I love it" in alice.get(page).text


def test_what_cannot_be_kept_is_said(alice: Person, parts: Parts) -> None:
    page = asked(alice)
    parts.full = True
    assert "You have said enough" in alice.post(page, row="0", label="neutral").text
    parts.fails = Unavailable("postgres", "gone")
    answer = alice.post(page, row="0", label="neutral")
    assert (answer.status_code, "could not be kept" in answer.text, "gone" in answer.text) == (503, True, False)
    parts.fails = ValueError("a secret")
    answer = alice.post(page, row="0", label="neutral")
    assert (answer.status_code, "a secret" in answer.text) == (500, False)
    assert "You said" not in alice.get(page).text


@pytest.mark.parametrize("path", ["/", "/v2/", f"/predictions/{DECISION}", "/logout"])
@pytest.mark.parametrize(
    ("headers", "csrf", "status"),
    [
        ({"origin": "https://evil.example"}, None, 403),
        ({"origin": "null"}, None, 403),
        ({"origin": SITE.origin, "sec-fetch-site": "same-site"}, None, 403),
        (SAME, "", 403),
        (SAME, "other", 403),
        (SAME | {"content-type": "text/plain"}, None, 415),
    ],
)
def test_a_form_of_elsewhere_does_nothing(
    alice: Person, parts: Parts, path: str, headers: dict[str, str], csrf: str | None, status: int
) -> None:
    asked(alice)
    parts.asked.clear()
    fields = {"text": "a", "row": "0", "label": "negative", **({} if csrf is None else {"csrf": csrf})}
    assert alice.post(path, headers, **fields).status_code == status
    assert (parts.asked, parts.kept) == ([], {})
    assert alice.session


def test_a_post_that_says_nothing_of_its_origin_does_nothing(alice: Person, parts: Parts) -> None:
    assert alice.post("/", {}, text="a").status_code == 403
    assert parts.asked == []


def test_without_a_session_there_is_a_page_to_sign_in(alice: Person) -> None:
    alice.cookies.clear()
    for path, link in (("/", "/sentiment/login"), ("/v2/", "/sentiment/login?page=v2")):
        assert f'href="{link}"' in alice.get(path).text
    assert alice.post("/", text="a").status_code == 401
    assert alice.get(f"/predictions/{DECISION}").status_code == 401


@pytest.mark.parametrize("path", ["/", "/v2/", "/nothing", "/static/sentiment.css", "/static/none", "/signed-out"])
def test_every_page_has_the_same_locks(alice: Person, path: str) -> None:
    headers = alice.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith(
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self' https://id.example"
    )
    assert "script" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert ("no-store" in headers["cache-control"]) is (path != "/static/sentiment.css")


def test_what_is_not_there(alice: Person) -> None:
    assert alice.get("/nothing").status_code == 404
    not_allowed = alice.send("PUT", "/nothing/static"), alice.send("PUT", "/v2/")
    assert [answer.status_code for answer in not_allowed] == [404, 405]
    assert "GET" in not_allowed[1].headers["allow"]
    assert alice.get("").headers["location"] == "/sentiment/"
    assert alice.get("/healthz").json() == {"alive": True}


def test_a_large_form_is_refused_before_it_is_read(alice: Person) -> None:
    assert alice.post("/", text="x" * 70_000).status_code == 413


def test_nothing_that_people_write_is_code(alice: Person) -> None:
    alice.post("/", text='<script>alert(1)</script>"')
    shown = alice.get(f"/predictions/{DECISION}").text
    assert not re.search(r"<script|alert\(1\)</script", shown)
