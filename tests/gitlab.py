"""A small GitLab, with as much of its API v4 as rights and the catalogue need: projects and their topics, members,
files of the default branch, webhooks, discovery and keys.

That it answers as GitLab does is shown by the published client, `python-gitlab`, which changes it in the tests. GitLab
itself is not run.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx

from tests import tokens
from tests.http_server import running_http_server

ADMIN = "glpat-of-an-administrator"
APPLICATION = "2f7c9a51e0d3"
LEVELS = {"guest": 10, "reporter": 20, "developer": 30, "maintainer": 40, "owner": 50}
Json = dict[str, Any]

_PROJECT = re.compile(r"/projects/([^/]+)(?:/(members/all|members|hooks)(?:/([0-9]+))?)?")
_REPOSITORY = re.compile(r"/projects/([0-9]+)/repository/(tree|branches/main|files/([^/]+)/raw)")


class Gitlab:
    """Its state. Changes of members and projects are told to the webhooks of the project, before they are answered."""

    def __init__(self) -> None:
        self.projects: dict[int, Json] = {}
        self.members: dict[int, dict[int, Json]] = {}
        self.hooks: dict[int, list[Json]] = {}
        self.files: dict[int, dict[str, str]] = {}
        """Of the default branch, by number and path."""
        self.moved: dict[str, int] = {}
        """Former paths."""
        self.told: list[int] = []
        """What webhooks answered."""
        self.down = False
        """Whether questions are answered with 503."""
        self.asked: list[str] = []
        self.lock = threading.RLock()

    def make(self, path: str, visibility: str) -> int:
        number = len(self.projects) + 1
        self.projects[number] = {
            "id": number,
            "path_with_namespace": path,
            "visibility": visibility,
            "repository_access_level": "enabled",
            "name": path.rpartition("/")[2],
            "description": None,
            "topics": [],
            "default_branch": "main",
            "star_count": 0,
            "last_activity_at": "2026-11-20T13:00:00.000Z",
        }
        self.files[number] = {}
        self.members[number], self.hooks[number] = {}, []
        return number

    def found(self, name: str) -> int | None:
        by_path = self.moved | {each["path_with_namespace"]: number for number, each in self.projects.items()}
        return int(name) if name.isdecimal() and int(name) in self.projects else by_path.get(name)

    def change(self, number: int, fields: Json) -> None:
        """Whoever asks for the path of before gets it too, until there is another project."""
        before = self.projects[number]["path_with_namespace"]
        if path := fields.pop("path", None):
            fields["path_with_namespace"] = f"{before.rpartition('/')[0]}/{path}"
            self.moved[before] = number
        self.projects[number].update(fields)

    def commit(self, number: int) -> str:
        """Of the default branch; another one when the files are others."""
        return hashlib.sha1(json.dumps(self.files[number]).encode()).hexdigest()

    def push(self, number: int, **files: str) -> None:
        """Files by name, with _ for . in it."""
        self.files[number] |= {name.replace("_", "."): content for name, content in files.items()}
        self.tell(number, "Push Hook")

    def tell(self, number: int, event: str) -> None:
        for hook in self.hooks[number]:
            headers = {"x-gitlab-token": hook["token"], "x-gitlab-event": event}
            self.told.append(
                httpx.post(hook["url"], json={"project_id": number}, headers=headers, timeout=30).status_code
            )


@contextmanager
def running_gitlab() -> Iterator[tuple[str, Gitlab]]:
    """Its address."""
    gitlab = Gitlab()
    with running_http_server(partial(_Handler, gitlab)) as port:
        yield f"http://127.0.0.1:{port}", gitlab


def id_token(issuer: str, user: int, **claims: object) -> str:
    """Of a user who is signed in to the application."""
    said = {"iss": issuer, "sub": str(user), "aud": APPLICATION, "groups_direct": [], **claims}
    dropped = ("typ", "jti", "azp", "sid", "realm_access", "resource_access", "scope", "acr", "allowed-origins")
    return tokens.mint({**dict.fromkeys(dropped, tokens.ABSENT), **said})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, gitlab: Gitlab, *arguments: Any) -> None:  # noqa: ANN401 - of the server
        self._gitlab = gitlab
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        issuer, path = f"http://{self.headers['host']}", urlsplit(self.path).path
        if path == "/.well-known/openid-configuration":
            self._answer({"issuer": issuer, "jwks_uri": f"{issuer}/oauth/discovery/keys"})
        elif path == "/oauth/discovery/keys":
            self._answer(json.loads(tokens.jwks(tokens.RSA)))
        else:
            self._api("GET")

    def do_POST(self) -> None:
        self._api("POST")

    def do_PUT(self) -> None:
        self._api("PUT")

    def do_DELETE(self) -> None:
        self._api("DELETE")

    def _api(self, method: str) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        self._gitlab.asked.append(self.path)
        found = _PROJECT.fullmatch(url.path.removeprefix("/api/v4"))
        if self._gitlab.down:
            self._answer({"message": "503 Service Unavailable"}, 503)
        elif self.headers.get("private-token") != ADMIN:
            self._answer({"message": "401 Unauthorized"}, 401)
        elif method == "GET" and url.path == "/api/v4/projects":
            topic = query["topic"]
            self._page([each for each in self._gitlab.projects.values() if topic in each["topics"]], query)
        elif method == "GET" and (file := _REPOSITORY.fullmatch(url.path.removeprefix("/api/v4"))):
            self._repository(int(file[1]), file[2], file[3], query)
        elif found is None or (number := self._gitlab.found(unquote(found[1]))) is None:
            self._answer({"message": "404 Project Not Found"}, 404)
        elif found[2] is None:
            self._project(method, number, body)
        else:
            self._below(method, number, found[2], found[3], body, query)

    def _project(self, method: str, number: int, body: Json) -> None:
        if method == "PUT":
            self._gitlab.change(number, body)
            self._gitlab.tell(number, "Project Hook")
        self._answer(self._gitlab.projects[number])

    def _below(
        self, method: str, number: int, what: str, which: str | None, body: Json, query: Mapping[str, str]
    ) -> None:
        members = self._gitlab.members[number]
        if what == "hooks":
            self._gitlab.hooks[number].append(body)
            self._answer({"id": len(self._gitlab.hooks[number]), "url": body["url"]}, 201)
        elif method == "GET":
            self._page([*members.values()], query)
        elif method == "DELETE":
            members.pop(int(which or 0))
            self._gitlab.tell(number, "Member Hook")
            self._answer(None, 204)
        else:
            user = int(which or body["user_id"])
            old = members.get(user, {"id": user, "username": f"user{user}", "state": "active", "expires_at": None})
            members[user] = {**old, "access_level": int(body["access_level"])}
            self._gitlab.tell(number, "Member Hook")
            self._answer(members[user], 201 if method == "POST" else 200)

    def _repository(self, number: int, what: str, name: str | None, query: Mapping[str, str]) -> None:
        files, commit = self._gitlab.files[number], self._gitlab.commit(number)
        if what == "branches/main":
            self._answer({"name": "main", "commit": {"id": commit}})
        elif query["ref"] != commit:
            self._answer({"message": "404 Commit Not Found"}, 404)
        elif what == "tree":
            self._page([{"path": path, "type": "blob"} for path in files], query)
        elif (content := files.get(unquote(name or ""))) is None:
            self._answer({"message": "404 File Not Found"}, 404)
        else:
            self._send(content.encode(), 200, {"content-type": "text/plain"})

    def _page(self, found: list[Json], query: Mapping[str, str]) -> None:
        size, page = int(query.get("per_page", 20)), int(query.get("page", 1))
        more = {"x-next-page": str(page + 1)} if len(found) > size * page else {"x-next-page": ""}
        url = f"http://{self.headers['host']}{urlsplit(self.path).path}?per_page={size}&page={page + 1}"
        link = {"link": f'<{url}>; rel="next"'} if more["x-next-page"] else {}
        numbers = {"x-page": str(page), "x-per-page": str(size), "x-total": str(len(found))}
        self._answer(found[size * (page - 1) : size * page], headers={**more, **link, **numbers})

    def _answer(self, body: object, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self._send(content, status, {"content-type": "application/json", **(headers or {})})

    def _send(self, content: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
