"""Every refusal has words."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from ext_authz.console.reasons import BY_CODE, BY_REASON, facts, words
from ext_authz.decision import Reason
from ext_authz.ledger.event import DecisionRecord, StoredEvent
from ext_authz.ledger.selection import CODES
from ext_authz.policy.model import Policy, Route
from ext_authz.policy.rights import AllOf, AnyOf, Has, ModelRules, Trait

PERMISSION = AllOf((AnyOf((Has(Trait.ROLE, frozenset({"b", "a"})), Has(Trait.PRINCIPAL, frozenset({"boss"})))),))
POLICY = Policy(
    hash="h",
    issuers=(),
    routes=(Route("special", permission=PERMISSION),),
    models=ModelRules(()),
)


def event(reason: str = Reason.FORBIDDEN, record: DecisionRecord | None = None, **fields: str) -> StoredEvent:
    when = datetime.now(UTC)
    return StoredEvent("id", reason, occurred_at=when, record=record, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.ALLOWED])
def test_every_reason_says_what_happened_and_what_to_do(reason: Reason) -> None:
    found = words(event(reason, code="never seen"))
    assert found is BY_REASON[reason]


@pytest.mark.parametrize("found", [*BY_REASON.values(), *BY_CODE.values()])
def test_they_are_whole_sentences(found: object) -> None:
    for text in (found.what, found.todo):  # type: ignore[attr-defined]
        assert re.fullmatch(r"[A-Z].*\.", text)


def test_there_are_no_words_for_codes_that_do_not_exist() -> None:
    assert BY_CODE.keys() <= set(CODES)


def test_a_route_says_which_roles_it_takes_and_not_which_people() -> None:
    found = dict(facts(event(code="permission_missing", route="special"), POLICY))
    assert found["Roles that it takes"] == "a or b"
    assert "boss" not in str(found)
    assert "Roles that it takes" not in dict(facts(event(code="model_forbidden", route="special"), POLICY))


def test_the_session_of_an_api_token_is_the_token() -> None:
    record = DecisionRecord(revoked_by="session")
    assert dict(facts(event(record=record, client="tollgate:x"), POLICY))["What was revoked"] == "this API token"


def test_what_was_recorded_is_shown() -> None:
    record = DecisionRecord(roles=("infer",), plan="gold", limited_by="user-minute\x1falice", revoked_by="session")
    found = dict(facts(event(record=record, model="m", model_version="2", method="POST", path="/v2"), POLICY))
    assert found == {
        "Call": "POST /v2",
        "Model": "m, version 2",
        "Roles in the token": "infer",
        "Scopes in the token": "none",
        "Plan": "gold",
        "Limit that was used up": "user-minute",
        "What was revoked": "the session",
    }
