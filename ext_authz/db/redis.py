"""The way to Redis for everything but the check itself: no hidden retries, no wait without an end."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str, *, timeout: float) -> Redis:
    """A client whose commands fail after `timeout` seconds, and are never sent twice behind the caller's back."""
    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        client_name="tollgate",
    )
