"""The page of the sentiment application, as a person with a browser uses it: signs in, asks, says that it was wrong."""

from __future__ import annotations

import re

import httpx
import psycopg

from devstack.demo.steps import Outcome, Step, Tour
from devstack.stack.applications import SENTIMENT
from ext_authz.decision import Reason

PART = SENTIMENT
_USER = "load33"
"""Whose quota no other step uses."""
_TEXT = "What a wonderful day, I love it!"
_KEPT = "SELECT given FROM sentiment_feedback WHERE decision_id = %s"


def judged(tour: Tour) -> Outcome:
    """The call is that of the person and of the application's client; all else is public in the ledger."""
    door = tour.stack.addresses.public_url
    with httpx.Client(follow_redirects=True, headers={"sec-fetch-site": "same-origin"}, timeout=30) as http:
        http.event_hooks["response"].append(lambda answer: _count(tour, str(answer.url).startswith(door)))
        login = http.get(f"{door}/sentiment/login")
        page = http.post(login.url, data={"csrf": field_of(login), "username": _USER, "password": _USER})
        asked = http.post(f"{door}/sentiment/", data={"csrf": field_of(page), "text": _TEXT})
        tour.caller.sent["sentiment-app", Reason.ALLOWED.value] += 1
        tour.caller.answered["sentiment"] += 1
        decision = asked.url.path.rpartition("/")[2]
        http.post(asked.url, data={"csrf": field_of(asked), "row": "0", "label": "neutral"})
    sounds = re.search("It sounds ([a-z]+)", asked.text)
    with psycopg.connect(tour.stack.addresses.database_url) as connection:
        kept = connection.execute(_KEPT, (decision,)).fetchone()
    said = f"{page.status_code}, signed in, {sounds[1] if sounds else 'no answer'}"
    return Outcome(f"{said}, feedback {'stored' if kept == ('neutral',) else 'missing'}", f"{door}/sentiment/")


def _count(tour: Tour, through_the_door: bool) -> None:  # noqa: FBT001 - a fact, not a switch
    tour.caller.sent["", Reason.ALLOWED.value] += through_the_door


def field_of(page: httpx.Response) -> str:
    """By which forms of a session are known."""
    found = re.search('name="csrf" value="([^"]*)"', page.text)
    return found[1] if found else ""


STEP = Step("the sentiment page, with a person's answer", "200, signed in, positive, feedback stored", judged)
