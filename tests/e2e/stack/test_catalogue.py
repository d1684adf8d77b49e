"""The catalogue through the real Envoy, read by pystac-client and on the console's page: for every user of the demo it
has exactly the models that the door lets them call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pystac
import pystac_client
import pytest
import requests
from pystac.extensions.mlm import MLMExtension
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from devstack.stack.stack import Stack
from tests.e2e.console.world import Console, Person
from tests.e2e.stack.conftest import served, token_of
from tests.stac.validation import complaints

USERS = ("alice", "carol", "dave", "erin", "grace", "heidi")
"""With and without `infer`: administrator of the console, of models, member of a group, experimenter."""


@pytest.fixture(scope="module")
def url(stack: Stack) -> str:
    return f"{stack.addresses.public_url}/tollgate/api/stac"


@pytest.fixture(scope="module")
def called(stack: Stack) -> dict[str, set[str]]:
    """By user: the models whose call is not forbidden. Their inputs are wrong, so that no model has work to do."""
    found: dict[str, set[str]] = {}
    for user in USERS:
        headers = {"authorization": f"Bearer {token_of(stack, user)}"}
        for name in served(stack):
            answer = httpx.post(f"{stack.addresses.public_url}/v2/models/{name}/infer", headers=headers, json={})
            assert answer.status_code in (400, 403, 429), answer.text
            if answer.status_code != 403:
                found.setdefault(user, set()).add(name)
    assert {"sentiment", "cancer", "digits"} <= found["alice"]
    return {user: found.get(user, set()) for user in USERS}


def catalogue(url: str, token: str = "") -> pystac_client.Client:
    return pystac_client.Client.open(url, headers={"Authorization": f"Bearer {token}"} if token else {})


@pytest.mark.parametrize("user", USERS)
def test_every_user_finds_what_they_may_call(stack: Stack, url: str, called: dict[str, set[str]], user: str) -> None:
    client = catalogue(url, token_of(stack, user))
    search = client.search(limit=2)
    assert {item.id for item in search.items()} == called[user]
    assert search.matched() == len(called[user])
    assert {item.id for collection in client.get_collections() for item in collection.get_items()} == called[user]
    assert client.search(method="GET", ids=["sentiment"], limit=1).matched() == len(called[user] & {"sentiment"})


def test_without_a_token_there_is_nothing_and_a_wrong_one_is_refused(url: str) -> None:
    client = catalogue(url)
    assert [collection.id for collection in client.get_collections()] == ["ai-model", "dataset", "processor"]
    assert client.search().matched() == 0
    with pytest.raises(APIError, match="token_malformed"):
        catalogue(url, "nothing").search().matched()


def test_a_foreign_client_reads_what_a_model_takes(stack: Stack, url: str) -> None:
    client = catalogue(url, token_of(stack, "alice"))
    (item,) = client.search(ids=["cancer"], sortby="-datetime", datetime="2020-01-01T00:00:00Z/..").items()
    assert (item.id, item.geometry, item.properties["license"]) == ("cancer", None, "Apache-2.0")
    (taken,) = MLMExtension.ext(item).input
    assert (taken.name, taken.input.shape) == ("features", [-1, 30])
    assert complaints(item.to_dict()) == []
    assert next(iter(item.get_links("derived_from"))).href.startswith("https://doi.org/")
    found = httpx.get(f"{url}/search?q=tumour,nothing", headers={"authorization": f"Bearer {token_of(stack, 'alice')}"})
    assert [each["id"] for each in found.json()["features"]] == ["cancer"]
    answer = httpx.get(item.assets["model"].href, headers={"authorization": f"Bearer {token_of(stack, 'alice')}"})
    assert answer.json()["inputs"][0]["name"] == taken.name, "as its server says"


def test_clients_of_sharinghub_get_answers(stack: Stack, called: dict[str, set[str]]) -> None:
    """Asked as mlflow-sharinghub asks, and as EOEPCA's example reads an item: with a header of GitLab's."""
    base = f"{stack.addresses.public_url}/tollgate/api"
    for user, level in (("alice", 2), ("carol", 0)):
        headers = {"X-Gitlab-Token": token_of(stack, user)}
        answer = requests.get(f"{base}/check/sentiment?info=true", headers=headers, timeout=30)
        assert (answer.json().get("access_level", 0), answer.ok) == (level, bool(level))
        reader = StacApiIO(headers=headers)
        if level:
            item = pystac.Item.from_file(f"{base}/stac/collections/ai-model/items/sentiment", stac_io=reader)
            assert "sentiment" in called[user] & {item.id}
        else:
            with pytest.raises(APIError):
                pystac.Item.from_file(f"{base}/stac/collections/ai-model/items/sentiment", stac_io=reader)


def test_the_console_has_the_same(stack: Stack, called: dict[str, set[str]]) -> None:
    for user in ("alice", "carol"):
        with signed_in(stack, user) as person:
            page = person.get("/catalogue").text
            assert {name for name in served(stack) if f'href="/tollgate/catalogue/ai-model/{name}"' in page} == called[
                user
            ]
            for name in served(stack):
                status = 200 if name in called[user] else 404
                assert person.get(f"/catalogue/ai-model/{name}").status_code == status
            searched = person.get("/catalogue?q=tumour").text
            assert ("ai-model/cancer" in searched, "ai-model/digits" in searched) == ("cancer" in called[user], False)


def signed_in(stack: Stack, user: str) -> Person:
    nowhere: Any = None
    return Person(Console(stack.addresses.public_url, nowhere, "", "", Path(), nowhere), user)


def test_web_pages_of_other_origins_may_ask_with_a_token(stack: Stack, url: str) -> None:
    asks = {
        "origin": "https://browser.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    preflight = httpx.options(f"{url}/search", headers=asks)
    assert (preflight.status_code, preflight.headers.get("access-control-allow-origin")) == (200, "*")
    for path in ("/tollgate/", "/tollgate/api/v1/grants"):
        answer = httpx.options(f"{stack.addresses.public_url}{path}", headers=asks)
        assert "access-control-allow-origin" not in answer.headers, path
