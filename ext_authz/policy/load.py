"""From `policy.yaml` to a whole, valid `Policy`, or one ConfigError that names everything that is wrong."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from ext_authz.errors import ConfigError
from ext_authz.limits.limit import Algorithm, Limit
from ext_authz.policy.document import IssuerDocument, LimitDocument, PolicyDocument, RouteDocument
from ext_authz.policy.model import DEFAULT_PLAN, Issuer, LimitRule, Policy, Responses, Route
from ext_authz.policy.operation import ModelScope
from ext_authz.policy.routes import RouteTable

_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}", re.ASCII)
_ANY_TYPE = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_STRICT_TYPE = frozenset({"at+jwt", "application/at+jwt"})


def load_policy(path: Path, environ: Mapping[str, str]) -> Policy:
    """Read, substitute `${NAME}` from `environ`, validate, compile.

    Raises:
        ConfigError: names the file and every fault in it.
    """
    try:
        raw = path.read_bytes()
        document = PolicyDocument.model_validate(_substituted(yaml.load(raw, _StrictLoader), environ))  # noqa: S506 - derives from SafeLoader
        policy = _compiled(document, hashlib.sha256(raw).hexdigest()[:16])
        RouteTable(policy.routes)  # two routes that claim one path are found here
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        raise ConfigError(f"{path}: {' '.join(str(wrong).split())}") from None
    except ValidationError as wrong:
        raise ConfigError(
            f"{path}: " + "; ".join(_sentence(error["loc"], error["msg"]) for error in wrong.errors())
        ) from None
    except ConfigError as wrong:
        raise ConfigError(f"{path}: {wrong}") from None
    return policy


class _StrictLoader(yaml.SafeLoader):
    """YAML takes the last of two equal keys in silence; a policy may not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:  # noqa: FBT001, FBT002 - PyYAML's signature
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key, count in Counter(map(str, keys)).items() if count > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _substituted(value: object, environ: Mapping[str, str]) -> object:
    match value:
        case str():
            return _VARIABLE.sub(lambda found: _variable(found[1], environ), value)
        case list():
            return [_substituted(item, environ) for item in value]
        case dict():
            return {key: _substituted(item, environ) for key, item in value.items()}
        case _:
            return value


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise ConfigError(f"the environment variable {name} that the policy refers to is not set")
    return environ[name]


def _sentence(loc: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, loc)) or 'policy'}: {text[:1].lower()}{text[1:]}"


def _compiled(document: PolicyDocument, digest: str) -> Policy:
    _ensure_distinct("issuer name", (issuer.name for issuer in document.issuers))
    _ensure_distinct("issuer", (issuer.issuer for issuer in document.issuers))
    _ensure_distinct("route", (route.name for route in document.routes))
    limits = {name: _limit(name, limit) for name, limit in document.limits.items()}
    return Policy(
        hash=digest,
        issuers=tuple(_issuer(issuer) for issuer in document.issuers),
        routes=tuple(_route(route, limits) for route in document.routes),
        models={name: model.roles for name, model in document.models.items()},
        realm=document.realm,
        limits=limits,
        responses=Responses(document.problem_base),
    )


def _ensure_distinct(what: str, names: Iterable[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{what} {twice[0]!r} stands twice")


def _issuer(document: IssuerDocument) -> Issuer:
    return Issuer(
        name=document.name,
        issuer=document.issuer,
        jwks_url=document.key_set_url(),
        audiences=document.audiences,
        algorithms=frozenset(document.algorithms),
        types=_STRICT_TYPE if document.strict_type else _ANY_TYPE,
        clients=document.clients,
        roles_client=document.roles_client,
        leeway=document.leeway,
        max_token_age=document.max_token_age,
        jwks_refresh=document.jwks_refresh,
        jwks_cooldown=document.jwks_cooldown,
        jwks_max_stale=document.jwks_max_stale,
    )


def _limit(name: str, document: LimitDocument) -> LimitRule:
    amount, window = document.amount()
    limit = Limit(name, document.key, amount, window)
    if document.algorithm == "gcra":
        limit = Limit(name, document.key, amount, window, Algorithm.GCRA, document.burst or amount)
    return LimitRule(name, {DEFAULT_PLAN: limit})


def _route(document: RouteDocument, limits: Mapping[str, LimitRule]) -> Route:
    if unknown := [name for name in document.limits if name not in limits]:
        known = ", ".join(limits) or "none"
        raise ConfigError(f"route {document.name!r}: limit {unknown[0]!r} is not defined (defined: {known})")
    return Route(
        name=document.name,
        path=document.path or f"/{document.grpc}",
        methods=frozenset(document.methods or {"POST"}),
        grpc=document.grpc is not None,
        public=document.public,
        roles=document.roles,
        model=ModelScope(document.model),
        limits=tuple(limits[name] for name in document.limits),
    )
