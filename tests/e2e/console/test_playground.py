"""The playground: what it sends to the door, for whom, and what it shows of the answer."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from markupsafe import escape
from playwright.sync_api import Browser, Page, expect

from ext_authz.tokens.momentary import LIVES
from tests.e2e.console.door import DECISION, HOSTILE
from tests.e2e.console.test_pages import watched
from tests.e2e.console.world import Console, Person, browsing, sign_in

Visit = Callable[..., Person]
TEXT = "/models/sentiment/try"


def test_a_call_is_that_of_the_person_and_of_one_model(console: Console, visit: Visit) -> None:
    erin, frank = visit("erin"), visit("frank")
    for person in (erin, frank, erin):
        assert person.post(TEXT, None, in0="I love it", version="").status_code == 200
    path = "/v2/models/sentiment/infer"
    *_, first, franks, last = [came for came in console.door.came if came.path == path]
    assert first.claims["sub"] == last.claims["sub"] != franks.claims["sub"]
    assert first.claims["sid"] == last.claims["sid"], "calls of one session count as those of one token"
    assert first.claims["jti"] != last.claims["jti"]
    assert last.claims["azp"] == "tollgate:playground"
    assert last.claims["tollgate"] == {"issuer": "demo", "kind": "user", "models": ["sentiment"]}
    assert "tollgate:" not in last.claims["scope"], "it manages nothing"
    assert last.headers["host"] == console.url.removeprefix("http://"), "routes go by it"
    assert "cookie" not in last.headers, "what one person was given goes to another"
    assert last.body == {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["I love it"]}]}
    assert last.claims["exp"] - last.claims["iat"] <= LIVES + 600, "it is issued when the sign-in was"


def test_no_token_is_kept_or_shown(console: Console, visit: Visit) -> None:
    erin = visit("erin")
    before = erin.get("/tokens").text
    answer = erin.post(TEXT, None, in0="I love it", version="")
    assert "tgl_" not in answer.text
    assert erin.get("/tokens").text == before
    assert "tgl_" not in console.log.read_text()
    refused = erin.post("/tokens/new", name="playground", days="7")
    assert (refused.status_code, "choose another" in refused.text) == (400, True)


def test_a_prediction_says_all_that_is_known_of_it(visit: Visit) -> None:
    page = visit("erin").post(TEXT, None, in0="I love it", version="2").text
    for shown in (
        ">fine<",
        "0.25",
        "and 50 more",
        "2, variant canary",
        "9</strong> of 10 in user-minute",
        DECISION,
        " ms,",
    ):
        assert shown in page, shown
    assert "/v2/models/sentiment/versions/2/infer" in page
    assert "alert" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("text", "status", "shown"),
    [
        ("limited", 429, ["A limit is used up.", "Try again in 34 seconds.", "over_limit", "9</strong> of 10 in"]),
        ("wrong", 400, ["does not take this input", "is too short", "invalid_inference_request"]),
        ("away", 503, ["There is no answer now.", "the model server does not answer"]),
        ("revoked", 403, ["Your sign-in is not accepted any more.", "the token is not valid"]),
        ("nonsense", 502, ["There is no answer now."]),
        ("long", 502, ["more than 1 MB"]),
        ("strange", 502, ["There is no answer now."]),
    ],
)
def test_a_call_that_failed_says_why(visit: Visit, text: str, status: int, shown: list[str]) -> None:
    answer = visit("frank").post(TEXT, None, in0=text, version="")
    assert answer.status_code == status
    assert [each for each in shown if each not in answer.text] == []
    assert "curl -s" in answer.text, "the lines are there to find out more"
    assert f">\n{text}</textarea>" in answer.text, "what was typed is still there"
    assert answer.headers.get("retry-after") == ("34" if status == 429 else None)
    if text not in ("nonsense", "long"):
        assert f"/tollgate/refusals?id={DECISION}" in answer.text


def test_a_page_does_not_grow_with_what_a_model_answers(visit: Visit) -> None:
    """Less than 1 MB; the names of its outputs would be 80 MB of a page."""
    answer = visit("frank").post(TEXT, None, in0="wide", version="")
    assert (answer.status_code, "8 more" in answer.text) == (200, True)
    assert len(answer.content) < 2_000_000


def test_a_model_that_one_may_not_see_says_why(visit: Visit) -> None:
    erin = visit("erin")
    for name in ("nothing", "secret-model"):
        for answer in (erin.get(f"/models/{name}/try"), erin.post(f"/models/{name}/try", None, in0="x")):
            assert answer.status_code == 403
            assert "the right to see this model is missing" in answer.text
            assert "<textarea" not in answer.text
    assert erin.get("/models/photos/try").status_code == 200
    assert "There is no form for this model" in erin.get("/models/photos/try").text
    assert erin.get("/models/..%2f..%2fx/try").status_code == 404
    assert erin.get("/models/a%3Fb/try").status_code == 404


def test_what_cannot_be_sent_is_not(console: Console, visit: Visit) -> None:
    erin, before = visit("erin"), len([came for came in console.door.came if came.path.endswith("infer")])
    numbers = {"in0": ["1", "2,5", "3"], "version": ""}
    for path, fields, why in (
        ("cancer", numbers, "texture: write a number, such as 2.5"),
        ("cancer", {"in0": ["1", "2"], "version": ""}, "features takes 3 values, and there are 2"),
        ("sentiment", {"in0": "x", "version": "3"}, "choose one of the versions"),
        ("odd", {"in0": ["true", "true"], "in1": "1 x", "in2": "a\r\nb", "version": ""}, "ids 2: write a whole number"),
    ):
        answer = erin.post(f"/models/{path}/try", None, **fields)
        assert (answer.status_code, f"No call was made: {why}" in answer.text) == (400, True), answer.text
    assert len([came for came in console.door.came if came.path.endswith("infer")]) == before


def test_neither_a_model_nor_a_person_writes_into_the_page(visit: Visit) -> None:
    erin = visit("erin")
    pages = [
        erin.get("/models/hostile/try"),
        erin.post("/models/hostile/try", None, in0=HOSTILE, version=""),
        erin.post("/models/hostile/try", None, in0=HOSTILE, version=HOSTILE),
        erin.post(TEXT, None, in0="wrong", version=""),
    ]
    for page in pages:
        assert not [bad for bad in ("<script>", "<img src=x", "4444") if bad in page.text]
    assert str(escape(HOSTILE)) in pages[1].text
    assert "script-src" not in pages[1].headers["content-security-policy"]


@pytest.mark.parametrize("scripts", [True, False])
def test_a_digit_by_hand_and_by_keyboard(console: Console, browser: Browser, *, scripts: bool) -> None:
    with browsing(browser, scripts=scripts) as page:
        complaints = watched(page)
        sign_in(page, console, "erin", "/models/digits/try")
        pad, values = page.locator("canvas"), page.locator("input[name=in0]")
        expect(pad).to_be_visible(visible=scripts)
        expect(values.first).to_be_visible(visible=not scripts)
        if scripts:
            _draw(page)
            assert values.nth(27).input_value() != "0", "a cross has a middle"
            assert values.nth(7).input_value() == "0", "and no corners"
            page.get_by_role("button", name="Clear the pad").press("Enter")
            assert {values.nth(at).input_value() for at in range(64)} == {"0"}
            page.locator("summary").press("Enter")
        values.nth(26).press("Tab")
        page.keyboard.type("9")
        page.keyboard.press("Enter")
        expect(page.locator(".headline")).to_contain_text("fine")
        came = console.door.last("/v2/models/digits/infer").body["inputs"][0]["data"]
        assert (len(came), sum(came), came[27]) == (64, 9, 9)
        assert complaints == []


def _draw(page: Page) -> None:
    """A cross, upright."""
    box = page.locator("canvas").bounding_box()
    assert box
    left, top, side = box["x"], box["y"], box["width"]
    for way in (((0.5, 0.1), (0.5, 0.9)), ((0.1, 0.5), (0.9, 0.5))):
        (x, y), (to_x, to_y) = way
        page.mouse.move(left + x * side, top + y * side)
        page.mouse.down()
        page.mouse.move(left + to_x * side, top + to_y * side, steps=8)
        page.mouse.up()
