"""A compiled policy, as the request path reads it. `load.py` makes it from `policy.yaml`.

Durations are in whole seconds. Permissions and the rights on models are in `rights.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Literal

from msgspec import Struct

from ext_authz.policy.cel.expressions import Amount, Condition
from ext_authz.policy.issuers import Issuer, OwnTokens
from ext_authz.policy.kserve import Kind, ModelScope, Right
from ext_authz.policy.names import Encoding
from ext_authz.policy.rights import EVERYONE, ModelRules, Permission

DEFAULT_PLAN = "default"
RESOURCE_METADATA = "/.well-known/oauth-protected-resource"  # RFC 9728 section 3, for a resource without a path


LimitKey = str
"""One part of what a limit counts by: a `LimitPart`, or `claim:NAME` (a claim that the issuer's `keep` names)."""

LimitPart = Literal["user", "client", "token", "path", "model", "ip", "route"]
"""`path` is the path without its query string, `ip` the client's address behind the trusted hops."""


class Algorithm(IntEnum):
    """The numbers are arguments of the settlement script."""

    FIXED_WINDOW = 0
    """A window opens with the first request and lasts `window`: `limit` requests in it."""
    GCRA = 1
    """Generic cell rate: one request per `window / limit`, and `burst` at once (ITU-T I.371)."""
    SLIDING_WINDOW = 2
    """`limit` requests in any `window` that ends now."""
    CALENDAR = 3
    """`limit` requests in each `period` of the calendar, in UTC."""


class Limit(Struct, frozen=True):
    """The limit of one plan: `limit` per `window` for every distinct value of `key`."""

    name: str
    key: tuple[LimitKey, ...]
    limit: int
    window: int
    """Seconds; of a calendar period its longest (a month: 31 days)."""
    algorithm: Algorithm = Algorithm.FIXED_WINDOW
    burst: int = 0
    """GCRA only: how many may come at once (at least 1)."""
    period: str = ""
    """Calendar only: second, minute, hour, day, week (from Monday), month, year."""


class Plan(Struct, frozen=True, eq=False):
    """Applies to a caller with one of `roles`, or whose kept claim has one of `values` (a list: holds one of them)."""

    name: str
    roles: frozenset[str] = frozenset()
    claim: str = ""
    values: frozenset[str] = frozenset()


class Cost(Struct, frozen=True, eq=False):
    """What one request takes from a limit: `amount`, or the value of a header or an expression, from 1 to `most`.

    A value that is missing or above `most` costs `most`; one below 1 costs 1.
    """

    amount: int = 1
    header: str = ""
    expression: Amount | None = None
    most: int = 1


class LimitRule(Struct, frozen=True, eq=False):
    """One entry under `limits:`, with the `Limit` of each plan."""

    name: str
    by_plan: Mapping[str, Limit]
    """All have one key, algorithm and period; `DEFAULT_PLAN` is always in it."""
    cost: Cost = Cost()
    dry_run: bool = False
    """Counts, reports (code `dry_run_over_limit`), never refuses."""
    billing_days: Mapping[str, Mapping[str, int]] | None = None
    """On which day the months of a client begin, by issuer and client; of clients that are not there on the 1st. None:
    they are those of the calendar."""

    def of(self, plan: str) -> Limit:
        return self.by_plan.get(plan) or self.by_plan[DEFAULT_PLAN]

    @property
    def key(self) -> tuple[str, ...]:
        """What it counts by: user, client, token, path, model, ip, route, `claim:NAME`."""
        return self.by_plan[DEFAULT_PLAN].key


BUDGET = "budget"
"""Name of the limit that refuses clients whose billing account has used up its budget. Nothing is taken from it: who
looks after budgets writes it, with more used than the limit until the billing period ends."""
OVER_BUDGET = LimitRule(
    BUDGET, {DEFAULT_PLAN: Limit(BUDGET, ("client",), 1, 32 * 86_400, period="billing period")}, Cost(amount=0, most=0)
)


class Flood(Struct, frozen=True):
    """Refusals without a verified caller, per worker and address: `rate` per `window`, `burst` at once (GCRA)."""

    rate: int
    window: int
    burst: int


class OnFailure(StrEnum):
    """What a check does while a dependency does not answer."""

    DENY = "deny"
    LOCAL = "local"
    """Decide with the state of this worker, for `Failure.grace` since the dependency last answered; then deny."""
    ALLOW = "allow"


class Failure(Struct, frozen=True):
    """What to do while a dependency does not answer."""

    redis: OnFailure = OnFailure.DENY
    postgres: OnFailure = OnFailure.DENY
    jwks: OnFailure = OnFailure.DENY
    grace: int = 60
    local_share: float = 1.0
    """The part of every limit that one worker may use by itself while LOCAL."""


class Route(Struct, frozen=True, eq=False):
    """One rule. Exactly one applies to a request. Compared by object identity, so that it can key caches."""

    name: str
    path: str = ""
    """Template: `/v2/models/{model}/infer`, `/files/{rest=**}`; a gRPC method is its path, `/package.Service/Method`
    (all of a service: `/package.Service/{method}`). Empty for a route by operation."""
    methods: frozenset[str] = frozenset()
    operation: Kind | None = None
    """Instead of `path`: every call of this kind, over both protocols."""
    grpc: bool = False
    """For gRPC callers only; otherwise for all others only. For a route by operation the path of the call decides."""
    hosts: tuple[str, ...] = ()
    """Lower case; `*.suffix` matches every host below it. Empty: any host."""
    headers: frozenset[str] = frozenset()
    """Lower-case names that must be present."""
    public: bool = False
    """No credential required, no limit, still in the ledger."""
    permission: Permission = EVERYONE
    when: Condition | None = None
    limits: tuple[LimitRule, ...] = ()
    failure: Failure = Failure()
    """That of the policy, with the changes of the route."""
    max_duration: int = 600
    """How long an allowed call may last."""
    encoding: Encoding = Encoding.STRICT
    upstream: str = ""
    """The application that serves it; empty: the model server."""
    keeps_token: bool = False
    """The application gets the caller's token."""


class Match(Struct, frozen=True, eq=False):
    """The route that applies to one call, and what the call is. Cached: the same call has the same object."""

    route: Route
    model: str = ""
    version: str = ""
    operation: Kind | None = None
    """None: not part of the KServe surface."""
    right: Right = Right.CALL
    """What the caller must be allowed to do with the models in `scope`."""
    scope: ModelScope = ModelScope.NONE
    grpc: bool = False
    model_from_message: bool = False
    path: str = ""
    """As its upstream reads it: decoded. Empty: as it was sent."""


class Override(Struct, frozen=True, eq=False):
    """A caller with the permission selects the variant with a header."""

    header: str
    """Lower case."""
    values: Mapping[str, str]
    """Value of the header to variant; any other value is ignored."""
    permission: Permission


class Mirror(Struct, frozen=True):
    """Envoy copies calls of the first variant to another one, whose answers nobody gets."""

    to: str
    percent: int


class Experiment(Struct, frozen=True, eq=False):
    """The callers of one model assigned to variants, each caller always to the same one."""

    name: str
    model: str
    weights: Mapping[str, int]
    """Variant to per cent, 100 in all, in the order of the file; an unauthenticated caller gets the first."""
    salt: str
    override: Override | None = None
    versions: Mapping[str, str] = {}
    """Variant to the version of the model that it serves, where the policy says so."""
    mirror: Mirror | None = None


class Responses(Struct, frozen=True):
    """The content of responses."""

    problem_base: str = "urn:tollgate:problem:"
    """Base URI of RFC 9457 problem types."""
    hints: bool = True
    ratelimit_headers: bool = True
    decision_header: bool = True
    resource_metadata: str = ""
    """The address that challenges name (RFC 9728 section 5.1); empty: none."""
    dpop: tuple[str, ...] = ()
    """Algorithms of DPoP proofs that some issuer's tokens may be presented with; empty: none."""


class Resource(Struct, frozen=True):
    """What everyone may read (RFC 9728). `url`: an origin; `scopes`: all that the permissions of the policy name."""

    url: str
    title: str = ""
    documentation: str = ""
    scopes: tuple[str, ...] = ()

    @property
    def metadata_url(self) -> str:
        return self.url + RESOURCE_METADATA


class Cors(Struct, frozen=True):
    """Which web pages may call (`*`: any), and what they may send and read. Sorted, but for the origins."""

    origins: tuple[str, ...]
    headers: tuple[str, ...] = ()
    exposed_headers: tuple[str, ...] = ()
    max_age: int = 600
    credentials: bool = False


class Policy(Struct, frozen=True, eq=False):
    """One complete, valid policy."""

    hash: str
    """First 16 hex digits of the SHA-256 of what was read; in every ledger event."""
    issuers: tuple[Issuer, ...]
    routes: tuple[Route, ...]
    models: ModelRules
    realm: str = "tollgate"
    """`realm` of WWW-Authenticate."""
    resource: Resource | None = None
    cors: Cors | None = None
    tokens: OwnTokens | None = None
    """None: there are none, and no console."""
    plans: tuple[Plan, ...] = ()
    """The first that applies to a caller wins; otherwise it is `DEFAULT_PLAN`."""
    limits: Mapping[str, LimitRule] = {}
    """All of them by name, used or not."""
    flood: Flood | None = None
    trusted_hops: int = 0
    """How many entries of X-Forwarded-For, from the right, trusted proxies wrote; 0: the address is the TCP peer."""
    experiments: Mapping[str, Experiment] = {}  # by model name
    failure: Failure = Failure()
    responses: Responses = Responses()
    explain_keep: int = 3600
    """Seconds for which a decision can be decided again by its id; 0: no record of decisions is kept."""
    explain_usernames: bool = False
    """Keep `preferred_username` in the ledger."""

    @property
    def longest_life(self) -> int:
        """Seconds after which no token is accepted that has been issued by now: how long a revocation of many tokens
        has to stay in force."""
        issuers = (*self.issuers, self.tokens.issuer) if self.tokens else self.issuers
        return max((issuer.max_token_age + issuer.leeway for issuer in issuers), default=0)
