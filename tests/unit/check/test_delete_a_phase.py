"""Take out any one demand of `check.py`, and the table of scenarios must notice: a test of the tests."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ext_authz import check
from tests.unit.check.scenarios import SCENARIOS, Scenario, verify, world

SOURCE = Path(check.__file__).read_text()

BROKEN = {
    "phase 1: any path is the first route": (
        "match = self._routes.match(request.method, request.path, request.host, request.headers)",
        "match = self._routes.match('POST', '/v2/models/sentiment/infer')",
    ),
    "phase 1: any host": ("request.path, request.host,", "request.path, 'a.open.example',"),
    "phase 1: no host": ("request.path, request.host,", "request.path, 'models.example',"),
    "phase 1: no headers": ("request.host, request.headers)", "request.host)"),
    "phase 1: public routes reach models": ("            ensure_public(match, context, request)\n", ""),
    "phase 1: any protocol": ("            _ensure_protocol(request, match)\n", ""),
    "phase 1: every route is public": ("if match.route.public:", "if True:"),
    "phase 1: no route is public": ("if match.route.public:", "if False:"),
    "phase 1: public calls are not written down": (
        "            self._record(request, context)\n",
        "",
    ),
    "phase 1: there is no console": ("console=policy.tokens is not None", "console=False"),
    "the console gets no credential": ("upstream=match.route.upstream", "upstream=''"),
    "every upstream gets the credential": ("upstream=match.route.upstream", "upstream='tollgate'"),
    "phase 2: no token is required": (
        "identity = await self._identity(request, context, match.route.failure)",
        "identity = __import__('ext_authz.identity.identity').identity.identity.Identity("
        "context.principal, 'kc', '', 0, 0.0, (), frozenset(), frozenset({'infer', 'doctor', 'models-admin'}))",
    ),
    "phase 2: a token in the query is overlooked": (
        "            _ensure_no_query_token(request.query)\n",
        "            pass\n",
    ),
    "phase 2: the caller is not reported": (
        ", identity.principal, identity.degraded",
        ", context.principal, identity.degraded",
    ),
    "phase 2: quotas are read as a call": ("        if match.route in self._routes.reads:\n", "        if False:\n"),
    "phase 2: every call reads quotas": ("        if match.route in self._routes.reads:\n", "        if True:\n"),
    "phase 2: models are read as quotas": ("        if route is self._routes.quota:\n", "        if True:\n"),
    "phase 2: quotas are read as models": ("        if route is self._routes.quota:\n", "        if False:\n"),
    "phase 4: the index goes to Triton": ("if context.answer is None else _answer(context)", ""),
    "phase 4: every call gets an index": ("if context.answer is None else", "if False else"),
    "phase 3: everyone may": (
        "        ensure_permitted(identity, match, context, request, self._policy)\n",
        "",
    ),
    "phase 3: at any time": ("        context.at_ms = milliseconds(context.decision_id)\n", ""),
    "phase 3: the version is not looked at": (
        "context.model, context.version = _target(match, request)",
        "context.model, context.version = _target(match, request)[0], '1'",
    ),
    "phase 3: the message's model is not read": ("    return model, version\n", "    return 'sentiment', version\n"),
    "phase 3: any name": ("    ensure_model(model)\n", ""),
    "phase 3: the first of two versions": (" or len(request.versions) > 1", ""),
    "phase 3: any version": ("    ensure_version(version)\n", ""),
    "phase 3: a call without a body costs quota": ("        ensure_body(request, match)\n", ""),
    "phase 3: bodies may be packed": ("        ensure_uncompressed(request, match)\n", ""),
    "phase 4: nothing is settled": (
        "context.settle_result = await self._settlement.settle(prepared.complete(context, request))",
        "context.settle_result = __import__('ext_authz.settlement.model')"
        ".settlement.model.SettleResult(0, -1, (9, 99), (60_000, 60_000))",
    ),
    "phase 4: the answer is not read": (
        "context.quotas = prepared.quotas(context.settle_result)",
        "context.quotas = ()",
    ),
    "phase 4: what a refusal was decided without is not reported": (
        "        context.degraded = context.settle_result.degraded or identity.degraded\n",
        "",
    ),
    "an outage lets in": (
        "            return self._denied(request, context, outage)\n",
        "            return Allow(context.decision_id, context.principal, context.route)\n",
    ),
    "a refusal lets in": (
        "            return self._denied(request, context, denied)\n",
        "            return Allow(context.decision_id, context.principal, context.route)\n",
    ),
    "refusals are not written down": (
        "            self._record(request, context, denied.reason, denied.code)\n",
        "            pass\n",
    ),
}


def broken(old: str, new: str) -> ModuleType:
    """`check.py` with one thing taken out, as a module of its own."""
    assert SOURCE.count(old) == 1, f"check.py changed: {old!r} is not there once"
    module = ModuleType("broken_check")
    sys.modules["broken_check"] = module
    exec(compile(SOURCE.replace(old, new), "broken_check.py", "exec"), module.__dict__)
    return module


async def failures(module: ModuleType) -> list[str]:
    return [scenario.name for scenario in SCENARIOS if not await holds(scenario, module)]


async def holds(scenario: Scenario, module: ModuleType) -> bool:
    here = world(scenario.answer, module)
    try:
        verify(scenario, await here.decide(scenario.request), here.settlement)
    except AssertionError:
        return False
    return True


async def test_the_whole_check_holds() -> None:
    assert await failures(broken("START HERE", "START HERE")) == []


@pytest.mark.parametrize("what", BROKEN)
async def test_a_check_with_a_hole_is_noticed(what: str) -> None:
    assert await failures(broken(*BROKEN[what]))
