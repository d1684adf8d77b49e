"""docs/errors.md has every code that the authorizer and Envoy answer with, under its reason and statuses."""

from __future__ import annotations

import re

import pytest
from grpc import StatusCode

from ext_authz.check import OVERLOADED
from ext_authz.decision import Reason
from ext_authz.edge.refusals import REFUSALS
from ext_authz.ledger.selection import CODES, NOT_RECORDED
from ext_authz.ledger.stream import OUTCOMES
from ext_authz.phases.flood_guard import CODE as FLOOD
from ext_authz.policy.routes import OPTIONS
from ext_authz.render.endpoints import Timeouts
from ext_authz.render.filters import answers
from ext_authz.render.local_replies import (
    local_replies,
    proxy_too_old,
    token_not_verified,
    too_many_from_address,
)
from tests.docs.codes import ROOT, raised_in
from tests.unit.render.policies import demo

TEXT = (ROOT / "docs/errors.md").read_text()
SECTIONS = dict(re.findall(r"^## (\d\d\d \w+)\n(.*?)(?=^## )", TEXT, re.M | re.S))
OUTAGES = {f"{dependency}_unavailable" for dependency in ("redis", "postgres", "jwks", "introspection", "ledger")}


def codes(section: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", section, re.M)


@pytest.mark.parametrize("reason", REFUSALS, ids=str)
def test_a_reason_has_its_statuses_and_codes(reason: Reason) -> None:
    refusal = REFUSALS[reason]
    section = SECTIONS[f"{refusal.http} {reason}"]
    named = re.search(r"^gRPC `(\w+)`", section, re.M)
    assert named
    assert StatusCode[named[1]].value[0] == refusal.grpc
    raised = {code for why, code in raised_in("ext_authz") if why == reason.upper()}
    made = {"over_limit": {FLOOD}, "unavailable": {OVERLOADED, *OUTAGES}, "method_not_allowed": {OPTIONS}}
    assert sorted(codes(section)) == sorted(raised | made.get(reason, set()))


def test_decisions_can_be_selected_by_every_code_of_a_row() -> None:
    of_sections = {code for section in SECTIONS.values() for code in codes(section)}
    of_allowed_calls = {code for reason, code in OUTCOMES.values() if code and not reason}
    assert sorted((*CODES, *NOT_RECORDED)) == sorted(of_sections | of_allowed_calls)


def test_answers_of_envoy_are_there() -> None:
    table = codes(TEXT.partition("## Answers of Envoy")[2].partition("## Answers of Triton")[0])
    of_gateways = (proxy_too_old(demo()), token_not_verified(demo()), too_many_from_address(demo()))
    rendered = str((local_replies(demo(), Timeouts()), *of_gateways))
    assert set(table) == set(re.findall(r"'code': '(\w+)'", rendered))


def test_answers_of_triton_are_there() -> None:
    script = answers(demo(), Timeouts())["typed_config"]["default_source_code"]["inline_string"]
    assert set(codes(TEXT.partition("## Answers of Triton")[2])) == set(re.findall(r'{ "(\w+)", "', script))
