"""Which counter an administrator means, and what cannot be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.errors import ConfigError
from ext_authz.policy.model import Policy
from ext_authz.quotas.counters import counter_of
from ext_authz.settlement.model import SEPARATOR
from tests.unit.policy.writing import GOOD, loaded

DAY = 86_400_000
NOV_30 = 20_787 * DAY
POLICY = GOOD.replace(
    "  user: {key: [user], rate: 10/minute}\n",
    """  user: {key: [user], rate: 10/minute}
  burst: {key: [user], rate: 10/minute, algorithm: gcra}
  month: {key: [client, model], rate: 500/month, algorithm: calendar, anchor: billing}
billing_days: {demo: {shop: 15, "service:nightly": 2}}
""",
)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return loaded(tmp_path, POLICY)


def test_a_counter_has_the_key_of_the_check_in_the_order_of_the_policy(policy: Policy) -> None:
    counter = counter_of(policy, "month", [("model", "cancer"), ("client", "demo:shop")])
    assert counter.key == SEPARATOR.join(("month", "demo:shop", "cancer"))
    assert counter.by == {"client": "demo:shop", "model": "cancer"}
    assert counter.has_windows
    assert not counter_of(policy, "burst", [("user", "demo:alice")]).has_windows


@pytest.mark.parametrize(
    ("client", "day"), [("shop", 15), ("tollgate:service:nightly", 32), ("web", 31)], ids=["shop", "nightly", "web"]
)
def test_a_window_ends_with_the_period_of_the_client(policy: Policy, client: str, day: int) -> None:
    """Days from 30 November on: 15 and 2 December, 1 December."""
    counter = counter_of(policy, "month", [("client", f"demo:{client}"), ("model", "cancer")])
    assert counter.window_end(NOV_30 + 5) == NOV_30 + {15: 15, 32: 2, 31: 1}[day] * DAY


def test_a_fixed_window_opens_now(policy: Policy) -> None:
    assert counter_of(policy, "user", [("user", "demo:alice")]).window_end(7) == 60_007


@pytest.mark.parametrize(
    ("limit", "by", "words"),
    [
        ("usr", [("user", "demo:alice")], "did you mean 'user'?"),
        ("nothing", [("user", "demo:alice")], "it has burst, month, user"),
        ("user", [], "write --of user=VALUE"),
        ("user", [("client", "demo:shop")], "counts by user"),
        ("user", [("user", "demo:alice"), ("user", "demo:bob")], "write --of user=VALUE"),
        ("month", [("client", "demo:shop")], "--of client=VALUE --of model=VALUE"),
        ("user", [("user", "alice")], "'alice' names no issuer of the policy: write ISSUER:VALUE"),
        ("user", [("user", "other:alice")], "is one of demo"),
        ("user", [("user", "")], "printable"),
        ("user", [("user", "demo:a\x1fb")], "printable"),
        ("user", [("user", "demo:" + "a" * 2000)], "1 to 1024"),
    ],
)
def test_what_can_be_no_counter(policy: Policy, limit: str, by: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        counter_of(policy, limit, by)
    assert words in str(refused.value)
