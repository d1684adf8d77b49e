"""What the OpenAPI description allows and what it does not, sent to a real `tollgate console` by schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from psycopg import sql
from schemathesis import CheckFunction, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.e2e.api.world import PATH, admin, running_console
from tests.services import RedisServer

EXCLUDED: list[CheckFunction] = [positive_data_acceptance]
"""That a cursor, an id or a model is one that exists is in no description."""
EXAMPLES, OPERATIONS = 10, 37
"""Requests of each operation and mode."""


@pytest.fixture(scope="module")
def console(postgres_server: str, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; a process as in production."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE console"))
        database_url = postgres_server.replace("/postgres?", "/console?")
        with running_console(tmp_path_factory.mktemp("console"), database_url, redis_server.url) as ports:
            yield f"http://127.0.0.1:{ports[0]}"
        connection.execute(sql.SQL("DROP DATABASE console WITH (FORCE)"))


@pytest.fixture(scope="module")
def description(console: str) -> schemathesis.BaseSchema:
    found = schemathesis.openapi.from_url(f"{console}{PATH}/openapi.json")
    rejected = found.config.checks.negative_data_rejection
    rejected.expected_statuses = [*rejected.expected_statuses, "413"]  # a text that is too long makes a body too large
    return found


@pytest.mark.parametrize("mode", GenerationMode)
def test_no_request_gets_an_answer_that_is_not_described(
    description: schemathesis.BaseSchema, mode: GenerationMode
) -> None:
    """By hand, since the plugin of schemathesis does not fit this pytest."""
    headers = {"Authorization": f"Bearer {admin()}"}
    operations = [each.ok() for each in description.get_all_operations() if isinstance(each, Ok)]
    assert len(operations) == OPERATIONS
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not _can_be_wrong(operation):
            continue

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        def send(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(headers=headers, excluded_checks=EXCLUDED, timeout=60)

        send()


def _can_be_wrong(operation: schemathesis.APIOperation[Any, Any, Any, Any]) -> bool:
    return bool(operation.body or list(operation.iter_parameters()))


def test_it_is_openapi_3_1(console: str) -> None:
    document = httpx.get(f"{console}{PATH}/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert len(document["paths"]) >= 10
