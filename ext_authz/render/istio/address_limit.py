"""A limit by the caller's address, in front of the check: a flood costs the gateway, not the authorizer."""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.policy.model import Policy
from ext_authz.render import filters
from ext_authz.render.endpoints import Json
from ext_authz.render.istio.gateway_filters import CONNECTIONS, MANAGER, envoy_filter, in_chain, patch
from ext_authz.render.istio.manifest import Manifest
from ext_authz.render.istio.mesh import Mesh
from ext_authz.render.local_replies import too_many_from_address

_ADDRESSES = 10_000
"""Kept; the one that was used least recently is forgotten, and begins anew."""
_KEY = "masked_remote_address"
_ALWAYS: Json = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def address_limit(policy: Policy, mesh: Mesh) -> Iterator[Manifest]:
    if mesh.address_rate:
        why = (
            f"A limit in front of the check: at most {mesh.address_rate} requests per second from one address (of "
            "IPv6: from one /64), counted by each gateway pod on its own. It protects the authorizer from floods; the "
            "limits of the policy are exact, and lower. The address is the client's, behind the trusted proxies of the "
            "policy."
        )
        yield envoy_filter(25, "addresses", 25, _patches(policy, mesh.address_rate), mesh, why)


def _patches(policy: Policy, rate: int) -> Iterator[Json]:
    replies = {"local_reply_config": too_many_from_address(policy)}
    yield patch("NETWORK_FILTER", in_chain(), "MERGE", filters.named(CONNECTIONS, MANAGER, replies))
    # Pages can read the refusal only behind the filter for CORS.
    where, operation = (in_chain(filters.CORS), "INSERT_AFTER") if policy.cors else (in_chain(), "INSERT_FIRST")
    yield patch("HTTP_FILTER", where, operation, _filter(rate))


def _filter(rate: int) -> Json:
    bucket = {"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"}
    config = {
        "stat_prefix": "tollgate_addresses",
        "filter_enabled": _ALWAYS,
        "filter_enforced": _ALWAYS,
        # Every request has an address; Envoy wants a bucket for others.
        "token_bucket": bucket,
        "always_consume_default_token_bucket": False,
        "rate_limits": [{"actions": [{_KEY: {"v6_prefix_mask_len": 64}}]}],
        "descriptors": [{"entries": [{"key": _KEY}], "token_bucket": bucket}],
        "max_dynamic_descriptors": _ADDRESSES,
        "rate_limited_as_resource_exhausted": True,
    }
    return filters.named("tollgate.addresses", "filters.http.local_ratelimit.v3.LocalRateLimit", config)
