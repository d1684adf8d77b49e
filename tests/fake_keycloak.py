"""What the poller asks of Keycloak, answered from a realm in memory: for what a real one does not do on demand, such as
events out of order, malformed answers, or a clock that is wrong. That it answers as Keycloak does is for
tests/e2e/poller/test_real.py to show: the same scenarios run over both.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import count
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.http_server import running_http_server

REALM = "ml"
CLIENT = "triton-gateway"
NOT_FOUND = {
    "users": "User not found",
    "groups": "Could not find group by id",
    "group-by-path": "Group path does not exist",
    "clients": "Could not find client",
}
"""What Keycloak 26 says, by the first word of the path."""


@dataclass
class FakeUser:
    enabled: bool = True
    roles: set[str] = field(default_factory=set)
    """Of the client, in effect."""
    groups: set[str] = field(default_factory=set)
    not_before: int = 0


class FakeKeycloak:
    """A realm that tests change. Changes make no events by themselves: `happened` does."""

    def __init__(self) -> None:
        self.url = ""
        self.users: dict[str, FakeUser] = {}
        self.group_roles: dict[str, set[str]] = {}
        self.admin_events: list[dict[str, Any]] = []
        self.user_events: list[dict[str, Any]] = []
        self.ahead = 0.0
        """Seconds of its clock before ours."""
        self.statuses: dict[str, int] = {}
        """By the beginning of a path below the realm: what is answered in place of an answer."""
        self.bodies: dict[str, bytes] = {}
        """The same for a body."""
        self.asked: Counter[str] = Counter()
        """By the first word of the path; `token`: for tokens."""
        self.enabled = True
        self._numbers = count(1)

    def now(self) -> int:
        """Milliseconds."""
        return int((time.time() + self.ahead) * 1000)

    def happened(self, path: str, operation: str = "UPDATE", kind: str = "USER", **fields: object) -> dict[str, Any]:
        """An administrator's event."""
        event = {"id": f"a{next(self._numbers)}", "time": self.now(), "resourcePath": path, **fields}
        event |= {"operationType": operation, "resourceType": kind}
        self.admin_events.append(event)
        return event

    def did(self, kind: str, user: str, **fields: object) -> None:
        """A user's event."""
        number = f"u{next(self._numbers)}"
        self.user_events.append({"id": number, "time": self.now(), "type": kind, "userId": user, **fields})

    def answer(self, path: str, query: dict[str, list[str]]) -> object | None:
        """Of a path below the realm; None: 404."""
        steps = [unquote(step) for step in path.split("/")]
        match steps:
            case ["admin-events"]:
                return _page(self.admin_events, query)
            case ["events"]:
                return _page([event for event in self.user_events if event["type"] in query["type"]], query)
            case ["events", "config"]:
                return {"adminEventsEnabled": True, "eventsEnabled": True, "enabledEventTypes": ["LOGIN"]}
            case ["users", user, *rest]:
                return self._user(self.users[user], rest) if user in self.users else None
            case [""]:
                return {"realm": REALM, "enabled": self.enabled, "notBefore": 0}
        return self._group_or_client(steps)

    def _group_or_client(self, steps: list[str]) -> object | None:
        match steps:
            case ["clients"]:
                return [{"id": "c-1", "clientId": CLIENT, "secret": "not for the log"}]
            case ["clients", "c-1"]:
                return {"id": "c-1", "clientId": CLIENT, "enabled": self.enabled, "notBefore": 0}
            case ["group-by-path", *names]:
                group = "/" + "/".join(names)
                return {"id": f"g:{group}", "path": group} if group in self.group_roles else None
            case ["groups", group, "role-mappings", "clients", "c-1", "composite"]:
                return [{"name": role} for role in self.group_roles.get(group[2:], ())]
        return None

    def _user(self, user: FakeUser, rest: list[str]) -> object | None:
        match rest:
            case []:
                return {"enabled": user.enabled, "notBefore": user.not_before, "username": "x"}
            case ["groups"]:
                return [{"id": f"g:{path}", "path": path, "name": path} for path in user.groups]
            case ["role-mappings", "clients", "c-1", "composite"]:
                return [{"name": role} for role in user.roles]
        return None

    def token(self) -> dict[str, object]:
        claims = urlsafe_b64encode(json.dumps({"iat": self.now() // 1000}).encode()).rstrip(b"=").decode()
        return {"access_token": f"e30.{claims}.c2ln", "expires_in": 300}


def _page(events: list[dict[str, Any]], query: dict[str, list[str]]) -> list[dict[str, Any]]:
    since, first, most = int(query["dateFrom"][0]), int(query["first"][0]), int(query["max"][0])
    found = sorted((event for event in events if event["time"] >= since), key=lambda event: event["time"])
    return found[first : first + most]


@contextmanager
def running_fake_keycloak() -> Iterator[FakeKeycloak]:
    realm = FakeKeycloak()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionResetError):
                super().handle()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = url.path.removeprefix(f"/admin/realms/{REALM}").removeprefix("/")
            realm.asked[path.partition("/")[0]] += 1
            broken = next((key for key in (*realm.statuses, *realm.bodies) if path.startswith(key)), None)
            if broken is not None:
                self._send(realm.statuses.get(broken, 200), realm.bodies.get(broken, b"{}"))
                return
            found = realm.answer(path, parse_qs(url.query))
            missing = {"error": NOT_FOUND.get(path.partition("/")[0], "HTTP 404 Not Found")}
            self._send(404 if found is None else 200, json.dumps(missing if found is None else found).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            realm.asked["token"] += 1
            status = realm.statuses.get("token", 200)
            self._send(status, realm.bodies.get("token", json.dumps(realm.token()).encode()))

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", "http://elsewhere.example/")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with running_http_server(Handler) as port:
        realm.url = f"http://127.0.0.1:{port}"
        yield realm
