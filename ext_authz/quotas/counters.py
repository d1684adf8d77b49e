"""The counter that an administrator means: a limit of the policy, and the values that it counts by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from ext_authz.errors import ConfigError, escaped
from ext_authz.identity.own_tokens import CLIENT
from ext_authz.policy.faults import did_you_mean
from ext_authz.policy.model import DEFAULT_PLAN, Algorithm, LimitRule, Policy
from ext_authz.settlement.local import period_end
from ext_authz.settlement.model import counter_key

LONGEST = 1024
"""Characters of a value."""
_OF_ISSUERS = ("user", "client", "token")
"""What begins with the name of an issuer, besides claims."""


class Counter(Struct, frozen=True):
    """One counter in Redis."""

    limit: str
    by: Mapping[str, str]
    key: str
    algorithm: Algorithm
    window_ms: int
    """As `QuotaRequest.window_ms`."""

    @property
    def has_windows(self) -> bool:
        """Whether it counts up to a moment and then begins anew, so that a window can have more."""
        return self.algorithm in (Algorithm.FIXED_WINDOW, Algorithm.CALENDAR)

    def window_end(self, now: int) -> int:
        """When a window that opens now ends; all in ms."""
        if self.algorithm is Algorithm.CALENDAR:
            return period_end(now, self.window_ms)
        return now + self.window_ms


def counter_of(policy: Policy, limit: str, by: Sequence[tuple[str, str]]) -> Counter:
    """`by`: part and value, as `GET /.tollgate/quota` shows them: `client`, `main:shop`.

    Raises:
        ConfigError: there can be no such counter.
    """
    rule = policy.limits.get(limit)
    if rule is None:
        known = sorted(policy.limits)
        hint = did_you_mean(limit, known) or f"it has {', '.join(known) or 'none'}"
        raise ConfigError(f"the policy has no limit '{escaped(limit)}': {hint}")
    given = dict(by)
    if len(given) < len(by) or set(given) != set(rule.key):
        ways = " ".join(f"--of {part}=VALUE" for part in rule.key)
        raise ConfigError(f"{limit} counts by {', '.join(rule.key)}: write {ways}")
    for part, value in given.items():
        _ensure_usable(policy, part, value)
    values = {part: given[part] for part in rule.key}
    of_any_plan = rule.by_plan[DEFAULT_PLAN]
    window_ms = of_any_plan.window * 1000 + _days_after_first(rule, values)
    return Counter(limit, values, counter_key(limit, values.values()), of_any_plan.algorithm, window_ms)


def _ensure_usable(policy: Policy, part: str, value: str) -> None:
    """A value that no call can have would change nothing."""
    if not 0 < len(value) <= LONGEST or not value.isprintable():
        raise ConfigError(f"--of {part}: write 1 to {LONGEST} printable characters")
    if part in _OF_ISSUERS or part.startswith("claim:"):
        known = [issuer.name for issuer in policy.issuers]
        issuer, separator, _ = value.partition(":")
        if not separator or issuer not in known:
            hint = f"write ISSUER:VALUE, where ISSUER is one of {', '.join(known)}"
            raise ConfigError(f"--of {part}: '{escaped(value)}' names no issuer of the policy: {hint}")


def _days_after_first(rule: LimitRule, by: Mapping[str, str]) -> int:
    if rule.billing_days is None:
        return 0
    issuer, _, client = by["client"].partition(":")
    return rule.billing_days.get(issuer, {}).get(client.removeprefix(CLIENT), 1) - 1
