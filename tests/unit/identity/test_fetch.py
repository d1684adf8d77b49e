"""Fetching over a real connection from a server that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ext_authz.errors import ConfigError, Unavailable
from ext_authz.identity.fetch import MAX_DOCUMENT, HttpFetch
from ext_authz.identity.jwks import KeySet
from tests.e2e.server.certificates import Authority
from tests.fakes import FakeClock
from tests.tokens import RSA, jwks
from tests.unit.identity.world import an_issuer

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(
    answer: Answer, requests: list[bytes] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    handling: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            if requests is not None:
                requests.append(request)
            await answer(writer)
            writer.close()
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()  # the client has seen enough, or the test is over

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        handling.add(asyncio.create_task(handle(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/certs"
    for task in handling:
        task.cancel()
    await asyncio.gather(*handling, return_exceptions=True)
    for writer in writers:
        writer.transport.abort()  # also of those whose task had not begun


def answering(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return answer


async def endless(writer: asyncio.StreamWriter) -> None:
    """Never says how long the body is, and never ends it."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" " * 65_536)
        await writer.drain()


async def drop_by_drop(writer: asyncio.StreamWriter) -> None:
    """Always one byte before the next pause is too long."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def fetched(
    url: str,
    timeout: float = 5.0,  # noqa: ASYNC109 - the setting under test
    ca_file: Path | None = None,
) -> bytes:
    fetch = HttpFetch(timeout, ca_file)
    try:
        return await fetch(url)
    finally:
        await fetch.aclose()


async def test_a_key_set_arrives() -> None:
    requests: list[bytes] = []
    async with serving(answering(jwks(RSA)), requests) as url:
        assert await fetched(url) == jwks(RSA)
    assert b"accept-encoding: identity" in requests[0].lower()


def padded(length: int) -> bytes:
    """A key set of so many bytes."""
    return jwks(RSA).ljust(length)


async def test_the_largest_document_passes() -> None:
    async with serving(answering(padded(MAX_DOCUMENT))) as url:
        assert len(await fetched(url)) == MAX_DOCUMENT


async def failure(answer: Answer, timeout: float = 5.0) -> str:  # noqa: ASYNC109 - the setting under test
    """What is said of this answer."""
    async with serving(answer) as url:
        with pytest.raises(ValueError) as wrong:  # noqa: PT011 - its text is under test
            await fetched(url, timeout)
    return str(wrong.value)


@pytest.mark.parametrize("answer", [answering(padded(MAX_DOCUMENT + 1)), endless])
async def test_too_long(answer: Answer) -> None:
    assert await failure(answer) == "status 200, but longer than 262144 bytes"


async def test_a_redirect_is_not_followed_and_its_target_is_named() -> None:
    requests: list[bytes] = []
    async with serving(answering(jwks(RSA)), requests) as elsewhere:
        secret = elsewhere.replace("//", "//user:hunter2@") + "?code=hunter2#hunter2"
        said = await failure(answering(b"", f"location: {secret}", "content-type: text/html", status="302 Found"))
    assert said == (
        f"status 302, content type text/html, a redirect to {elsewhere}?...: redirects are not followed: "
        "set jwks_url to the final URL"
    )
    assert not requests


async def test_a_redirect_to_a_path_is_named_whole_and_printable() -> None:
    said = await failure(answering(b"", "location: /\x85login" + "n" * 999, status="307 Moved"))
    assert "a redirect to http://127.0.0.1:" in said
    assert "/?login" in said
    assert len(said) < 400


@pytest.mark.parametrize("status", ["204 No Content", "404 Not Found", "500 Oops"])
async def test_other_status(status: str) -> None:
    assert await failure(answering(b"", status=status)) == f"status {status[:3]}, content type none"


@pytest.mark.parametrize("body", [b"<html>log in</html>", b'{"error":"hunter2"}', b'{"keys":[', b""])
async def test_something_else_than_a_key_set(body: bytes) -> None:
    said = await failure(answering(body, "content-type: text/html; charset=utf-8"))
    what = "not a JWK Set: no whole JSON object with an array `keys`"
    assert said == f"status 200, content type text/html; charset=utf-8, but {what}"


@pytest.mark.parametrize(
    ("coding", "packed"),
    [("gzip", gzip.compress(jwks(RSA))), ("X-GZip", gzip.compress(jwks(RSA))), ("deflate", zlib.compress(jwks(RSA)))],
)
async def test_compressed_although_not_asked_for(coding: str, packed: bytes) -> None:
    async with serving(answering(packed, f"content-encoding: {coding}")) as url:
        assert await fetched(url) == jwks(RSA)


async def test_a_small_body_does_not_become_a_large_document() -> None:
    said = await failure(answering(gzip.compress(b" " * 10_000_000), "content-encoding: gzip"))
    assert said == "status 200, but longer than 262144 bytes"


async def test_an_encoding_that_is_not_known_is_named() -> None:
    said = await failure(answering(b"?", "content-encoding: br"))
    assert said == "status 200, but the content encoding br, which was not requested"


async def test_an_encoding_that_is_not_what_it_says() -> None:
    said = await failure(answering(jwks(RSA), "content-encoding: gzip"))
    assert said == "status 200, but the body is not gzip, which its content encoding declares"


async def test_the_whole_answer_must_come_in_time() -> None:
    assert await failure(drop_by_drop, timeout=0.1) == "no complete answer within 0.1 s"


async def test_nobody_listens() -> None:
    async with serving(endless) as url:
        pass
    with pytest.raises(ValueError, match="ConnectError: "):
        await fetched(url)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """One that no machine knows."""
    return Authority(tmp_path, "private")


@pytest.fixture
def tls(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("issuer"))
    return context


async def test_a_private_authority_is_trusted_when_told_so(authority: Authority, tls: ssl.SSLContext) -> None:
    async with serving(answering(jwks(RSA)), tls=tls) as url:
        assert await fetched(url, ca_file=authority.certificate) == jwks(RSA)
        with pytest.raises(ValueError, match=r"CERTIFICATE_VERIFY_FAILED.*: set TOLLGATE_JWKS_CA_FILE to"):
            await fetched(url)


async def test_another_authority_is_not(authority: Authority, tls: ssl.SSLContext, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other").certificate
    async with serving(answering(jwks(RSA)), tls=tls) as url:
        with pytest.raises(ValueError, match="CERTIFICATE_VERIFY_FAILED"):
            await fetched(url, ca_file=other)


def test_a_proxy_that_is_none_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://user:hunter2@proxy")
    with pytest.raises(ConfigError, match=r"^HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: must be the URL") as wrong:
        HttpFetch(1.0)
    assert "hunter2" not in str(wrong.value)


async def test_the_log_names_the_address_and_the_cause_once(caplog: pytest.LogCaptureFixture) -> None:
    fetch = HttpFetch(5.0)
    async with serving(answering(b"", "location: https://id.example/login", status="302 Found")) as url:
        keys = KeySet(an_issuer(jwks_url=url.replace("//", "//user:hunter2@")), fetch=fetch, clock=FakeClock())
        await keys.refresh()
        await keys.refresh()
        with pytest.raises(Unavailable, match=r"a redirect to https://id\.example/login"):
            await keys.key(RSA.name)
    await keys.refresh()
    await fetch.aclose()
    redirected, refused = [record.__dict__["error"] for record in caplog.records if record.levelno == logging.WARNING]
    assert redirected.startswith(f"{url}: status 302, content type none, a redirect to https://id.example/login")
    assert refused.startswith(f"{url}: ConnectError: ")
    assert "hunter2" not in redirected + refused


async def test_a_key_set_over_http() -> None:
    fetch = HttpFetch(5.0)
    async with serving(answering(jwks(RSA))) as url:
        keys = KeySet(an_issuer(jwks_url=url), fetch=fetch, clock=FakeClock())
        assert (await keys.key(RSA.name)).key_id == RSA.key_id
    await fetch.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await fetch(url)


async def asked(answer: Answer, client: tuple[str, str] = ("gate:way", "p%ss w")) -> tuple[bytes, bytes]:
    """What is answered to a question about a token, and the question's head."""
    requests: list[bytes] = []
    async with serving(answer, requests) as url:
        fetch = HttpFetch(5.0)
        try:
            return await fetch.ask(url, {"token": "a.b+c=", "token_type_hint": "access_token"}, client), requests[0]
        finally:
            await fetch.aclose()


async def test_an_issuer_is_asked_about_a_token() -> None:
    """A form, and the client as RFC 6749 section 2.3.1 has it: encoded twice."""
    body, head = await asked(answering(b'{"active":false}'))
    assert body == b'{"active":false}'
    assert head.startswith(b"POST /certs HTTP/1.1\r\n")
    credentials = base64.b64encode(b"gate%3Away:p%25ss+w")
    assert b"authorization: basic " + credentials in head.replace(b"Authorization: Basic", b"authorization: basic")
    assert b"application/x-www-form-urlencoded" in head


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answering(b"{}", status="401 Unauthorized"), "status 401, content type none"),
        (answering(b"", "location: /there", status="302 Found"), "set introspection.url to the final URL"),
        (endless, f"longer than {MAX_DOCUMENT} bytes"),
    ],
)
async def test_what_is_no_answer_about_a_token(answer: Answer, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as failed:
        await asked(answer, ("gateway", "hidden"))
    assert "hidden" not in str(failed.value)
    assert "a.b" not in str(failed.value)


PEM = "content-type: application/x-pem-file"


async def key_at(answer: Answer, tls: ssl.SSLContext | None = None, ca_file: Path | None = None) -> bytes | None:
    """What a key repository has at an address."""
    async with serving(answer, tls=tls) as url:
        fetch = HttpFetch(5.0, ca_file)
        try:
            return await fetch.key(url)
        finally:
            await fetch.aclose()


async def test_a_key_in_pem(authority: Authority, tls: ssl.SSLContext) -> None:
    for kind in (PEM, "Content-Type: Application/X-PEM-File; charset=ascii"):
        assert await key_at(answering(RSA.pem(), kind), tls, authority.certificate) == RSA.pem()


async def test_the_request_for_a_key() -> None:
    requests: list[bytes] = []
    async with serving(answering(RSA.pem(), PEM), requests) as url:
        fetch = HttpFetch(5.0)
        await fetch.key(f"{url}/team/web/a+b_c.pem")
        await fetch.aclose()
    assert requests[0].startswith(b"GET /certs/team/web/a+b_c.pem HTTP/1.1\r\n")
    assert b"accept: application/x-pem-file\r\n" in requests[0].lower()


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "410 Gone"])
async def test_no_such_key(status: str) -> None:
    assert await key_at(answering(RSA.pem(), PEM, status=status)) is None


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (answering(RSA.pem(), "content-type: text/plain"), "status 200, but content type text/plain"),
        (answering(RSA.pem()), "status 200, but content type none"),
        (answering(b"A" * 16_385, PEM), "longer than 16384 bytes"),
        (
            answering(RSA.pem(), PEM, "location: https://evil.example/k", status="302 Found"),
            "a redirect to https://evil",
        ),
        (answering(RSA.pem(), PEM, status="500 Oops"), "status 500"),
        (answering(RSA.pem(), PEM, status="429 Slow"), "status 429"),
        (answering(RSA.pem(), PEM, status="206 Part"), "status 206"),
    ],
)
async def test_no_answer_about_a_key(answer: Answer, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        await key_at(answer)


async def test_a_key_repository_that_is_not_trusted(tls: ssl.SSLContext) -> None:
    with pytest.raises(ValueError, match="CERTIFICATE_VERIFY_FAILED"):
        await key_at(answering(RSA.pem(), PEM), tls)
