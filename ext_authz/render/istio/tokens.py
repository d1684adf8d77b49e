"""Istio's own verification of tokens, behind the check: a second implementation that has to agree with the first."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ext_authz.errors import ConfigError
from ext_authz.policy.issuers import Issuer
from ext_authz.policy.model import Policy
from ext_authz.render import filters
from ext_authz.render.endpoints import Json
from ext_authz.render.headers import TOKEN_COPY
from ext_authz.render.istio.gateway_filters import CONNECTIONS, MANAGER, envoy_filter, in_chain, patch
from ext_authz.render.istio.manifest import NAME, Manifest, manifest
from ext_authz.render.istio.mesh import Mesh
from ext_authz.render.local_replies import token_not_verified


def token_verification(policy: Policy, mesh: Mesh) -> Iterator[Manifest]:
    if not mesh.request_authentication:
        return
    if services := [issuer.name for issuer in policy.issuers if issuer.asap]:
        raise ConfigError(
            "--request-authentication: Istio cannot verify tokens that services sign themselves (asap), and the "
            f"policy accepts those of {services[0]}: leave the option out"
        )
    why = (
        "The authorizer removes the token of a call that it allows, and Istio verifies tokens after the check. So a "
        "copy is made in front of the check for the next object, and removed before the call leaves the gateway."
    )
    yield envoy_filter(36, "tokens", 22, _copied(policy), mesh, why)
    issuers = [*policy.issuers]
    if policy.tokens:  # istiod is no part of the mesh: it fetches our keys through the gateway
        issuers.append(replace(policy.tokens.issuer, jwks_url=f"{policy.tokens.issuer.issuer}/jwks"))
    why = (
        "A second verification of signature, issuer, audience and expiry, by Istio, of each token that the authorizer "
        "has accepted: an error in one of the two does not let a forged token through. A call without a token is left "
        "to the check. Istio fetches keys every 20 minutes: publish a new key before tokens are signed with it."
    )
    spec = {**mesh.gateway_only(selector="selector"), "jwtRules": [_rule(issuer) for issuer in issuers]}
    yield manifest(37, "RequestAuthentication", NAME, mesh.gateway_namespace, spec, why=why)


def _rule(issuer: Issuer) -> Json:
    # Keycloak's lightweight tokens have no audience: their issuer tells it to the authorizer alone.
    lightweight = issuer.introspection and issuer.introspection.lightweight
    audiences = issuer.audiences | (issuer.gitlab.applications if issuer.gitlab else frozenset())
    return {
        "issuer": issuer.issuer,
        **({} if lightweight else {"audiences": sorted(audiences)}),
        "jwksUri": issuer.jwks_url,
        # Only there: by default Istio also looks for a token in the query.
        "fromHeaders": [{"name": TOKEN_COPY}],
    }


def _copied(policy: Policy) -> Iterator[Json]:
    replies = {"local_reply_config": token_not_verified(policy)}
    yield patch("NETWORK_FILTER", in_chain(), "MERGE", filters.named(CONNECTIONS, MANAGER, replies))
    yield patch("HTTP_FILTER", in_chain(filters.EXT_AUTHZ), "INSERT_BEFORE", filters.token_copy(policy))
    yield patch("HTTP_FILTER", in_chain(filters.ROUTER), "INSERT_BEFORE", filters.no_token_copy())
