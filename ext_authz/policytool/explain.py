"""What a check did, phase by phase, read from the context that it filled; and the lines that are printed of it.

Nothing is evaluated a second time. Only why other routes do not apply, which no check needs to know, is found out here:
by the route table, over each of them alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity, plain
from ext_authz.phases.context import Trace
from ext_authz.policy.kserve import ModelScope
from ext_authz.policy.model import Limit, Route
from ext_authz.policy.names import RESERVED, Encoding
from ext_authz.policy.own_routes import OF_CONSOLE
from ext_authz.policy.routes import RouteTable
from ext_authz.policytool.simulator import SimulatedCheck
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleResult

_NOT_EVALUATED = "not evaluated"
_MOST_ROUTES = 30
_MARKS = {True: "yes", False: "no ", None: "-  "}


class Explanation(Struct, frozen=True):
    """One decision; what `policy explain --format json` prints."""

    policy: str
    """Its hash."""
    request: str
    decision: str
    """allowed or refused."""
    reason: str
    code: str
    detail: str
    degraded: str
    """The dependency without which this was decided."""
    phases: tuple[Trace, ...]
    status: int
    """HTTP; 0 where the model answers."""
    grpc: str
    headers: dict[str, str]
    """As in `simulator.Response`."""


def explanation(check: SimulatedCheck) -> Explanation:
    """Every phase, in the order of `check.py`."""
    denied = check.denied
    return Explanation(
        policy=check.policy.hash,
        request=_request(check),
        decision="refused" if denied else "allowed",
        reason=denied.reason if denied else Reason.ALLOWED,
        code=denied.code if denied else "",
        detail=check.detail,
        degraded=check.decision.degraded,
        phases=(_route(check), _identity(check), *_permission_and_later(check)),
        status=check.response.status,
        grpc=check.response.grpc,
        headers=check.response.headers,
    )


def cause(reason: str, code: str) -> str:
    """Of a refusal; the code only where it adds to the reason."""
    return reason if code in ("", reason) else f"{reason}, {code}"


def lines(found: Explanation) -> Iterator[str]:
    """The decision, each phase with what it rests on, and the response to the caller."""
    yield from phase_lines(found)
    yield f"response: {f'HTTP {found.status}, ' if found.status else 'of the model, '}gRPC {found.grpc}"
    for name, value in found.headers.items():
        yield f"  {name}: {value}"


def phase_lines(found: Explanation) -> Iterator[str]:
    """The same without the response."""
    yield found.request
    why = [cause(found.reason, found.code)] if found.reason != Reason.ALLOWED else []
    yield f"{': '.join(filter(None, [found.decision, *why, found.detail]))} (policy {found.policy})"
    if found.degraded:
        yield f"decided without {found.degraded}, as the failure policy allows"
    for number, phase in enumerate(found.phases, 1):
        yield f"{number} {_line(phase)}"
        yield from _tree(phase.parts, "  ")


def _tree(traces: Sequence[Trace], indent: str) -> Iterator[str]:
    for trace in traces:
        yield f"{indent}{_line(trace)}"
        yield from _tree(trace.parts, f"{indent}    ")


def _line(trace: Trace) -> str:
    return f"{_MARKS[trace.holds]} {trace.what}{f'  ({trace.note})' if trace.note else ''}"


def _request(check: SimulatedCheck) -> str:
    request, model = check.request, check.context.model
    named = f" for the model {model}" if request.models and model else ""
    return f"{request.method} {request.path} at {request.host}{' over gRPC' if request.is_grpc else ''}{named}"


def _route(check: SimulatedCheck) -> Trace:
    match = check.context.match
    parts = [*_routes(check, match.route if match else None), *_call(check)]
    return Trace("route", check.has_route, check.context.route if check.has_route else check.detail, parts)


def _call(check: SimulatedCheck) -> Iterator[Trace]:
    match = check.context.match
    if match is None:
        return
    yield Trace("served over", note="gRPC" if match.grpc else "plain HTTP")
    yield Trace("operation", note=match.operation.value if match.operation else "not of the KServe surface")
    if match.scope is ModelScope.ALL:
        yield Trace("takes the right", note=f"{match.right} on every model")
    elif match.scope is ModelScope.ONE:
        named = check.context.model or match.model or "the model that the message names"
        yield Trace("takes the right", note=f"{match.right} on {named}")


def _identity(check: SimulatedCheck) -> Trace:
    match, identity = check.context.match, check.context.identity
    if match is None or not check.has_route:
        return Trace("identity", note=_NOT_EVALUATED)
    if match.route.public:
        return Trace("identity", note="the route is public: no credential is read")
    if identity is None:
        return Trace("identity", holds=False, note=check.detail)
    who = f"{identity.principal.subject} of {identity.issuer_name}"
    return Trace("identity", holds=True, note=who, parts=[*_caller(identity)])


def _caller(identity: Identity) -> Iterator[Trace]:
    yield Trace("client", note=identity.principal.client or "-")
    for what, names in (("roles", identity.roles), ("scopes", identity.scopes), ("groups", identity.groups)):
        fit = plain(sorted(names))
        rest = [f"and {len(names) - len(fit)} too long or unprintable"] if len(fit) < len(names) else []
        yield Trace(what, note=", ".join([*fit, *rest]) or "-")
    for name in identity.claims:
        yield Trace(f"claim {name}", note=", ".join(identity.texts(name)))


def _permission_and_later(check: SimulatedCheck) -> Iterator[Trace]:
    """What the phases recorded themselves, and the settlement."""
    recorded = check.context.trace.parts if check.context.trace else []
    permission, *experiments = recorded or [Trace("permission", note=_NOT_EVALUATED)]
    if permission.holds is False:
        permission.note = check.detail
    yield permission
    result = check.context.settle_result
    revoked = result is not None and result.outcome is Outcome.REVOKED
    if result and result.revoked_by:
        yield Trace("not revoked", holds=False, note=f"the {result.revoked_by.label} is revoked")
    yield Trace("limits", note=_NOT_EVALUATED) if revoked or not check.context.settle_request else _limits(check)
    yield from experiments


def _limits(check: SimulatedCheck) -> Trace:
    """Every limit with its descriptor, what the call costs, and what is left."""
    context, quota_requests = check.context, check.quota_requests
    parts = [Trace("plan", note=context.plan)] if context.plan else []
    for index, (limit, quota_request) in enumerate(zip(context.limits, quota_requests, strict=True)):
        parts.append(_limit(limit, quota_request, index, context.settle_result))
    return Trace("limits", check.denied is None, check.detail, parts)


def _limit(limit: Limit, quota_request: QuotaRequest, index: int, result: SettleResult | None) -> Trace:
    values = ", ".join(f"{part} {value}" for part, value in quota_request.descriptor(limit.key).items())
    what = f"limit {limit.name}: {limit.limit} per {limit.period or f'{limit.window} s'}"
    note = f"counted by {values}; costs {quota_request.cost}{'; dry run' if quota_request.dry_run else ''}"
    if result is None or not result.remaining:
        return Trace(what, note=note)
    left = result.remaining[index]
    if left < 0:
        return Trace(what, note=f"{note}: would have refused")
    # A refused request took nothing: a limit without room for it is what refused.
    holds = result.outcome is not Outcome.LIMITED or left >= quota_request.cost
    note = f"{note}; {left} left, whole again in {-(-result.reset_ms[index] // 1000)} s"
    return Trace(what, None if quota_request.dry_run else holds, note)


def _routes(check: SimulatedCheck, chosen: Route | None) -> Iterator[Trace]:
    """The chosen one, those whose path is close with what keeps them from the call, and how many others there are."""
    if chosen:
        yield Trace(f"route {chosen.name}", holds=True, note="; ".join(_conditions(chosen)))
    others = [route for route in check.policy.routes if route is not chosen]
    # No route of a policy is for these.
    own = check.request.path.startswith(f"/{RESERVED}/") or (chosen is not None and chosen in OF_CONSOLE)
    close = [(route, why) for route in others if not own and (why := _obstacle(route, chosen, check.request))]
    for route, why in close[:_MOST_ROUTES]:
        yield Trace(f"route {route.name}", holds=False, note=why)
    if len(close) > _MOST_ROUTES:
        yield Trace(f"{len(close) - _MOST_ROUTES} more routes", holds=False, note="less specific, or as above")
    if len(others) > len(close):
        yield Trace(f"{len(others) - len(close)} other routes", holds=False, note="their path or operation is another")


def _obstacle(route: Route, chosen: Route | None, request: Request) -> str:
    """What keeps a route from a request, by the table of this route alone; empty: its path."""
    anyhow = replace(route, hosts=(), headers=frozenset(), methods=frozenset({request.method}))
    if _refusal(anyhow, request):
        if not _refusal(replace(anyhow, encoding=Encoding.DECODED), request):
            return "takes no escapes: it needs encoding: decoded, or opaque"
        closes = chosen is None and _keeps_others_away(route, request)
        return (
            "is closest to the path, does not take this spelling of it, and keeps wider routes away" if closes else ""
        )
    refusal = _refusal(route, request)
    if refusal is None:
        return f"less specific than {chosen.name}" if chosen else "the call is refused before it"
    if refusal.reason is Reason.METHOD_NOT_ALLOWED:
        return f"takes {refusal.scope}, not {request.method}"
    if refusal.code == "header_missing":
        return f"needs the header {', '.join(sorted(name for name in route.headers if name not in request.headers))}"
    return f"serves the hosts {', '.join(route.hosts)}, not {request.host}"


def _refusal(route: Route, request: Request) -> Denied | None:
    try:
        RouteTable((route,)).match(request.method, request.path, request.host, request.headers)
    except Denied as denied:
        return denied
    return None


def _keeps_others_away(route: Route, request: Request) -> bool:
    """Only where no wider route would serve the path: `/{rest=**}` is the widest."""
    widest = Route("widest", path="/{rest=**}", methods=frozenset({request.method}))
    return (
        not _refusal(widest, request)
        and RouteTable((replace(route, hosts=()),)).most_specific(request.path) is not None
    )


def _conditions(route: Route) -> Iterator[str]:
    if route.operation is not None:
        yield f"operation {route.operation}"
    else:
        yield f"{', '.join(sorted(route.methods))} {route.path}"
    if route.hosts:
        yield f"hosts {', '.join(route.hosts)}"
    if route.headers:
        yield f"headers {', '.join(sorted(route.headers))}"
    if route.public:
        yield "public"
