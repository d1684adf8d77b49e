"""Asks issuers over HTTP, for keys and about tokens; trusts answers as little as possible, and reports what is wrong.

Messages name status, content type and redirect target; the caller adds the URL.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urljoin, urlsplit

import httpx

from ext_authz.errors import ConfigError
from ext_authz.identity.identity import printable
from ext_authz.identity.keys import split_keys
from ext_authz.identity.pem import MAX_PEM

MAX_DOCUMENT = 262_144
"""Bytes. A realm with a dozen keys needs about 20 000."""

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_NO_PROXY = "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: must be the URL of a proxy, such as http://proxy.example:3128"
_UNTRUSTED = ": set TOLLGATE_JWKS_CA_FILE to the certificate of a private authority"
_HEADERS = {"accept": "application/jwk-set+json, application/json"}
_JSON = {"accept": "application/json"}
_PEM_TYPE = "application/x-pem-file"
_PEM = {"accept": _PEM_TYPE}
_NO_SUCH_KEY = frozenset({403, 404, 410})
"""403 is how object stores say so where nobody may list them."""


class WrongBody(ValueError):
    """A body that is not used; says why, and nothing of what it holds."""


class LongBody(WrongBody):
    """It has more bytes than it may."""


class _Refused(ValueError):
    """Another status than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class HttpFetch:
    """A `jwks.Fetch`. One client for all issuers: creating one reads every CA certificate of the machine."""

    def __init__(self, timeout: float, ca_file: Path | None = None) -> None:
        """`ca_file`: PEM certificates that are trusted besides the usual ones; the settings have checked it.

        Raises:
            ConfigError: the proxy in the environment is not a URL.
        """
        self._timeout = timeout
        self._client = http_client(timeout, ca_file)

    async def __call__(self, url: str) -> bytes:
        """A JWK Set: the body of a 200 answer.

        Raises:
            ValueError: no complete answer in time, or a different one; with the cause.
        """
        document, content_type = await self._exchange("GET", url, "jwks_url", headers=_HEADERS)
        try:
            split_keys(document)
        except ValueError as wrong:
            raise ValueError(f"status 200, content type {content_type}, but {wrong}") from None
        return document

    async def key(self, url: str) -> bytes | None:
        """A public key in PEM, as a key repository of ASAP has it; None: it says that it has none there.

        Raises:
            ValueError: as above.
        """
        try:
            document, kind = await self._exchange("GET", url, "asap.repositories", MAX_PEM, headers=_PEM)
        except _Refused as answer:
            if answer.status in _NO_SUCH_KEY:
                return None
            raise
        if kind.partition(";")[0].strip().lower() != _PEM_TYPE:
            raise ValueError(f"status 200, but content type {kind}: keys have {_PEM_TYPE}")
        return document

    async def ask(self, url: str, form: Mapping[str, str], client: tuple[str, str]) -> bytes:
        """The body of a 200 answer to a form, sent with the id and the secret of a client (RFC 6749 section 2.3.1).

        Raises:
            ValueError: as above; never with what was sent.
        """
        credentials = httpx.BasicAuth(*map(quote_plus, client))
        document, _ = await self._exchange("POST", url, "introspection.url", headers=_JSON, data=form, auth=credentials)
        return document

    async def _exchange(
        self,
        method: str,
        url: str,
        setting: str,
        most: int = MAX_DOCUMENT,
        **sent: Any,  # noqa: ANN401 - httpx's
    ) -> tuple[bytes, str]:
        """The body, of `most` bytes, and its type. `setting`: of the policy, for the URL."""
        try:
            async with asyncio.timeout(self._timeout), self._client.stream(method, url, **sent) as response:
                if response.status_code != httpx.codes.OK:
                    raise _Refused(response.status_code, _refused(response, setting))
                return await body_of(response, most), _content_type(response)
        except (TimeoutError, httpx.TimeoutException):  # httpx alone only limits the pauses
            raise ValueError(f"no complete answer within {self._timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            hint = _UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in str(failure) else ""
            raise ValueError(f"{type(failure).__name__}: {failure}{hint}") from None

    async def aclose(self) -> None:
        await self._client.aclose()


def http_client(timeout: float, ca_file: Path | None = None) -> httpx.AsyncClient:
    """For requests to issuers; as of `HttpFetch`. Read their answers with `body_of`.

    Raises:
        ConfigError
    """
    trust = _trust(ca_file)
    try:
        # With redirects, control of one page of the issuer would be enough to choose our keys.
        unpacked = {"accept-encoding": "identity"}
        return httpx.AsyncClient(timeout=timeout, follow_redirects=False, verify=trust, headers=unpacked)
    except (ValueError, httpx.InvalidURL, ImportError):
        raise ConfigError(_NO_PROXY) from None


async def body_of(response: httpx.Response, most: int) -> bytes:
    """Of an answer that is streamed, at most `most` bytes. Unpacked if necessary, though packing was not requested, by
    steps of no more: httpx would unpack a bomb at once.

    Raises:
        WrongBody, LongBody
    """
    status = f"status {response.status_code}"
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise WrongBody(f"{status}, but the content encoding {printable(coding)}, which was not requested")
    unpack = None if coding == "identity" else zlib.decompressobj(_GZIP_OR_ZLIB)
    document = bytearray()
    async for chunk in response.aiter_raw():
        try:
            document += unpack.decompress(chunk, most + 1) if unpack else chunk
        except zlib.error:
            raise WrongBody(f"{status}, but the body is not {coding}, which its content encoding declares") from None
        if len(document) > most:
            raise LongBody(f"{status}, but longer than {most} bytes")
    return bytes(document)


def shown(url: str) -> str:
    """A URL as it may be logged: without user info, query and fragment, printable, and bounded."""
    parts = urlsplit(url)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{'?...' if parts.query else ''}"
    return printable(place)


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    if ca_file is not None:
        # Python 3.13 and later require extensions that certificates of many private authorities lack.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.load_verify_locations(ca_file)
    return context


def _refused(response: httpx.Response, setting: str) -> str:
    status = f"status {response.status_code}, content type {_content_type(response)}"
    if "location" in response.headers:
        target = shown(urljoin(str(response.url), response.headers["location"]))
        return f"{status}, a redirect to {target}: redirects are not followed: set {setting} to the final URL"
    return status


def _content_type(response: httpx.Response) -> str:
    return printable(response.headers.get("content-type", "")) or "none"
