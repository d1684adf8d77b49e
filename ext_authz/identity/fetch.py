"""Fetching a key set over HTTP, and trusting the answer as little as possible."""

from __future__ import annotations

import asyncio

import httpx

MAX_DOCUMENT = 262_144
"""Bytes. A realm with a dozen keys needs about 20 000."""


class HttpFetch:
    """A `jwks.Fetch`. One client for all issuers: making one reads every CA certificate of the machine."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # A redirect would let whoever controls one page of the issuer choose our keys.
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False)

    async def __call__(self, url: str) -> bytes:
        """The body of a 200 answer.

        Raises:
            TimeoutError: it did not arrive whole in time (httpx alone only limits the pauses).
            httpx.HTTPError: no connection.
            ValueError: another status, or longer than `MAX_DOCUMENT`.
        """
        # Nothing compressed: a small body must not become a large document.
        headers = {"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"}
        async with asyncio.timeout(self._timeout), self._client.stream("GET", url, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"status {response.status_code}")
            return await _limited(response)

    async def aclose(self) -> None:
        await self._client.aclose()


async def _limited(response: httpx.Response) -> bytes:
    document = bytearray()
    async for chunk in response.aiter_raw():
        document += chunk
        if len(document) > MAX_DOCUMENT:
            raise ValueError(f"longer than {MAX_DOCUMENT} bytes")
    return bytes(document)
