"""What is worse for sure is rolled back, what surely is not is promoted, and all else waits."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ext_authz.experiment.evidence import Evidence, Quantile, Variant
from ext_authz.experiment.intervals import Share
from ext_authz.experiment.printed import as_json, as_text
from ext_authz.experiment.verdict import Decision, Rule, judge, next_weight

QUICK = tuple(Quantile(at, at * 0.98, at * 1.02) for at in (2.0, 5.0, 9.0))
SLOW = tuple(replace(each, value=each.value * 2, low=each.low * 2, high=each.high * 2) for each in QUICK)
STABLE = Variant("stable", "1", 90, 9000, 900, 900, Share(45, 9000), 0, QUICK)
CANARY = Variant("canary", "2", 10, 4000, 100, 100, Share(20, 4000), 0, QUICK)


def evidence(
    canary: Variant = CANARY, stable: Variant = STABLE, pairs: tuple[tuple[str, str, int], ...] = ()
) -> Evidence:
    period = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)
    alike = sum(count for one, other, count in pairs if one == other)
    agreement, copied = Share(alike, sum(count for _, _, count in pairs)), 900 if pairs else 0
    return Evidence(
        "sentiment-v2", "sentiment", *period, stable, canary, 0, 0, {}, pairs, agreement, copied, has_log=True
    )


def failing(errors: int, calls: int = 4000, spread: float = 1.0) -> Variant:
    return replace(CANARY, errors=Share(errors, calls, spread))


PAIRS = (("positive", "positive", 700), ("positive", "negative", 300))
NO_ANSWERS = replace(CANARY, errors=Share(0, 0), latency=())


@pytest.mark.parametrize(
    ("found", "decision", "why"),
    [
        (evidence(), Decision.PROMOTE, "errors rose by 0.41 points at most"),
        (evidence(failing(200)), Decision.ROLL_BACK, "errors rose by 3.6"),
        (evidence(failing(12, 20)), Decision.ROLL_BACK, "and 1.00 points are tolerated"),
        (evidence(failing(50)), Decision.HOLD, "there are enough calls to see it"),
        (evidence(failing(2, 300)), Decision.HOLD, "more should tell"),
        (evidence(failing(20, spread=20)), Decision.HOLD, "more should tell"),
        (
            evidence(replace(CANARY, latency=SLOW)),
            Decision.ROLL_BACK,
            "p95 rose from 5.1 ms at most to 9.8 ms at least",
        ),
        (
            evidence(replace(CANARY, latency=(QUICK[0], Quantile(6.0, 4.0, 9.0), QUICK[2]))),
            Decision.HOLD,
            "p95 may have risen from 4.9 ms to 9.0 ms, and a factor of 1.25 is tolerated",
        ),
        (evidence(replace(CANARY, callers=9)), Decision.HOLD, "canary has 9 callers, and 10 are asked for"),
        (evidence(replace(CANARY, callers=1)), Decision.HOLD, "canary has 1 caller, and"),
        (
            evidence(replace(CANARY, present=9)),
            Decision.HOLD,
            "9 callers of canary called under this policy, and 10 are asked for: the weights were not tried yet",
        ),
        (
            evidence(replace(CANARY, latency=(QUICK[0], Quantile(5.0, 4.9, inf), QUICK[2]))),
            Decision.HOLD,
            "p95 may have risen from 4.9 ms to whatever, by so few independent calls",
        ),
        (evidence(NO_ANSWERS), Decision.HOLD, "errors are not known; there are no answers"),
    ],
)
def test_the_rule(found: Evidence, decision: Decision, why: str) -> None:
    verdict = judge(found)
    assert verdict.decision is decision
    assert why in "; ".join(verdict.why)


@pytest.mark.parametrize(
    ("pairs", "least", "decision"),
    [
        ((), 0.0, Decision.PROMOTE),
        ((), 0.6, Decision.HOLD),
        (PAIRS, 0.6, Decision.PROMOTE),
        (PAIRS, 0.69, Decision.HOLD),
        (PAIRS, 0.8, Decision.ROLL_BACK),
    ],
)
def test_agreement_is_judged_where_it_is_asked_for(
    pairs: tuple[tuple[str, str, int], ...], least: float, decision: Decision
) -> None:
    assert judge(evidence(pairs=pairs), Rule(agreement=least)).decision is decision


def test_copies_of_few_callers_are_no_agreement() -> None:
    """They may be of one text, asked again and again."""
    verdict = judge(replace(evidence(pairs=(("positive", "positive", 9000),)), copied=9), Rule(agreement=0.9))
    assert (verdict.decision, verdict.why) == (
        Decision.HOLD,
        ["copies of 9 callers were compared, and 10 are asked for"],
    )


@given(st.integers(0, 4000), st.integers(0, 400), st.floats(1, 50))
def test_more_errors_never_help(errors: int, more: int, spread: float) -> None:
    order = [Decision.PROMOTE, Decision.HOLD, Decision.ROLL_BACK]
    one, other = (judge(evidence(failing(min(4000, each), spread=spread))) for each in (errors, errors + more))
    assert order.index(one.decision) <= order.index(other.decision)


@given(st.sampled_from(Decision), st.integers(0, 100))
def test_the_weight_goes_up_by_steps_and_down_to_nothing(decision: Decision, weight: int) -> None:
    after = next_weight(weight, decision)
    assert {"promote": after >= weight, "hold": after == weight, "roll back": after == 0}[decision]
    assert after in (0, 1, 5, 10, 25, 50, 100, weight)


def test_the_report_says_what_it_went_by() -> None:
    found = replace(
        evidence(
            replace(CANARY, labels={"positive": 70, "negative": 30}, errors=Share(20, 4000, 2.5)),
            replace(STABLE, labels={"positive": 800, "\x1b[2J": 200}),
            PAIRS,
        ),
        aside=7,
        unrecorded=3,
    )
    rule = Rule()
    text = "\n".join(as_text(found, judge(found, rule), rule))
    assert "canary (version 2)" in text
    assert "label positive  80.00 %" in text
    assert "0.50 %  (0.34 % to 0.73 %)" in text
    assert "copies with the label of their call: 700 of 1,000  70.00 %" in text
    assert "  stable positive, canary negative: 300" in text
    assert "2.5 calls tell as much as one" in text
    assert "7 calls are left aside" in text
    assert "3 calls have no variant" in text
    assert text.endswith("decision: promote")
    assert "\x1b" not in text
    said = as_json(found, judge(found, rule), rule)
    assert said["decision"] == "promote"
    assert said["variants"]["canary"]["errors"]["value"] == 0.005
    assert said["variants"]["stable"]["latency_ms"]["p95"] == {"value": 5.0, "low": 4.9, "high": pytest.approx(5.1)}
    assert said["copies"]["pairs"][1] == {"control": "positive", "candidate": "negative", "count": 300}


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        (replace(evidence(), has_log=False), "run tollgate migrate"),
        (evidence(), "it needs models.sentiment.predictions in the policy"),
        (evidence(replace(CANARY, labels={"positive": 1})), "mirror in the policy makes copies"),
        (evidence(NO_ANSWERS), "errors are not known"),
    ],
)
def test_what_is_missing_is_said(found: Evidence, missing: str) -> None:
    assert missing in "\n".join(as_text(found, judge(found), Rule()))
