"""A page in a real browser calls the models, and reads a refusal: only if the policy names its origin."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ext_authz.decision import Deny, Reason
from ext_authz.policy.model import Cors
from ext_authz.render.endpoints import LOOPBACK
from tests.e2e.render.world import World, running_world
from tests.http_server import answering
from tests.unit.render.policies import EVERYDAY, of_kinds

CHROMIUM = shutil.which("chromium") or ""
DECISION_ID = str(uuid.uuid4())
PAGE = """<!doctype html><body><script>
const call = { method: "POST", headers: { authorization: "Bearer t", "content-type": "application/json" }, body: "{}" }
fetch("URL/v2/models/cancer/infer", call)
  .then(async answer => [answer.status, (await answer.json()).error, answer.headers.get("x-decision-id")])
  .catch(failed => [failed.name])
  .then(seen => { document.body.textContent = JSON.stringify(seen) })
</script>"""

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")


class _Pages(ThreadingHTTPServer):
    url = ""
    """Where the page calls."""


class _Page(BaseHTTPRequestHandler):
    server: _Pages

    def do_GET(self) -> None:
        body = PAGE.replace("URL", self.server.url).encode()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Quiet."""


@contextmanager
def pages() -> Iterator[_Pages]:
    with _Pages((LOOPBACK, 0), _Page) as server, answering(server):
        yield server


@pytest.fixture(scope="module")
def site() -> Iterator[_Pages]:
    with pages() as server:
        yield server


@pytest.fixture(scope="module")
def world(site: _Pages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    cors = Cors((_origin(site),), ("authorization", "content-type"), ("x-decision-id",))
    with running_world("envoy", of_kinds(*EVERYDAY, cors=cors), tmp_path_factory.mktemp("browser")) as world:
        yield world


def _origin(site: _Pages) -> str:
    return f"http://{LOOPBACK}:{site.server_port}"


def _seen(url: str, profile: Path) -> list[object]:
    """What the page wrote in the end."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    command = [CHROMIUM, *options, f"--user-data-dir={profile}", url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    seen: list[object] = json.loads(printed.partition("<body>")[2].partition("</body>")[0])
    return seen


def test_a_page_reads_why_it_is_refused(site: _Pages, world: World, tmp_path: Path) -> None:
    world.authorizer.fails = Deny(DECISION_ID, Reason.FORBIDDEN, "model_forbidden", "this token may not call it")
    site.url = world.url
    error = f"this token may not call it (decision {DECISION_ID})"
    assert _seen(_origin(site), tmp_path) == [403, error, DECISION_ID]


def test_a_page_of_another_origin_reads_nothing(world: World, tmp_path: Path) -> None:
    world.forget()
    with pages() as other:
        other.url = world.url
        assert _seen(_origin(other), tmp_path) == ["TypeError"]
    assert world.reached() == []
