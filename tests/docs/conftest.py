"""The surroundings of pages, started where the first page needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.surroundings import Surroundings, real_keycloak, servers, stack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def surroundings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Surroundings]]:
    """By the name that a page gives."""
    with ExitStack() as opened:

        def beside(name: str) -> Surroundings:
            match name:
                case "stack":
                    return opened.enter_context(stack(tmp_path / "state"))
                case "servers":
                    urls = request.getfixturevalue("database_url"), request.getfixturevalue("redis_url")
                    return opened.enter_context(servers(tmp_path / "state", *urls))
                case "keycloak":
                    return real_keycloak(request.getfixturevalue("keycloak"))
                case "checkout":
                    return Surroundings({}, {}, folder=ROOT)
                case _:
                    return Surroundings({}, {})

        yield beside
