"""The way to applications of the policy: the authorizer's header chooses the route, and cookies are parted.

Models, console and applications share a host, and so a browser sends each the cookies of all. Each application gets its
own only (`cookies.lua`); models get none. What an application answers is left as it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from ext_authz.policy.model import Policy
from ext_authz.render import filters
from ext_authz.render.clusters import upstream_cluster
from ext_authz.render.endpoints import Json, Timeouts, duration
from ext_authz.render.exposed_paths import ExposedPaths
from ext_authz.render.headers import UPSTREAM

_COOKIES = Path(__file__).parent / "cookies.lua"


def upstream_routes(
    policy: Policy, exposed: ExposedPaths, known: Collection[str], timeouts: Timeouts
) -> Iterator[Json]:
    """`known` have an address. The last one is for all others, also for those of a policy that only the authorizer has
    yet: what was allowed for an application reaches no model, whatever the paths of models are."""
    retries = {"retry_on": "connect-failure", "num_retries": 2}
    for name, patterns in exposed.upstreams.items():
        how = {"cluster": upstream_cluster(name), "timeout": duration(timeouts.request), "retry_policy": retries}
        chosen = [{"name": UPSTREAM, "string_match": {"exact": name}}]
        for paths in patterns if name in known else ():
            match: Json = {"safe_regex": {"regex": paths}, "headers": chosen}
            yield {"match": match, "route": how, "typed_per_filter_config": settings(policy, name)}
    others = {"prefix": "/", "headers": [{"name": UPSTREAM, "present_match": True}]}
    yield {"match": others, "direct_response": {"status": 404}}


def settings(policy: Policy, name: str) -> Json:
    """Of the filters, for its routes."""
    code = f"local NAME = {json.dumps(name)}\n\n{_COOKIES.read_text()}"
    kind = f"{filters.EXTENSIONS}.filters.http.lua.v3.LuaPerRoute"
    found: Json = {filters.ANSWERS: {"@type": kind, "source_code": {"inline_string": code}}}
    return found | filters.no_cors(policy)


def without_address(exposed: ExposedPaths, known: Collection[str]) -> Iterator[str]:
    """A warning for each."""
    for name in exposed.upstreams:
        if name not in known:
            yield f"warning: the paths of the application {name!r} get 404: say where it is with --upstream {name}=..."
