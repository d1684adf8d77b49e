"""What a program reads when something is not done."""

from __future__ import annotations

import grpc
import pytest

from ext_authz.api.failures import failure_of
from ext_authz.api.rest import problem
from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.tokens.model import NotDone, Why


def test_who_has_to_wait_is_told_how_long() -> None:
    answer = problem(failure_of(Denied(Reason.OVER_LIMIT, "flood", "wait", retry_after=21)))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "21")


@pytest.mark.parametrize(
    ("field", "http", "status"),
    [("version", 412, grpc.StatusCode.ABORTED), ("name", 409, grpc.StatusCode.ALREADY_EXISTS)],
)
def test_a_version_that_is_gone_is_another_conflict_than_a_name_that_is_taken(
    field: str, http: int, status: grpc.StatusCode
) -> None:
    failure = failure_of(NotDone(Why.CONFLICT, "no", field))
    assert (failure.http, failure.grpc, failure.code) == (http, status, "conflict")


def test_a_bug_is_answered_without_its_text() -> None:
    failure = failure_of(ValueError("secret"))
    assert (failure.http, "secret" in repr(failure)) == (500, False)
