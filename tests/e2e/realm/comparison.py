"""Answers of two identity providers as lines that can be compared: without what is another one each time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jwt

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RANDOM = {24: "SESSION", 43: "KEY"}
_TOKENS = ("access_token", "refresh_token", "id_token")
_MASKED = {"at_hash": "HASH", "n": "KEY", "id": "ID", "containerId": "ID", "realmId": "ID"}
_NAMES = ("name", "username", "clientId", "alg", "operationType", "type")
_LONG_AGO = 1_500_000_000


def answered(response: httpx.Response) -> Any:  # noqa: ANN401  # JSON
    """Status, challenge and body; tokens in it as header and claims."""
    challenge = response.headers.get("www-authenticate")
    body = response.json() if response.content.strip()[:1] in (b"{", b"[") else response.text[:0]
    return {"status": response.status_code, **({"challenge": challenge} if challenge else {}), "body": opened(body)}


def opened(document: Any) -> Any:  # noqa: ANN401  # JSON
    if not isinstance(document, dict):
        return document
    return {name: token(value) if name in _TOKENS else value for name, value in document.items()}


def token(text: str) -> dict[str, object]:
    """What it says, unverified: signatures are compared elsewhere."""
    claims = jwt.decode(text, options={"verify_signature": False})
    return {"header": jwt.get_unverified_header(text), "claims": claims}


def lines(document: object, base_url: str) -> set[str]:
    """One per value, as `path = value`."""
    return {f"{path} = {value}" for path, value in _flat(_plain(document, "", base_url), "")}


def _plain(value: Any, name: str, base_url: str) -> Any:  # noqa: ANN401  # JSON
    if isinstance(value, dict):
        return {_text(key, base_url): _plain(one, key, base_url) for key, one in value.items()}
    if isinstance(value, list):
        return sorted((_plain(one, name, base_url) for one in value), key=json.dumps)
    if isinstance(value, str):
        return _plain_text(value, name, base_url)
    if name.endswith("expires_in"):
        return round(value, -1)  # a second may begin in between
    return "TIME" if isinstance(value, int) and value > _LONG_AGO else value


def _plain_text(value: str, name: str, base_url: str) -> Any:  # noqa: ANN401  # JSON
    if name in _MASKED:
        return _MASKED[name]
    if name == "representation":
        return _plain(json.loads(value), "", base_url)
    return " ".join(sorted(value.split())) if name == "scope" else _text(value, base_url)


def _text(value: str, base_url: str) -> str:
    value = _UUID.sub("UUID", value.replace(base_url, "BASE"))
    value = re.sub(r"\bu[0-9a-f]{12}\b", "USER", value)
    is_random = re.fullmatch(r"[A-Za-z0-9_-]*[0-9A-Z][A-Za-z0-9_-]*", value)
    return _RANDOM.get(len(value), value) if is_random else value


def _flat(value: Any, path: str) -> Iterator[tuple[str, object]]:  # noqa: ANN401  # JSON
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from _flat(one, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for one in value:
            named = next((str(one[name]) for name in _NAMES if name in one), "") if isinstance(one, dict) else ""
            yield from _flat(one, f"{path}[{named}]")
    else:
        yield path, json.dumps(value)
