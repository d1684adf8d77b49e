"""What `up` prints when everything answers: addresses, and lines that work when they are pasted, in their order."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from shlex import quote
from typing import Any

from devstack.stack.applications import SENTIMENT
from devstack.stack.probe import has_proxy
from devstack.stack.stack import Stack

CALL, ASK, END = "Call a model:", "Ask and change what runs, in any folder:", "Ctrl-C stops everything, and so does:"
"""What stands before the lines to paste."""

# For the caller's own shell; `up` and all that it starts use no proxy anyway.
_NO_PROXY = "export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1\n"
_LOGIN = """\
TOKEN=$(curl -s {issuer}/protocol/openid-connect/token \\
    -d grant_type=password -d client_id=web-app -d username={user} -d password={password} \\
    | python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])')
"""
_CALLS = """\
curl -i {envoy}/v2/models/sentiment/infer -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
    -d '{{"inputs": [{{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["I love it"]}}]}}'

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
_COMMANDS = """\
{tollgate} decisions --since 15m
{tollgate} explain "$({tollgate} decisions --limit 1 --format csv | tail -n 1 | cut -d, -f2)"
{tollgate} usage --by user --by model
printf %s "$TOKEN" | {tollgate} revoke user --jwt - --reason 'to see it'
{tollgate} revocations list
printf %s "$TOKEN" | {tollgate} revocations lift user --jwt -
{tollgate} policy status
{tollgate} status
curl -s {admin}/metrics
curl -s --unix-socket {envoy_admin} http://envoy/stats
eval "$({tollgate} env)"
"""
_SHOWN_USERS = 4


def welcome(stack: Stack) -> str:
    """Shows no secret."""
    to, program = stack.addresses, _program()
    calls = _CALLS.format(envoy=to.envoy, envoy_grpc=to.envoy_grpc, python=quote(sys.executable))
    commands = _COMMANDS.format(tollgate=program, admin=to.admin, envoy_admin=quote(str(to.envoy_admin)))
    first = "\n".join([*([_NO_PROXY] if has_proxy() else []), *([] if stack.settings.issuer else [_login(stack)])])
    where = f"{CALL[:-1]}, with a token of your realm in TOKEN:" if stack.settings.issuer else CALL
    parts = [*_addresses(stack), "", where, "", *([first] if first else []), calls, ASK, "", commands, END, ""]
    return "\n".join([*parts, f"{program} down"])


def _program() -> str:
    """As another shell finds it: `uv run` changes the PATH of this process only."""
    beside = Path(sys.executable).with_name("tollgate")
    on_path = shutil.which("tollgate")
    if on_path and Path(on_path) == beside and "UV" not in os.environ:
        return "tollgate"
    return quote(str(beside)) if beside.exists() else f"{quote(sys.executable)} -m ext_authz"


def _addresses(stack: Stack) -> list[str]:
    to, names = stack.addresses, [part.name for part in stack.parts]
    lines = {
        "models": f"{to.envoy}/v2/ (REST) and {to.envoy_grpc} (gRPC), through Envoy",
        **({"console": f"{to.public_url}/tollgate/"} if "console" in names else {}),
        **({"sentiment": f"{to.public_url}/sentiment/"} if SENTIMENT in names else {}),
        "issuer": to.issuer,
        "policy": str(stack.settings.policy),
        "logs": str(stack.state.root / "log"),
    }
    if stack.settings.observability:
        lines["status"] = f"http://127.0.0.1:{stack.settings.status_port}"
        lines["prometheus"] = f"http://127.0.0.1:{stack.settings.prometheus_port}"
    if not stack.settings.issuer:
        people = (f"{name}/{password} ({', '.join(roles) or 'no role'})" for name, password, roles in _users(stack))
        lines["users"] = ", ".join(people)
    return [f"  {name:<11} {line}" for name, line in lines.items()]


def _login(stack: Stack) -> str:
    name, password, _ = _users(stack)[0]
    return _LOGIN.format(issuer=stack.addresses.issuer, user=name, password=password)


def _users(stack: Stack) -> list[tuple[str, str, list[str]]]:
    """Name, password and roles: the realm is for development, and its passwords are no secret."""
    users = json.loads(stack.settings.realm.read_bytes())["users"]
    people = [user for user in users if user.get("credentials")][:_SHOWN_USERS]
    return [(user["username"], user["credentials"][0]["value"], _roles(user)) for user in people]


def _roles(user: dict[str, Any]) -> list[str]:
    own = [role for role in user.get("realmRoles", ()) if not role.startswith("default-roles-")]
    return [*own, *(role for roles in user.get("clientRoles", {}).values() for role in roles)]
