"""Answers: what callers get of them, and how much of them is in memory."""

from __future__ import annotations

import json

import httpx
import pytest

from ext_authz.filter.refusals import Refused
from tests.unit.filter.server import API, FILES, A, Chunks, Server

FILE = f"{FILES}/1/{A}/artifacts/x.bin"


async def test_an_artifact_goes_up_in_parts(server: Server) -> None:
    answer = await server.call(
        "PUT", FILE, content=Chunks(b"a" * 400, b"b" * 600), headers={"content-type": "image/png"}
    )
    assert answer.status_code == 200
    assert server.bodies == [b"a" * 400 + b"b" * 600]
    assert server.calls[0].headers["content-type"] == "image/png"


async def test_an_artifact_that_is_too_large_is_not_passed_on_whole(server: Server) -> None:
    body = Chunks(*[b"a" * 300] * 9)
    answer = await server.call("PUT", FILE, content=body)
    assert (answer.status_code, "1000 bytes" in answer.json()["message"]) == (413, True)
    assert answer.headers["connection"] == "close"
    assert (server.bodies, body.made) == ([], 4)


async def test_an_artifact_comes_with_few_of_its_headers(server: Server) -> None:
    given = {
        "content-type": "text/html",
        "content-disposition": "attachment; filename=x",
        "set-cookie": "a=b",
        "x-y": "z",
    }
    server.answer = 200, b"<script>", given
    answer = await server.call("GET", FILE)
    assert answer.content == b"<script>"
    assert dict(answer.headers) == {
        "content-type": "text/html",
        "content-disposition": "attachment; filename=x",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }


@pytest.mark.parametrize("status", [302, 307, 303])
async def test_nobody_is_sent_to_the_store(server: Server, status: int) -> None:
    server.answer = status, b"", {"location": "https://bucket.example/x?signature=secret"}
    answer = await server.call("GET", FILE)
    assert (answer.status_code, "secret" in f"{answer.text}{answer.headers}") == (403, False)


@pytest.mark.parametrize(("status", "shown"), [(500, 502), (503, 503), (504, 502)])
async def test_what_mlflow_says_when_it_fails_is_not_shown(server: Server, status: int, shown: int) -> None:
    server.answer = status, b"Traceback (most recent call last)", {}
    answer = await server.call("GET", FILE)
    assert (answer.status_code, "Traceback" in answer.text) == (shown, False)


async def test_what_mlflow_refuses_is_shown(server: Server) -> None:
    server.answer = 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}', {"content-type": "application/json"}
    answer = await server.call("GET", FILE)
    assert (answer.status_code, answer.json()) == (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})


async def test_while_mlflow_is_away_calls_get_503(server: Server) -> None:
    server.answer = httpx.ConnectError("[Errno 111] at 10.0.0.7")
    answer = await server.call("GET", FILE)
    assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    assert "10.0.0.7" not in answer.text


class Breaking(Server):
    """Ends in the middle of an answer."""

    async def _answered(self, request: httpx.Request) -> httpx.Response:
        half = Chunks(b"half", httpx.ReadError("gone"))
        return self._known(request) or httpx.Response(200, stream=half, headers={"content-length": "8"})


async def test_half_of_an_artifact_is_no_artifact() -> None:
    """The connection to Envoy ends, and so the caller's."""
    with pytest.raises(Refused, match="MLflow does not answer"):
        await Breaking().call("GET", FILE)


async def test_the_client_is_not_told_of_ways_that_are_closed(server: Server) -> None:
    """With artifacts in S3 MLflow offers addresses there, and its client then asks for nothing else."""
    closed = dict.fromkeys((f"multipart_{way}_enabled" for way in ("uploads", "downloads")), False)
    closed |= dict.fromkeys((f"presigned_upload_{of}_id_supported" for of in ("run", "model")), False)
    server.answer = 200, json.dumps({"store_type": "SqlStore", **dict.fromkeys(closed, True)}).encode(), {}
    path = API.replace("2.0", "3.0") + "/server-info"
    answer = await server.call("GET", path, ["mlflow:a:read"])
    assert answer.json() == {"store_type": "SqlStore", **closed}
    server.answer = 500, b"{}", {}
    assert (await server.call("GET", path, ["mlflow:a:read"])).status_code == 503


async def test_it_says_that_it_is_alive_outside_of_the_door(server: Server) -> None:
    assert (await server.caller.get("/healthz")).text == "alive\n"
    assert (await server.caller.get("/mlflow/healthz")).status_code == 403
    assert (await server.caller.get(API.removeprefix("/mlflow"))).status_code == 404
