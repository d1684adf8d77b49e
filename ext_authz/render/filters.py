"""The parts of Envoy's configuration that follow from the policy, the same for Envoy alone and for Istio's gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ext_authz.edge.request import TARGET
from ext_authz.policy.kserve import naming_fields
from ext_authz.policy.model import Policy
from ext_authz.policy.names import CONSOLE, CONSOLE_SERVICES
from ext_authz.render import headers
from ext_authz.render.endpoints import Json, Timeouts, duration
from ext_authz.render.exposed_paths import ExposedPaths

EXTENSIONS = "type.googleapis.com/envoy.extensions"
EXT_AUTHZ = "envoy.filters.http.ext_authz"
BUFFER = "envoy.filters.http.buffer"
ROUTER = "envoy.filters.http.router"
CORS = "tollgate.cors"
"""Not the usual name, which Istio gives to its own, behind the check."""
HEADER_MUTATION = "envoy.filters.http.header_mutation"

NOBODY_IS_INTERNAL: Json = {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]}
"""Without a range Envoy treats every private address as internal; no client has this one."""

ANSWERS = "tollgate.answers"
_NO_SCRIPT: Json = {"@type": f"{EXTENSIONS}.filters.http.lua.v3.LuaPerRoute", "disabled": True}

_READER = Path(__file__).parent / "target.lua"
_ANSWERS = [Path(__file__).parent / f"{part}.lua" for part in ("classification", "sentences", "messages", "answers")]


def named(name: str, kind: str, config: Json) -> Json:
    """One filter or extension; `kind` is its message below `envoy.extensions`."""
    return {"name": name, "typed_config": {"@type": f"{EXTENSIONS}.{kind}", **config}}


def longest(policy: Policy, timeouts: Timeouts) -> str:
    """The longest call of the policy, and its arrival: a limit that holds whatever the authorizer answers."""
    return duration(max(route.max_duration for route in policy.routes) + timeouts.request)


def target_reader(exposed: ExposedPaths) -> Json:
    """Passes to the authorizer which model a gRPC message names (`target.lua`)."""
    named_by = "".join(f"  [{json.dumps(path)}] = {_in_lua(naming_fields(path))},\n" for path in exposed.naming_rpcs)
    return _lua(TARGET, f"local SPACE = {json.dumps(TARGET)}\nlocal NAMED = {{\n{named_by}}}\n\n{_READER.read_text()}")


def answers(policy: Policy, timeouts: Timeouts) -> Json:
    """What callers get of Triton (`answers.lua`): behind the authorizer, so that this decides on the method as sent."""
    known = f"local BASE = {json.dumps(policy.responses.problem_base)}\nlocal LARGEST = {timeouts.grpc_bytes}\n"
    return _lua(ANSWERS, "\n".join([known, *(part.read_text() for part in _ANSWERS)]))


def _lua(name: str, code: str) -> Json:
    # No header that a script changes chooses a route.
    config = {"default_source_code": {"inline_string": code}, "clear_route_cache": False}
    return named(name, "filters.http.lua.v3.Lua", config)


def _in_lua(fields: Mapping[int, str]) -> str:
    return f"{{ {', '.join(f'[{number}] = {json.dumps(what)}' for number, what in fields.items())} }}"


def check(policy: Policy) -> Json:
    """What every check contains and what its answer may do."""
    names = headers.wanted(policy)
    return {
        "metadata_context_namespaces": [TARGET],
        # Repeated headers stay apart, and bytes stay bytes.
        "encode_raw_headers": True,
        # The variant is chosen by the authorizer, so the route is chosen after it.
        "clear_route_cache": True,
        # Envoy's own word for it: a header (XFCC) is what some other proxy says.
        **({"include_peer_certificate": True} if headers.verifies_keys(policy) else {}),
        **(
            {"disallowed_headers": _exactly(headers.CREDENTIALS)}
            if names is None
            else {"allowed_headers": _exactly(names)}
        ),
    }


def unchecked() -> Json:
    """For routes that Envoy answers by itself: at once, without the check, and without a body, which would be
    buffered for everyone."""
    disabled = {"@type": f"{EXTENSIONS}.filters.http.ext_authz.v3.ExtAuthzPerRoute", "disabled": True}
    return {EXT_AUTHZ: disabled, **unbuffered(), **unread()}


def unread() -> Json:
    """For routes on which no Triton is called: `answers` neither waits for bodies nor changes answers."""
    return {ANSWERS: _NO_SCRIPT}


def unnamed() -> Json:
    """For routes of REST calls, which name their model in the path."""
    return {TARGET: _NO_SCRIPT}


def readable_by_pages(policy: Policy) -> dict[str, str]:
    """Headers of what Envoy answers by itself, which its CORS filter leaves out."""
    return {} if policy.cors is None else {"access-control-allow-origin": "*"}


def cors() -> Json:
    """Before the check, so that preflight requests need no token and pages can read refusals."""
    return named(CORS, "filters.http.cors.v3.Cors", {})


def cors_host(policy: Policy) -> Json:
    """Settings of the virtual host; none where no page may call."""
    wanted = policy.cors
    if wanted is None:
        return {}
    methods = {method for route in policy.routes for method in route.methods or ("GET", "POST") if not route.grpc}
    settings = {
        "@type": f"{EXTENSIONS}.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": origin} for origin in wanted.origins],
        "allow_methods": ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set()))),
        "allow_headers": ", ".join(wanted.headers),
        "expose_headers": ", ".join(wanted.exposed_headers),
        "max_age": str(wanted.max_age),
        "allow_credentials": wanted.credentials,
    }
    vary = {"header": {"key": "vary", "value": "origin"}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}
    return {"typed_per_filter_config": {CORS: settings}, "response_headers_to_add": [vary]}


def no_cors(policy: Policy) -> Json:
    """Of a route that no page of another origin may call. Without a list of its own it would have that of the host."""
    if policy.cors is None:
        return {}
    never = {"filter_enabled": {"default_value": {"numerator": 0}}}
    return {CORS: {"@type": f"{EXTENSIONS}.filters.http.cors.v3.CorsPolicy", **never}}


def _exactly(names: tuple[str, ...]) -> Json:
    return {"patterns": [{"exact": name, "ignore_case": True} for name in names]}


def early_header_mutation(policy: Policy) -> Json:
    """Before Envoy reads a request: removes the headers that only the authorizer or Envoy may set."""
    mutations: list[Json] = [{"remove": name} for name in headers.refused(policy)]
    mutations.append(_without({"prefix": headers.RESERVED_PREFIX, "ignore_case": True}))
    kind = "http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return named("envoy.http.early_header_mutation.header_mutation", kind, {"mutations": mutations})


def header_mutation() -> Json:
    """Upstreams get neither Envoy's own headers nor the trailers of a request.

    Trailers come after the check: nothing has checked them, and a gRPC server may take them for headers. In front of
    the authorizer, whose own `x-envoy-` headers must stay.
    """
    mutations = {
        "request_mutations": [
            _without({"prefix": headers.RESERVED_PREFIX, "ignore_case": True}),
            {"remove": "trailer"},
        ],
        "request_trailers_mutations": [_without({"safe_regex": {"regex": ".*"}})],
    }
    return named(HEADER_MUTATION, "filters.http.header_mutation.v3.HeaderMutation", {"mutations": mutations})


_COPY = """
-- Whether the console verifies the credential itself: it may be none that an issuer of the policy has signed.
local function for_console(path)
  for _, place in ipairs(CONSOLE) do
    if path:sub(1, #place) == place then
      return true
    end
  end
end

function envoy_on_request(call)
  local headers = call:headers()
  headers:remove(COPY)
  if for_console(headers:get(":path") or "") then
    return
  end
  local scheme, token = (headers:get("authorization") or ""):match("^(%a+) (.+)$")
  if not scheme or (scheme:lower() ~= "bearer" and scheme:lower() ~= "dpop") then
    return
  end
  token = OWN and token:match("^tgl_%w+~(.+)$") or token
  if not OPAQUE or token:match("^[%w_-]+%.[%w_-]+%.[%w_-]+$") then
    headers:add(COPY, token)
  end
end
"""


def token_copy(policy: Policy) -> Json:
    """Of the token that the authorizer removes; never one that a caller sent. The scheme is compared without case, as
    the authorizer does: Istio's own comparison would pass over `bearer`, and so over the token. Of opaque tokens, which
    only their issuer can verify, there is no copy where the policy accepts some; of our own API tokens it is the JWS
    inside."""
    opaque = any(issuer.introspection and issuer.introspection.opaque for issuer in policy.issuers)
    places = [f"/{first}/" for first in (CONSOLE, *CONSOLE_SERVICES)] if policy.tokens else []
    known = {"COPY": headers.TOKEN_COPY, "OPAQUE": opaque, "OWN": policy.tokens is not None}
    start = "".join(f"local {name} = {json.dumps(value)}\n" for name, value in known.items())
    start += f"local CONSOLE = {{ {', '.join(map(json.dumps, places))} }}\n"
    return _lua("tollgate.token_copy", start + _COPY)


def no_token_copy() -> Json:
    config = {"mutations": {"request_mutations": [{"remove": headers.TOKEN_COPY}]}}
    return named("tollgate.no_token_copy", "filters.http.header_mutation.v3.HeaderMutation", config)


def _without(names: Json) -> Json:
    return {"remove_on_match": {"key_matcher": names}}


def router() -> Json:
    return named(ROUTER, "filters.http.router.v3.Router", {"suppress_envoy_headers": True})


def buffer(max_request_bytes: int) -> Json:
    """Limits REST bodies, after the authorizer: only authorized callers make Envoy buffer one."""
    return named(BUFFER, "filters.http.buffer.v3.Buffer", {"max_request_bytes": max_request_bytes})


def unbuffered() -> Json:
    """For routes of gRPC calls, whose size is limited elsewhere and whose streams cannot be buffered."""
    return {BUFFER: {"@type": f"{EXTENSIONS}.filters.http.buffer.v3.BufferPerRoute", "disabled": True}}
