"""What `up` prints when everything answers: addresses, and lines that work when they are pasted."""

from __future__ import annotations

import json
import sys
from shlex import quote

from devstack.stack.probe import has_proxy
from devstack.stack.stack import Stack

_LOGIN = """\
TOKEN=$(curl -s {issuer}/protocol/openid-connect/token \\
    -d grant_type=password -d client_id=web-app -d username={user} -d password={password} \\
    | python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])')
"""
_CURL = """\
curl -i {envoy}/v2/models/sentiment/infer -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
    -d '{{"inputs": [{{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["I love it"]}}]}}'
"""
_PYTHON = """\
TOKEN=$TOKEN {python} - <<'EOF'
import os, numpy, tritonclient.grpc as triton
client = triton.InferenceServerClient("{envoy_grpc}")
text = triton.InferInput("text", [1, 1], "BYTES")
text.set_data_from_numpy(numpy.array([["I love it"]], dtype=object))
token = {{"authorization": "Bearer " + os.environ["TOKEN"]}}
answer = client.infer("sentiment", [text], headers=token)
print({{name: answer.as_numpy(name).item() for name in ("label", "score", "caller")}})
EOF
"""
_SHOWN_USERS = 4


def welcome(stack: Stack) -> str:
    """Shows no secret: only files that hold them."""
    # For the caller's own shell; `up` and all that it starts use no proxy anyway.
    no_proxy = "A proxy is set: first paste  export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1\n"
    last = "tollgate status, tollgate down; Ctrl-C stops everything"
    return "\n".join([*_addresses(stack), "", *([no_proxy] if has_proxy() else []), *_examples(stack), last])


def _addresses(stack: Stack) -> list[str]:
    to = stack.addresses
    lines = {
        "models": f"{to.envoy}/v2/ (REST) and {to.envoy_grpc} (gRPC), through Envoy",
        "issuer": to.issuer,
        "authorizer": f"{to.admin}/metrics; tollgate policy status",
        "envoy": f"curl --unix-socket {to.envoy_admin} http://envoy/stats",
        "policy": str(stack.settings.policy),
        "logs": str(stack.state.root / "log"),
        "operators": f"(. {quote(str(stack.write_variables()))}; tollgate revoke user --username alice)",
    }
    return [f"  {name:<11} {line}" for name, line in lines.items()]


def _examples(stack: Stack) -> list[str]:
    if stack.settings.issuer:
        return ["With a token of your realm in TOKEN:", "", _calls(stack)]
    users = _users(stack)
    shown = ", ".join(f"{name}/{password} ({', '.join(roles) or 'no role'})" for name, password, roles in users)
    name, password, _ = users[0]
    token = _LOGIN.format(issuer=stack.addresses.issuer, user=name, password=password)
    return [f"  users       {shown}", "", "Paste this:", "", token, _calls(stack)]


def _calls(stack: Stack) -> str:
    to = stack.addresses
    return f"{_CURL.format(envoy=to.envoy)}\n{_PYTHON.format(envoy_grpc=to.envoy_grpc, python=sys.executable)}"


def _users(stack: Stack) -> list[tuple[str, str, list[str]]]:
    """Name, password and client roles: the realm is for development, and its passwords are no secret."""
    users = json.loads(stack.settings.realm.read_bytes())["users"]
    people = [user for user in users if user.get("credentials")][:_SHOWN_USERS]
    return [(user["username"], user["credentials"][0]["value"], _roles(user)) for user in people]


def _roles(user: dict[str, dict[str, list[str]]]) -> list[str]:
    return [role for roles in user.get("clientRoles", {}).values() for role in roles]
