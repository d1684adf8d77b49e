"""A probe says where, never with what credential; and nothing where nobody is."""

from __future__ import annotations

import pytest

from devstack.stack.ports import free_ports
from devstack.stack.probe import answers, without_credentials


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://tollgate:secret@db:5432/tollgate?sslmode=require", "postgresql://db:5432"),
        ("postgres://db/tollgate", "postgres://db"),
        ("redis://:secret@cache:6379/0", "redis://cache:6379"),
        ("rediss://user:secret@[::1]:6379/0", "rediss://[::1]:6379"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock"),
    ],
)
def test_credentials_are_left_out(url: str, place: str) -> None:
    assert without_credentials(url) == place


@pytest.mark.parametrize("scheme", ["http", "redis", "postgresql"])
def test_nobody_answers_where_nobody_listens(scheme: str) -> None:
    assert not answers(f"{scheme}://127.0.0.1:{free_ports(1)[0]}")
