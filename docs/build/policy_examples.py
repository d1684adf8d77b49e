"""Examples for the policy reference: for every field one or more, and a whole policy in which each is good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from ext_authz.policy.documents import ExplainDocument, PolicyDocument, ResponsesDocument
from ext_authz.policy.documents.asap import AsapDocument
from ext_authz.policy.documents.base import Part
from ext_authz.policy.documents.gitlab import (
    GitlabDocument,
    GitlabLevelsDocument,
    GitlabProjectDocument,
    GitlabRightsDocument,
)
from ext_authz.policy.documents.issuers import ClaimsDocument, DpopDocument, IntrospectionDocument, IssuerDocument
from ext_authz.policy.documents.limits import (
    ClientAddressDocument,
    CostDocument,
    FloodDocument,
    LimitDocument,
    PlanDocument,
)
from ext_authz.policy.documents.models import (
    ExperimentDocument,
    MirrorDocument,
    ModelDocument,
    OverrideDocument,
    PermissionDocument,
    PredictionsDocument,
    VersionDocument,
)
from ext_authz.policy.documents.routes import FailureDocument, RouteDocument
from ext_authz.policy.documents.tokens import TokensDocument
from ext_authz.policy.documents.web import CorsDocument, ResourceDocument

Example = dict[str, Any]
"""The field with a value, and the fields that must stand beside it."""

WHOLE: Mapping[str, Any] = MappingProxyType(
    {
        "version": 1,
        "issuers": [
            {
                "name": "main",
                "issuer": "https://id.example/realms/ml",
                "audiences": ["triton-gateway"],
                "claims": {"keep": ["tenant", "plan"]},
            }
        ],
        "plans": {"gold": {"roles": ["gold"]}},
        "limits": {"user-minute": {"key": ["user"], "rate": "10/minute"}},
        "models": {"sentiment": {"roles": ["infer"]}},
        "routes": [{"name": "infer", "operation": "infer", "limits": ["user-minute"]}],
    }
)
"""A small policy; every example stands somewhere in it."""


class Place(Enum):
    """The parts of a policy, in the order of the reference."""

    POLICY = (PolicyDocument, "The whole file")
    RESOURCE = (ResourceDocument, "resource")
    CORS = (CorsDocument, "cors")
    TOKENS = (TokensDocument, "tokens")
    ISSUER = (IssuerDocument, "issuers")
    CLAIMS = (ClaimsDocument, "issuers.claims")
    DPOP = (DpopDocument, "issuers.dpop")
    INTROSPECTION = (IntrospectionDocument, "issuers.introspection")
    ASAP = (AsapDocument, "issuers.asap")
    GITLAB = (GitlabDocument, "issuers.gitlab")
    GITLAB_RIGHTS = (GitlabRightsDocument, "issuers.gitlab.rights")
    GITLAB_PROJECT = (GitlabProjectDocument, "issuers.gitlab.rights.projects")
    GITLAB_LEVELS = (GitlabLevelsDocument, "issuers.gitlab.rights.levels")
    PLAN = (PlanDocument, "plans")
    LIMIT = (LimitDocument, "limits")
    COST = (CostDocument, "limits.cost")
    FLOOD = (FloodDocument, "flood")
    CLIENT_ADDRESS = (ClientAddressDocument, "client_address")
    MODEL = (ModelDocument, "models")
    VERSION = (VersionDocument, "models.versions")
    PREDICTIONS = (PredictionsDocument, "models.predictions")
    PERMISSION = (PermissionDocument, "permission")
    ROUTE = (RouteDocument, "routes")
    EXPERIMENT = (ExperimentDocument, "experiments")
    OVERRIDE = (OverrideDocument, "experiments.override")
    MIRROR = (MirrorDocument, "experiments.mirror")
    FAILURE = (FailureDocument, "failure")
    RESPONSES = (ResponsesDocument, "responses")
    EXPLAIN = (ExplainDocument, "explain")

    def __init__(self, part: type[Part], title: str) -> None:
        self.part = part
        self.title = title


_BESIDES: Mapping[tuple[Place, str], Example] = {
    (Place.PLAN, "claim"): {"values": ["silver"]},
    (Place.PLAN, "values"): {"claim": "plan"},
    (Place.LIMIT, "burst"): {"algorithm": "gcra"},
    (Place.LIMIT, "timezone"): {"algorithm": "calendar"},
    (Place.LIMIT, "anchor"): {"algorithm": "calendar", "key": ["client"], "rate": "10000/month"},
    **{
        (Place.TOKENS, name): {"issuer": "https://models.example.com/tollgate"}
        for name in ("jwks_url", "audiences", "max_lifetime", "per_owner", "administrators")
    },
    (Place.TOKENS, "plain_http"): {
        "issuer": "https://models.example.com/tollgate",
        "jwks_url": "http://console.mesh.internal:9010/tollgate/jwks",
    },
    (Place.ISSUER, "plain_http"): {"jwks_url": "http://keys.mesh.internal/certs"},
    (Place.ISSUER, "dpop"): {"cnf": "verify"},
    (Place.ISSUER, "asap"): {"issuer": "team/web"},
    (Place.ISSUER, "gitlab"): {"issuer": "https://gitlab.example"},
    (Place.GITLAB, "rights"): {"applications": ["2f7c9a51e0d3"]},
    (Place.MODEL, "see"): {"visibility": "private"},
    (Place.ROUTE, "path"): {"methods": ["POST"]},
    (Place.ROUTE, "methods"): {"path": "/v2/models/{model}/infer"},
    (Place.ROUTE, "encoding"): {"path": "/files/{rest=**}", "methods": ["GET"]},
    (Place.ROUTE, "upstream"): {"path": "/shop/{rest=**}", "methods": ["GET"]},
    (Place.ROUTE, "keep_token"): {"path": "/shop/{rest=**}", "methods": ["GET"], "upstream": "shop"},
    (Place.ROUTE, "public"): {"path": "/v2/health/live", "methods": ["GET"]},
    (Place.FAILURE, "grace"): {"redis": "local"},
    (Place.FAILURE, "local_share"): {"redis": "local"},
}

_MORE: Mapping[tuple[Place, str], Any] = {
    (Place.POLICY, "realm"): "ml.example",
    (Place.POLICY, "resource"): {"url": "https://models.example.com", "name": "Models of ACME"},
    (Place.POLICY, "cors"): {"origins": ["https://app.example.com"]},
    (Place.POLICY, "tokens"): {
        "issuer": "https://models.example.com/tollgate",
        "audiences": ["triton-gateway"],
        "administrators": {"role": "tollgate-admin"},
    },
    (Place.POLICY, "issuers"): [WHOLE["issuers"][0]],
    (Place.POLICY, "plans"): {"gold": {"roles": ["gold"]}},
    (Place.POLICY, "limits"): {"user-minute": {"key": ["user"], "rate": "10/minute"}},
    (Place.POLICY, "flood"): {"rate": "50/second", "burst": 100},
    (Place.POLICY, "client_address"): {"trusted_hops": 1},
    (Place.POLICY, "models"): {"sentiment": {"roles": ["infer"]}, "draft-*": {"roles": ["author"]}},
    (Place.POLICY, "routes"): [{"name": "infer", "operation": "infer", "limits": ["user-minute"]}],
    (Place.POLICY, "experiments"): {"sentiment-v2": {"model": "sentiment", "weights": {"stable": 90, "canary": 10}}},
    (Place.POLICY, "failure"): {"redis": "local", "grace": "60s"},
    (Place.POLICY, "responses"): {"hints": False},
    (Place.POLICY, "explain"): {"keep": "1d"},
    (Place.ISSUER, "asap"): {"repositories": ["https://keys.example/asap"], "roles": ["infer"]},
    (Place.ISSUER, "gitlab"): {"applications": ["2f7c9a51e0d3"], "jobs": ["team"]},
    (Place.GITLAB, "rights"): {"projects": {"team/forecast": {}}},
    (Place.GITLAB_RIGHTS, "levels"): {"read": "guest"},
    (Place.GITLAB_RIGHTS, "stale"): "5m",
    (Place.ISSUER, "jwks_url"): "https://id.example/keys.json",
    (Place.ISSUER, "algorithms"): ["RS256", "ES256"],
    (Place.ISSUER, "claims"): {"roles": ["app.roles"], "scopes": ["scp"]},
    (Place.ISSUER, "dpop"): {"max_age": "30s", "nonce": True},
    (Place.ISSUER, "leeway"): "10s",
    (Place.ISSUER, "max_token_age"): "1h",
    (Place.ISSUER, "jwks_refresh"): "1m",
    (Place.ISSUER, "jwks_cooldown"): "30s",
    (Place.ISSUER, "jwks_max_stale"): "4h",
    (Place.DPOP, "max_age"): "30s",
    (Place.ISSUER, "introspection"): {
        "client_id": "triton-gateway",
        "client_secret": "${TOLLGATE_INTROSPECTION_SECRET}",
        "lightweight": True,
    },
    (Place.INTROSPECTION, "url"): "https://id.example/introspect",
    (Place.INTROSPECTION, "cache"): "5s",
    (Place.CORS, "max_age"): "1h",
    (Place.TOKENS, "max_lifetime"): "30d",
    (Place.TOKENS, "per_owner"): 10,
    (Place.LIMIT, "algorithm"): "sliding_window",
    (Place.CLIENT_ADDRESS, "trusted_hops"): 2,
    (Place.MODEL, "see"): {"any": [{"role": "infer"}, {"role": "auditor"}]},
    (Place.MODEL, "predictions"): {"inputs": "hashed", "readers": {"role": "sentiment-owner"}},
    (Place.PREDICTIONS, "keep"): "7d",
    (Place.VERSION, "see"): {"role": "tester"},
    (Place.VERSION, "administer"): {"role": "platform"},
    (Place.EXPERIMENT, "override"): {
        "header": "x-experiment",
        "values": {"canary": "canary"},
        "permission": {"role": "tester"},
    },
    (Place.EXPERIMENT, "mirror"): {"to": "canary", "percent": 10},
    (Place.MIRROR, "percent"): 10,
    (Place.FAILURE, "grace"): "5m",
    (Place.RESPONSES, "problem_base"): "https://errors.example/",
    (Place.EXPLAIN, "keep"): "1d",
}
"""For fields that bring no example, and of which none can be derived."""


def examples(place: Place, name: str, info: FieldInfo) -> Iterator[Example]:
    """One at least."""
    besides = _BESIDES.get((place, name), {})
    for value in info.examples or (_other(place, name, info),):
        yield {name: value} | besides


def _other(place: Place, name: str, info: FieldInfo) -> Any:  # noqa: ANN401 - any value of the language
    """A value that is not the default."""
    if (place, name) in _MORE:
        return _MORE[place, name]
    if info.annotation is bool:
        return not info.default
    if get_origin(info.annotation) is Literal:
        return next(value for value in get_args(info.annotation) if value != info.default)
    raise LookupError(f"the reference has no example for {place.title}: {name}")
