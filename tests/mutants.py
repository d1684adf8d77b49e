"""Hand-made holes in what decides, each of which some fast test must notice: `make mutants`, some minutes.

A mutant is the package with one text replaced, put before the real one on the path; the tests of the decision run over
it until the first fails. A mutant that lives is a test that is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    *("tests/unit/render/test_answers.py", "tests/unit/render/test_classification.py"),
    *("tests/unit/policy/test_routes.py", "tests/unit/policy/test_names.py"),
    *("tests/spec", "tests/unit/check", "tests/unit/edge/test_authorizer.py", "tests/unit/settlement"),
    *("tests/e2e/settlement/test_behaviour.py", "tests/properties/test_settlement_machine.py"),
)

CHECK, AUTHORIZER, LUA = "check.py", "edge/authorizer.py", "settlement/settle.lua"
BODIES, ANSWERS, SENTENCES, MESSAGES, CLASSES, QUOTA_READS = (
    "phases/bodies.py",
    "render/answers.lua",
    "render/sentences.lua",
    "render/messages.lua",
    "render/classification.lua",
    "phases/quota_reads.py",
)
NAMES, ROUTES, TEMPLATES = "policy/names.py", "policy/routes.py", "policy/templates.py"
MUTANTS: dict[str, tuple[str, str, str]] = {
    "a public route asks nothing": (CHECK, "            ensure_public(match, context, request)\n", ""),
    "permissions are not checked": (
        CHECK,
        "        ensure_permitted(identity, match, context, request, self._policy)\n",
        "",
    ),
    "the settlement's answer is not read": (
        CHECK,
        "context.quotas = prepared.quotas(context.settle_result)",
        "context.quotas = ()",
    ),
    "an outage lets in": (
        CHECK,
        "            return self._denied(request, context, outage)\n",
        "            return Allow(context.decision_id, context.principal, context.route)\n",
    ),
    "a refusal lets in": (
        CHECK,
        "            return self._denied(request, context, denied)\n",
        "            return Allow(context.decision_id, context.principal, context.route)\n",
    ),
    "refusals are not written down": (
        CHECK,
        "            self._record(request, context, denied.reason, denied.code)\n",
        "            pass\n",
    ),
    "REST passes for gRPC": (CHECK, "            _ensure_protocol(request, match)\n", ""),
    "a token in the query is taken": (CHECK, "            _ensure_no_query_token(request.query)\n", ""),
    "stale keys are believed everywhere": (CHECK, "failure.jwks is OnFailure.LOCAL", "failure.jwks is not None"),
    "there is no flood": (
        CHECK,
        "            self._ensure_no_flood(request, context)\n        try",
        "            pass\n        try",
    ),
    "bad tokens make no flood": (
        CHECK,
        "                self._count_refusal(request, context)\n            raise\n\n    def _cached",
        "                pass\n            raise\n\n    def _cached",
    ),
    "quota reads are let through": (
        CHECK,
        "        if match.route in self._routes.reads:\n"
        "            return await self._read(identity, match.route, request, context)\n",
        "",
    ),
    "the index of the models is always Triton's": (CHECK, " if context.answer is None else _answer(context)", ""),
    "the owner of a refused token is not known": (
        CHECK,
        "context.refused, context.principal = denied.identity, denied.identity.principal",
        "pass",
    ),
    "revoked callers read quotas": (QUOTA_READS, "            raise revoked(result)\n", "            pass\n"),
    "months begin on the 1st for everybody": (
        "phases/descriptors.py",
        "        window_ms += _billing_day(rule.billing_days, caller.identity) - 1\n",
        "        pass\n",
    ),
    "API tokens have the billing day of their own name": (
        "phases/descriptors.py",
        "who.subject if identity.grant else who.client, 1)",
        "who.client, 1)",
    ),
    "months end on the 1st": ("settlement/calendar.lua", "day + min(days_after_first, days - 1)", "day"),
    "clients over budget are let through": (
        "policy/model.py",
        'Limit(BUDGET, ("client",), 1, 32',
        'Limit(BUDGET, ("client",), 9, 32',
    ),
    "budgets are used up by calls": ("policy/model.py", "Cost(amount=0, most=0)", "Cost(amount=1, most=1)"),
    "a budget is a quota of requests": (
        "phases/settle_request.py",
        "            quotas = quotas[:-1]\n",
        "            pass\n",
    ),
    "quota reads take": (QUOTA_READS, "replace(counter.quota_request, cost=0)", "counter.quota_request"),
    "quotas are read without the right to call": (
        QUOTA_READS,
        "        ensure_permitted(self._identity, match, context, call, self._policy)\n",
        "",
    ),
    "shared quotas are read without a call": (
        QUOTA_READS,
        "return needs if needs or shared or not",
        "return needs if True or not",
    ),
    "quotas are read without end": (QUOTA_READS, "        self.ensure_rate(identity, context)\n", ""),
    "models are listed without end": (CHECK, "            self._quota_reads.ensure_rate(identity, context)\n", ""),
    "a call outlives its token": (CHECK, "    if left >= cap:\n", "    if True:\n"),
    "a bug raises": (
        AUTHORIZER,
        "except Exception as wrong:  # noqa: BLE001 - the edge",
        "except Denied as wrong:  # noqa: BLE001 - the edge",
    ),
    "a bug is an empty answer": (AUTHORIZER, "return None, UNDECIDED[grpc]", 'return None, b""'),
    "tokens are not revoked": (LUA, "for i = 1, 5 do\n      local held", "for i = 2, 5 do\n      local held"),
    "issuers are not revoked": (LUA, "for i = 1, 5 do\n      local held", "for i = 1, 4 do\n      local held"),
    "users are not revoked": (LUA, "if held and byte", "if held and i ~= 3 and byte"),
    "sessions are not revoked": (LUA, "if held and byte", "if held and i ~= 2 and byte"),
    "clients are not revoked": (LUA, "if held and byte", "if held and i ~= 4 and byte"),
    "what was issued in that second passes": (LUA, "or NEVER) >= issued_at", "or NEVER) > issued_at"),
    "what was lifted is revoked": (LUA, "byte(held) ~= 45 and ", ""),
    "any Redis is complete": (LUA, "local complete = values[1] == ARGV[2]", "local complete = true"),
    "no Redis is complete": (LUA, "local complete = values[1] == ARGV[2]", "local complete = false"),
    "a full ledger takes more": (LUA, 'if event ~= "" and depth >= ledger_max then', "if false then"),
    "what comes too late is done": (LUA, "if now > tonumber(ARGV[3]) then", "if false then"),
    "who is refused pays": (LUA, "    if wait then\n", "    if false then\n"),
    "who passes does not pay": (LUA, "if states[i] and flat[at + 5] > 0 then", "if false then"),
    "a window takes one more": (LUA, "if used + cost <= limit then", "if used + cost <= limit + 1 then"),
    "a bucket takes one more": (LUA, "if after <= full then", "if after <= full + interval then"),
    "a dry run refuses": (LUA, "if wait and flat[at + 6] then", "if false then"),
    "what passed is not written down": (
        LUA,
        '      call("XADD", ledger_key, "*", "e", event, "o", OK_AS_TEXT)\n',
        "",
    ),
    "what is revoked is not written down": (LUA, 'event, "o", outcome, "r", by)', 'event, "o", 0, "r", by)'),
    "a path with escapes may mean two routes": (
        ROUTES,
        '    if closest(site.root, read[1:].split("/")) is not served:\n        raise not_canonical()\n',
        "",
    ),
    "every route takes escapes": (ROUTES, "if route.encoding is Encoding.STRICT}", "if False}"),
    "conditions read what no upstream reads": (ROUTES, "read if route.encoding is Encoding.DECODED", "path if False"),
    "wide routes serve models of KServe v1": (
        ROUTES,
        '"/inference.GRPCInferenceService/", OF_V1)',
        '"/inference")',
    ),
    "any place of a template names a model of KServe v1": (
        ROUTES,
        'not route.path.startswith(f"{OF_V1}{{model}}")',
        'not (model and path.startswith("/v1"))',
    ),
    "a route may name a model of KServe v1 without its right": (
        ROUTES,
        '        model = segments[2].partition(":")[0]\n',
        "        pass\n",
    ),
    "operations serve KServe v1": (ROUTES, "if operation and not operation.by_path", "if operation"),
    "escapes of slashes are taken": (NAMES, "(?:2[0-46-9A-C]", "(?:2[0-46-9A-CF]"),
    "escapes of percent signs are taken": (NAMES, "(?:2[0-46-9A-C]", "(?:2[0-9A-C]"),
    "escapes need not be UTF-8": (NAMES, 'errors="strict"', 'errors="replace"'),
    "escapes of controls are taken": (NAMES, "(?!C2%[89])", ""),
    "wider routes serve what ends with a verb": (TEMPLATES, "return _NOWHERE if slashed", "return None if slashed"),
    "Triton gets a form": (ANSWERS, ' or kind:lower():find("x-www-form-urlencoded", 1, true)', ""),
    "callers see paths of the server": (
        SENTENCES,
        "return before .. (path:match",
        "return before .. path .. (path:match",
    ),
    "callers see tracebacks": (SENTENCES, 'text:find("\\n\\nAt:", 1, true) or ', ""),
    "callers see all of it": (SENTENCES, "or harmless(text)", "or text"),
    "callers of streams see all of it": (ANSWERS, "      rewrite_stream(handle, passing, false)\n", ""),
    "half a message goes on": (MESSAGES, "size <= LONGEST and start + size - 1 > #bytes", "false"),
    "HEAD has a body": (ANSWERS, '    send(handle, "")\n', ""),
    "HEAD of an error has a body": (ANSWERS, 'asked.head and "" or answer', "answer"),
    "Triton refuses HEAD": (ANSWERS, '    headers:replace(":method", "GET")\n', ""),
    "a mistake of the caller is one of the server": (SENTENCES, 'status == "500" and MALFORMED or {}', "{}"),
    "a dead model is a failure": (SENTENCES, "status == failed and ", "false and "),
    "no call has a body": (BODIES, ' and request.headers.get("content-length") == "0":', ":"),
    "gRPC has no body": (BODIES, "in _WITH_BODY and not match.grpc and", "in _WITH_BODY and"),
    "metadata has a body": (BODIES, "match.operation in _WITH_BODY and not", "not"),
    "streams have no messages": (BODIES, ", Kind.STREAM})", "})"),
    "messages may be packed": (BODIES, '"grpc-encoding" if match.grpc else "content-encoding"', '"content-encoding"'),
    "JSON may ask for classes": (CLASSES, "return first ~= nil", "return false"),
    "messages may ask for classes": (CLASSES, "asks = asks or inner", "asks = asks"),
    "streams may ask for classes": (CLASSES, ', "N")', ', "n")'),
    "what is no message stays one": (CLASSES, "if instead then", "if false then"),
    "a stream has no limit": (CLASSES, "frame.length > LARGEST", "false"),
    "each word is replaced by itself": (CLASSES, "  if from.edits then\n", "  if from.edits then apply(from)\n"),
    "a script that fails lets in": (ANSWERS, "      drop(passing)\n    else", "    else"),
    "a script that fails shows all": (ANSWERS, "    conceal(handle, passing)\n", ""),
    "all messages may be packed": (BODIES, "match.operation is not None if match.grpc else ", ""),
    "long answers are read": (ANSWERS, "and not is_long(headers)", ""),
    "good answers are read": (ANSWERS, 'status >= "400" and ', ""),
    "any window is given back to": (LUA, "if window_end == expiry and window_end > now then", "if true then"),
}


def main() -> None:
    """Exit code 1 if one lives."""
    if _noticed(str(ROOT)):
        sys.exit("the tests fail without any mutant")
    alive = [name for name in MUTANTS if not _dies(name)]
    print(f"{len(MUTANTS) - len(alive)} of {len(MUTANTS)} died")  # noqa: T201 - a command
    sys.exit(bool(alive))


def _dies(name: str) -> bool:
    file, old, new = MUTANTS[name]
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory, "ext_authz")
        shutil.copytree(ROOT / "ext_authz", package)
        text = (package / file).read_text()
        if text.count(old) != 1:
            sys.exit(f"{file} changed: what {name!r} replaces stands in it {text.count(old)} times")
        (package / file).write_text(text.replace(old, new))
        died = _noticed(directory)
    print(f"{'died ' if died else 'LIVES'}  {name}", flush=True)  # noqa: T201 - a command
    return died


def _noticed(directory: str) -> bool:
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": directory}, capture_output=True, check=False
    )
    return done.returncode == 1


if __name__ == "__main__":
    main()
