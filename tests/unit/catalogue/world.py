"""A catalogue of a few models in a directory, with callers who are verified by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import HTTPConnection

from ext_authz.api import rest_check
from ext_authz.api.callers import Callers
from ext_authz.api.rest_stac import StacInterface, stac_application
from ext_authz.catalogue.catalogue import Catalogue
from ext_authz.catalogue.repository import Repository
from ext_authz.catalogue.stac import Places
from ext_authz.decision import Principal, Reason
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.policy.model import Policy
from ext_authz.tokens.cipher import Cipher
from tests.fakes import FakeClock

BASE = "https://models.example/tollgate/api/stac"
PLACES = Places(BASE, "https://models.example", "https://models.example/tollgate/catalogue")
KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
POLICY: dict[str, Any] = {
    "version": 1,
    "issuers": [{"name": "kc", "issuer": "https://id.example", "audiences": ["g"]}],
    "models": {
        "sentiment": {"roles": ["infer"], "administer": {"role": "boss"}},
        "can*": {"roles": ["infer"]},
        "secret": {"roles": ["boss"]},
        "blind": {"roles": ["infer"], "see": {"role": "boss"}},
        "gone": {"roles": ["infer"]},
        "parted": {"roles": ["infer"], "versions": {"2": {"call": {"role": "boss"}}}},
    },
    "routes": [{"name": "infer", "operation": "infer"}],
}
CONFIG = """
backend: "python"
max_batch_size: 8
parameters { key: "framework" value { string_value: "sklearn" } }
version_policy { all { } }
input [{ name: "text" data_type: TYPE_STRING dims: [1] }]
output [{ name: "score" data_type: TYPE_FP32 dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
CARD = """---
license: Apache-2.0
keywords: [text, opinion]
tasks: [classification]
architecture: logistic regression
learning_approach: supervised
datasets: [https://data.example/reviews]
mlflow_run_id: 0123456789abcdef0123456789abcdef
---
# Sentiment of texts

Is a text glad?
"""


def identity(*roles: str, subject: str = "alice") -> Identity:
    principal = Principal("https://id.example", subject, "web", tuple(roles), "t")
    return Identity(principal, "kc", "", 1, 2.0, ("g",), frozenset(), frozenset(roles))


CALLERS: Mapping[str, Identity] = {"alice": identity("infer"), "boss": identity("infer", "boss", subject="boss")}


class ByName(Callers):
    """As the real ones, with the name as the token."""

    def __init__(self) -> None:
        """Without stores."""

    async def guarded(self, authorization: tuple[str, ...], address: str) -> Identity:
        found = CALLERS.get(authorization[0].removeprefix("Bearer ")) if len(authorization) == 1 else None
        if found is None:
            raise Denied(Reason.INVALID_CREDENTIAL, "invalid_token", "the token is not valid")
        return found

    def address(self, request: HTTPConnection) -> str:
        return ""


def model(directory: Path, name: str, *, card: str = "", config: str = CONFIG, versions: str = "1") -> Path:
    """One in the repository; `versions`: separated by blanks."""
    folder = directory / name
    for version in versions.split():
        (folder / version).mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    if card:
        (folder / "README.md").write_text(card)
    return folder


def filled(directory: Path) -> Path:
    model(directory, "sentiment", card=CARD)
    for name in ("cancer", "secret", "blind", "stranger"):
        model(directory, name)
    model(directory, "parted", versions="1 2")
    return directory


def catalogue(policy: Policy, directory: Path) -> Catalogue:
    return Catalogue(policy, Repository(directory, FakeClock()))


@asynccontextmanager
async def client(found: Catalogue) -> AsyncIterator[httpx.AsyncClient]:
    application = stac_application(StacInterface(found, ByName(), Cipher(KEY), PLACES), rest_check.router)
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://elsewhere.example") as http:
        yield http


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}
