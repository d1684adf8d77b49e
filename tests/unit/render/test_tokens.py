"""Which tokens Istio gets a copy of, to verify them a second time: those that it can verify."""

from __future__ import annotations

import pytest
from lupa.luajit21 import LuaRuntime
from msgspec.structs import replace
from pydantic import SecretStr

from ext_authz.policy.issuers import Introspection
from ext_authz.policy.model import Policy
from ext_authz.render.filters import token_copy
from ext_authz.render.istio.objects import objects
from tests.own_tokens import own_tokens
from tests.unit.render.policies import demo
from tests.unit.render.test_istio import REFERENCE_MESH

JWT = "e30.e30.c2ln"
ASKS = Introspection("https://id.example/introspect", "c", SecretStr("no-secret"))
_CALL = """
function copied(authorization, path)
  local sent = {authorization = authorization, [":path"] = path, ["x-tollgate-token"] = "forged"}
  local headers = {}
  function headers:get(name) return sent[name] end
  function headers:add(name, value) sent[name] = value end
  function headers:remove(name) sent[name] = nil end
  envoy_on_request({headers = function() return headers end})
  return sent["x-tollgate-token"]
end
"""


def asking(**rules: bool) -> Policy:
    return replace(demo(), issuers=(replace(demo().issuers[0], introspection=replace(ASKS, **rules)),))


def copied(policy: Policy, authorization: str, path: str = "/v2") -> str | None:
    lua = LuaRuntime(register_eval=False)
    lua.execute(token_copy(policy)["typed_config"]["default_source_code"]["inline_string"])
    lua.execute(_CALL)
    found: str | None = lua.globals()["copied"](authorization, path)
    return found


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "DPoP", "dpop"])
def test_a_token_of_each_scheme(scheme: str) -> None:
    assert copied(demo(), f"{scheme} {JWT}") == JWT
    assert copied(asking(opaque=True), f"{scheme} {JWT}") == JWT


def test_what_the_console_verifies_itself_has_no_copy() -> None:
    for path in ("/tollgate/signals/events", "/tollgate.tokens.v1.TokenService/CreateGrant"):
        assert copied(demo(), f"Bearer {JWT}", path) is None
        assert copied(replace(demo(), tokens=None), f"Bearer {JWT}", path) == JWT
    assert copied(demo(), f"Bearer {JWT}", "/tollgate.of.others/Call") == JWT


@pytest.mark.parametrize("authorization", ["", "Basic YTpi", JWT, "Bearer"])
def test_what_is_no_token(authorization: str) -> None:
    assert copied(demo(), authorization) is None


def test_an_opaque_token_has_no_copy_where_some_are_accepted() -> None:
    """Only its issuer can say whether it is valid. Elsewhere the copy makes Istio refuse it too."""
    assert copied(asking(opaque=True), "Bearer opaque-1") is None
    for policy in (demo(), asking(lightweight=True)):
        assert copied(policy, "Bearer opaque-1") == "opaque-1"


def test_of_an_api_token_it_is_the_jws_inside() -> None:
    own = replace(demo(), tokens=own_tokens())
    for policy in (own, replace(asking(opaque=True), tokens=own_tokens())):
        assert copied(policy, f"Bearer tgl_aB3dE6~{JWT}") == JWT
        assert copied(policy, f"Bearer {JWT}") == JWT
    assert copied(own, f"Bearer tgl_{JWT}") == f"tgl_{JWT}", "which Istio refuses, as the check does"


def test_istio_has_the_rule_of_our_own_issuer() -> None:
    policy = replace(demo(), tokens=own_tokens())
    (found,) = [
        one.content for one in objects(policy, REFERENCE_MESH) if one.content.get("kind") == "RequestAuthentication"
    ]
    assert found["spec"]["jwtRules"][-1]["issuer"] == own_tokens().issuer.issuer


def test_a_lightweight_token_has_no_audience() -> None:
    rules = []
    for policy in (demo(), asking(lightweight=True)):
        (found,) = [
            one.content for one in objects(policy, REFERENCE_MESH) if one.content.get("kind") == "RequestAuthentication"
        ]
        rules += found["spec"]["jwtRules"][:1]
    assert ["audiences" in rule for rule in rules] == [True, False]
