"""The joined bytes are the message that one would build field by field, whatever the claims hold."""

from __future__ import annotations

import json
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.decision import Allow, Deny, Principal, Quota, Reason
from ext_authz.edge.refusals import REFUSALS
from ext_authz.edge.response import Responder
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse, HeaderValueOption
from ext_authz.policy.model import Responses
from ext_authz.policy.names import CONSOLE
from tests.unit.edge.answers import every_header, headers, metadata, read, refusal

RESPONDER = Responder("tollgate", Responses("urn:tollgate:problem:"), "hash")
PLACEHOLDERS = ["~" * 36, "\x7f" * 36, "\x7f" * 35, "~" * 300, "\x00" * 36]
ONE_BYTE_LENGTHS = [0x7E, 0x7F]
"""Lengths that protobuf writes as one byte that is a placeholder character."""

texts = st.one_of(
    st.text(st.characters(), max_size=40),
    st.text('\r\n\x00\x7f~,%-"\\ é\ud800', max_size=60),
    st.sampled_from(PLACEHOLDERS),
    st.builds(
        lambda text, length: text.ljust(length, "x")[:length],
        st.sampled_from(PLACEHOLDERS),
        st.sampled_from(ONE_BYTE_LENGTHS),
    ),
)
principals = st.builds(Principal, texts, texts, texts, st.lists(texts, max_size=3).map(tuple), texts)
numbers = st.integers(0, 10**9)
quotas = st.lists(st.builds(Quota, texts, numbers, numbers, numbers, numbers), max_size=3).map(tuple)
decision_ids = st.uuids().map(str)
upstreams = st.sampled_from(("", "shop", CONSOLE))
allows = st.builds(
    Allow,
    decision_ids,
    principals,
    texts,
    texts,
    quotas,
    variant=st.just("") | texts,
    lasts=numbers,
    upstream=upstreams,
    keeps_token=st.booleans(),
)
denies = st.builds(
    Deny, decision_ids, st.sampled_from(Reason), texts, texts, texts, principals, texts, texts, quotas, numbers
)

quick = settings(max_examples=60)  # six of these share the unit suite's seconds


def _overwrite(key: str, value: str) -> HeaderValueOption:
    option = HeaderValueOption(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
    option.append.SetInParent()
    option.header.key, option.header.value = key, value
    return option


def _percent(text: str) -> str:
    if text in ("", "-"):
        return "%2D" if text else "-"
    kept = (string.ascii_letters + string.digits + "_.-~/:@+=").encode()
    return "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in text.encode(errors="surrogatepass"))


def _clean(text: str) -> str:
    return text.encode(errors="backslashreplace").decode().replace("\x7f", "?")


def _item(name: str) -> str:
    return '"' + "".join(char if " " <= char <= "~" and char not in '"\\' else "?" for char in name) + '"'


def _field_by_field(allow: Allow) -> CheckResponse:
    caller = allow.principal
    roles = ",".join(_percent(role) for role in caller.roles) or "-"
    identity = {
        "x-user-id": _percent(caller.subject),
        "x-client-id": _percent(caller.client),
        "x-user-roles": roles,
        "x-token-issuer": _percent(caller.issuer),
        "x-authz-model": "*" if allow.every_model else _percent(allow.model),
        "x-authz-version": "*" if allow.every_model or (allow.model and not allow.version) else _percent(allow.version),
        "x-model-variant": _percent(allow.variant),
        **({"x-authz-upstream": allow.upstream} if allow.upstream else {}),
        "x-decision-id": allow.decision_id,
        "x-envoy-upstream-stream-duration-ms": f"{max(1, allow.lasts)}",
    }
    variant = {"x-model-variant": _percent(allow.variant)} if allow.variant else {}
    sent = {**variant, "x-decision-id": allow.decision_id}
    if allow.quotas:
        sent["ratelimit-policy"] = ", ".join(f"{_item(q.name)};q={q.limit};w={q.window}" for q in allow.quotas)
        sent["ratelimit"] = ", ".join(f"{_item(q.name)};r={q.remaining};t={q.reset}" for q in allow.quotas)
    message = CheckResponse()
    message.status.SetInParent()
    message.ok_response.headers.extend(_overwrite(*header) for header in identity.items())
    credential = ["dpop"] if allow.keeps_token else ["authorization", "dpop"]
    credential = [] if allow.upstream == CONSOLE else credential
    message.ok_response.headers_to_remove.extend(
        [*credential, "x-envoy-auth-failure-mode-allowed", "x-envoy-auth-partial-body"]
    )
    message.ok_response.response_headers_to_add.extend(_overwrite(*header) for header in sent.items())
    log = {"subject": caller.subject, "client": caller.client, "issuer": caller.issuer, "token_id": caller.token_id}
    log |= {"route": allow.route, "model": allow.model, "reason": "allowed", "code": "allowed", "policy": "hash"}
    log |= {"variant": allow.variant} if allow.variant else {}
    for name, value in (log | {"decision_id": allow.decision_id}).items():
        message.dynamic_metadata.fields[name].string_value = _clean(value)
    return message


@quick
@given(allows)
def test_an_allow_equals_the_message_built_field_by_field(allow: Allow) -> None:
    assert read(RESPONDER.build(allow, request_is_grpc=False)) == _field_by_field(allow)


@quick
@given(allows, st.booleans())
def test_an_allow_does_not_depend_on_what_was_answered_before(allow: Allow, grpc: bool) -> None:  # noqa: FBT001 - hypothesis
    kept, fresh = RESPONDER, Responder("tollgate", Responses("urn:tollgate:problem:"), "hash")

    assert kept.build(allow, grpc) == kept.build(allow, grpc)
    assert read(kept.build(allow, grpc)) == read(fresh.build(allow, grpc))


@quick
@given(denies)
def test_an_http_refusal_states_the_decision(deny: Deny) -> None:
    message = RESPONDER.build(deny, request_is_grpc=False)
    row = REFUSALS.get(deny.reason, REFUSALS[Reason.INTERNAL])
    reason, code, detail = row.shown_as or (deny.reason, deny.code, deny.detail)
    problem = json.loads(refusal(message).body)

    assert read(message).status.code == row.grpc
    assert (problem["type"], problem["code"]) == (f"urn:tollgate:problem:{reason}", _clean(code))
    assert (problem["detail"], problem["decision_id"]) == (_clean(detail), deny.decision_id)
    assert problem["instance"] == f"urn:uuid:{deny.decision_id}"
    assert problem["error"] == f"{_clean(detail)} (decision {deny.decision_id})"


@quick
@given(denies)
def test_a_grpc_refusal_states_the_decision(deny: Deny) -> None:
    message = RESPONDER.build(deny, request_is_grpc=True)
    row = REFUSALS.get(deny.reason, REFUSALS[Reason.INTERNAL])
    _, code, detail = row.shown_as or (deny.reason, deny.code, deny.detail)

    assert read(message).status.code == row.grpc
    assert refusal(message).body == f"{_clean(code)}: {_clean(detail)} (decision {deny.decision_id})"
    assert headers(refusal(message).headers)["x-decision-id"] == deny.decision_id


@quick
@given(denies, st.booleans())
def test_a_refusal_is_logged_as_decided(deny: Deny, grpc: bool) -> None:  # noqa: FBT001 - hypothesis passes by position
    caller = deny.principal
    log = {"subject": caller.subject, "client": caller.client, "issuer": caller.issuer, "token_id": caller.token_id}
    log |= {"route": deny.route, "model": deny.model, "reason": deny.reason, "code": deny.code, "policy": "hash"}

    logged = metadata(RESPONDER.build(deny, grpc))

    assert logged == {name: _clean(value) for name, value in log.items()} | {"decision_id": deny.decision_id}


@quick
@given(st.one_of(allows, denies), st.booleans())
def test_every_header_overwrites_in_both_ways_and_holds_printable_ascii(decision: Allow | Deny, grpc: bool) -> None:  # noqa: FBT001 - hypothesis
    message = RESPONDER.build(decision, grpc)

    assert message
    for option in every_header(message):
        assert option.HasField("append")
        assert option.append.value is False
        assert option.append_action == HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        assert option.header.value.isascii()
        assert option.header.value.isprintable()
        assert option.header.value
