"""Git repositories behind a real Envoy and the authorizer, with rights from the GitLab of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import gitlab as published
import httpx
import yaml

from ext_authz.policy.load import load_policy
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints
from ext_authz.render.envoy import bootstrap
from tests import tokens
from tests.e2e.reload.world import serving
from tests.e2e.render.world import running_envoy
from tests.gitlab import ADMIN, APPLICATION, Gitlab, id_token, running_gitlab
from tests.http_server import running_http_server
from tests.services import free_port, wait_for

VISIBILITIES = ("private", "internal", "public")
HOOK = "the-secret-of-the-webhook"
_GIT = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
_REFUSED = ("error: 403", "HTTP 403", "Authentication failed", "terminal prompts disabled")
_AUTHOR = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.com"]


class World:
    """Everything that runs."""

    def __init__(self, directory: Path, url: str, issuer: str, gitlab: Gitlab, hook: str) -> None:
        self.directory, self.url, self.issuer, self.gitlab, self.hook = directory, url, issuer, gitlab, hook
        self.client = published.Gitlab(issuer, private_token=ADMIN)
        """The published one, of an administrator of GitLab."""
        self._pushed = 0

    def git(self, user: int | None, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """As this user; None: without a token."""
        token = [] if user is None else ["-c", f"http.extraHeader=Authorization: Bearer {id_token(self.issuer, user)}"]
        command = ["git", *token, *_AUTHOR, *arguments]
        return subprocess.run(
            command, cwd=cwd, env=os.environ | _GIT, capture_output=True, text=True, timeout=60, check=False
        )

    def remote(self, project: str) -> str:
        return f"{self.url}/git/team/{project}.git"

    def pulls(self, user: int | None, project: str) -> bool:
        """What a clone asks first and second, without its files."""
        return self._went("HEAD" in (done := self.git(user, "ls-remote", self.remote(project))).stdout, done)

    def clone(self, user: int, project: str) -> str:
        clone = self.directory / f"clone-{project}"
        done = self.git(user, "clone", "--quiet", self.remote(project), str(clone))
        assert done.returncode == 0, done.stderr
        return (clone / "README.md").read_text()

    def pushes(self, user: int | None, project: str) -> bool:
        """To a branch that nobody has: git asks nothing where all is there already."""
        self._pushed += 1
        branch = f"refs/heads/branch-{self._pushed}"
        done = self.git(user, "push", "--quiet", self.remote(project), f"HEAD:{branch}", cwd=self.directory / "work")
        there = self.directory / "repositories/team" / f"{project}.git" / branch
        return self._went(there.is_file(), done)

    def _went(self, seen: bool, done: subprocess.CompletedProcess[str]) -> bool:  # noqa: FBT001 - of its own methods
        """Or was refused, and for no other reason."""
        assert seen == (done.returncode == 0), done.stderr
        assert seen or any(why in done.stderr for why in _REFUSED), done.stderr
        return seen


@contextmanager
def running_world(directory: Path, redis_url: str, database_url: str) -> Iterator[World]:
    endpoints = Endpoints(listen=Address(LOOPBACK, free_port()), access_log=str(directory / "access.log"))
    with ExitStack() as stack:
        issuer, gitlab = stack.enter_context(running_gitlab())
        for visibility in VISIBILITIES:
            gitlab.make(f"team/{visibility}", visibility)
        (directory / "policy.yaml").write_text(yaml.safe_dump(_policy(issuer)))
        _repositories(directory)
        git = stack.enter_context(running_http_server(partial(_GitHandler, directory / "repositories")))
        server = stack.enter_context(
            serving(directory, redis_url, database_url, prepare=lambda _: None, revocation_poll=0.2)
        )
        hook = stack.enter_context(running_learner(directory, database_url))
        endpoints = Endpoints(
            endpoints.listen,
            authorizer=Address(LOOPBACK, server.port),
            upstreams={"git": Address(LOOPBACK, git)},
            access_log=endpoints.access_log,
        )
        policy = load_policy(directory / "policy.yaml", {})
        stack.enter_context(running_envoy(bootstrap(policy, endpoints), endpoints, directory))
        yield World(directory, f"http://{LOOPBACK}:{endpoints.listen.port}", issuer, gitlab, hook)


@contextmanager
def running_learner(directory: Path, database_url: str, **settings: object) -> Iterator[str]:
    """`tollgate gitlab`; the address of its webhook."""
    listen = f"{LOOPBACK}:{free_port()}"
    chosen = {"policy": directory / "policy.yaml", "database_url": database_url, "gitlab_listen": listen}
    chosen |= {"gitlab_token": ADMIN, "gitlab_hook_token": HOOK, "gitlab_poll": 600, **settings}
    environ = os.environ | {f"TOLLGATE_{name.upper()}": str(value) for name, value in chosen.items()}
    with (directory / "gitlab.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "ext_authz", "gitlab"], env=environ, stderr=log)
    try:
        wait_for(lambda: process.poll() is not None or _answers(f"http://{listen}/healthz"), 60)
        yield f"http://{listen}/gitlab"
    finally:
        process.terminate()
        assert process.wait(20) == 0, (directory / "gitlab.log").read_text()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def _policy(issuer: str) -> Mapping[str, object]:
    projects: dict[str, Any] = {f"team/{visibility}": {} for visibility in VISIBILITIES}
    gitlab = {"applications": [APPLICATION], "rights": {"projects": projects}}
    ways = (("info/refs", "GET", "read"), ("git-upload-pack", "POST", "read"), ("git-receive-pack", "POST", "update"))
    routes = [
        {
            "name": f"{visibility}-{way.replace('/', '-')}",
            "path": f"/git/team/{visibility}.git/{way}",
            "methods": [method],
            "upstream": "git",
            "roles": [f"gitlab:team/{visibility}:{action}"],
        }
        for visibility in VISIBILITIES
        for way, method, action in ways
    ]
    named = {"name": "gitlab", "issuer": issuer, "audiences": [tokens.AUDIENCE], "gitlab": gitlab}
    return {"version": 1, "issuers": [named], "routes": routes}


def _repositories(directory: Path) -> None:
    def git(*arguments: str, cwd: Path = directory) -> None:
        subprocess.run(["git", *_AUTHOR, *arguments], cwd=cwd, env=os.environ | _GIT, check=True, capture_output=True)

    git("init", "--quiet", "--initial-branch=main", "work")
    (directory / "work/README.md").write_text("hello\n")
    git("add", "README.md", cwd=directory / "work")
    git("commit", "--quiet", "-m", "first", cwd=directory / "work")
    for visibility in VISIBILITIES:
        target = directory / "repositories/team" / f"{visibility}.git"
        git("clone", "--quiet", "--bare", "work", str(target))
        git("config", "http.receivepack", "true", cwd=target)


class _GitHandler(BaseHTTPRequestHandler):
    """`git http-backend` as CGI (RFC 3875), below /git."""

    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, *arguments: Any) -> None:  # noqa: ANN401 - of the server
        self._root = root
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._run(b"")

    def do_POST(self) -> None:
        self._run(
            self._chunks()
            if self.headers.get("transfer-encoding")
            else self.rfile.read(int(self.headers["content-length"]))
        )

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _run(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environ = {
            **os.environ,
            **_GIT,
            "GIT_PROJECT_ROOT": str(self._root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path.removeprefix("/git"),
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            "REMOTE_USER": self.headers.get("x-user-id", ""),
        }
        ran = subprocess.run(["git", "http-backend"], input=body, env=environ, capture_output=True, check=True)
        head, _, content = ran.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
