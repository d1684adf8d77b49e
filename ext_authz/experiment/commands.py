"""`tollgate experiment report` and `tollgate experiment step`."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ext_authz.command_line import STANDARD_INPUT, policy_argument
from ext_authz.errors import ConfigError
from ext_authz.report import ensure_period, period_options

if TYPE_CHECKING:
    from ext_authz.experiment.evidence import Evidence
    from ext_authz.experiment.verdict import Rule, Verdict
    from ext_authz.policy.model import Experiment

_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_NO_VARIANT = "the only one but the first"


class _Steps(click.ParamType[tuple[int, ...]]):
    """Weights, with commas between them."""

    name = "steps"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = str(value).split(",")
        steps = tuple(int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 4)
        if len(steps) < len(parts) or sorted(set(steps)) != list(steps) or not 0 < steps[0] <= steps[-1] <= 100:
            self.fail("write growing per cent from 1 to 100, such as 1,5,10,25,50,100", param, ctx)
        return steps


def _a_day_ago() -> datetime:
    return datetime.now(UTC) - timedelta(days=1)


def _rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what both commands take, and passes on a `Rule`."""

    @click.argument("name")
    @policy_argument
    @click.option(
        "--variant", default="", show_default=_NO_VARIANT, help="The new variant, compared with the first one."
    )
    @period_options(_a_day_ago, "a day ago")
    @click.option("--confidence", type=_SHARE, default=0.99, help="Of each interval.")
    @click.option("--tolerance", type=_SHARE, default=0.01, help="Rise of the share of errors that may be.")
    @click.option("--slower", type=click.FloatRange(1), default=1.25, help="Factor by which the 95th percentile of the "
                  "time may grow.")  # fmt: skip
    @click.option("--callers", type=click.IntRange(1), default=10, help="Callers of the new variant under this policy, "
                  "at least.")  # fmt: skip
    @click.option("--agreement", type=click.FloatRange(0, 1), default=0.0, show_default="any",
                  help="Share of copies with the same label, at least.")  # fmt: skip
    @wraps(command)
    def with_rule(
        *, confidence: float, tolerance: float, slower: float, callers: int, agreement: float, **others: object
    ) -> None:
        from ext_authz.experiment.verdict import Rule

        rule = Rule(confidence, tolerance, slower, callers, agreement)
        command(rule=rule, **others)

    return with_rule


@click.group()
def experiment() -> None:
    """Judge a new version of a model, and change its weight."""


@experiment.command(context_settings={"show_default": True})
@_rule_options
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="Output format.")
def report(rule: Rule, *, form: str, **given: Any) -> None:  # noqa: ANN401 - click's
    """Compare a new variant with the first one.

    By what was recorded of the experiment NAME: calls, errors, latency, labels, agreement on copies. And what to do:
    promote, hold or roll back.

    POLICY is a file or a directory. Default: TOLLGATE_POLICY.
    """
    import json

    from ext_authz.experiment.printed import as_json, as_text

    _, evidence, verdict = _judged(rule, **given)
    if form == "json":
        click.echo(json.dumps(as_json(evidence, verdict, rule), indent=2))
        return
    for line in as_text(evidence, verdict, rule):
        click.echo(line)


@experiment.command(context_settings={"show_default": True})
@_rule_options
@click.option(
    "--steps", type=_Steps(), default="1,5,10,25,50,100", help="Weights of the new variant, one after another."
)
@click.option("--start", is_flag=True, help="Begin with the first step, without judging: from weight 0 only.")
@click.option("--write", "is_written", is_flag=True, help="Change the policy file; else only show the change.")
def step(rule: Rule, steps: tuple[int, ...], *, start: bool, is_written: bool, **given: Any) -> None:  # noqa: ANN401 - click's
    """Change the weight of a new variant.

    By the verdict of `report` on the experiment NAME. Promote: the next of the steps. Roll back: 0. Hold: no change.

    POLICY is a file or a directory. Default: TOLLGATE_POLICY.
    """
    from ext_authz.experiment.verdict import next_weight

    if start:
        _, found, candidate = _chosen(**given)
        if found.weights[candidate]:
            raise ConfigError(
                f"--start: {candidate} has the weight {found.weights[candidate]} already: leave --start out"
            )
        weight = steps[0]
    else:
        found, evidence, verdict = _judged(rule, **given)
        candidate = evidence.candidate.name
        click.echo(f"{verdict.decision}: {'; '.join(verdict.why)}", err=True)
        weight = next_weight(found.weights[candidate], verdict.decision, steps)
    _change(given["policy"], found, candidate, weight, is_written=is_written)


def _change(policy: Path, found: Experiment, candidate: str, weight: int, *, is_written: bool) -> None:
    from ext_authz.experiment.step import changed, write

    control, before = next(iter(found.weights)), found.weights[candidate]
    if weight == before:
        rolled_back = "" if before else ": it is rolled back, or has not begun (--start begins)"
        click.echo(f"{candidate} keeps the weight {before}{rolled_back}")
        return
    if len(found.weights) > 2:
        raise ConfigError(
            f"experiments.{found.name}: has {len(found.weights)} variants, and which one gives is yours to say: change "
            f"the weight of {candidate} from {before} to {weight} by hand"
        )
    change = changed(policy, found.name, {control: 100 - weight, candidate: weight}, os.environ)
    click.echo(change.diff(), nl=False)
    if is_written:
        write(change)
        click.echo(f"{candidate} has the weight {weight} now, and had {before}", err=True)
    else:
        click.echo("nothing is written: --write does", err=True)


def _judged(rule: Rule, *, since: datetime, until: datetime, **given: Any) -> tuple[Experiment, Evidence, Verdict]:  # noqa: ANN401
    import asyncio

    from ext_authz.db.tables import connected
    from ext_authz.experiment.evidence import READS, Period, gathered
    from ext_authz.experiment.verdict import judge
    from ext_authz.settings import DatabaseSettings, load_settings

    ensure_period(since, until)
    policy, found, candidate = _chosen(**given)
    period = Period(since, until)

    async def read() -> Evidence:
        async with connected(load_settings(DatabaseSettings).database_url, READS) as connection:
            return await gathered(connection, policy, found, candidate, period, rule.confidence)

    evidence = asyncio.run(read())
    return found, evidence, judge(evidence, rule)


def _chosen(name: str, policy: Path, variant: str, **_: object) -> tuple[str, Experiment, str]:
    """The hash of the policy, the experiment, and the variant that is compared."""
    from ext_authz.policy.load import load_policy

    if policy == STANDARD_INPUT:
        raise ConfigError("the policy: write a file or a directory, for standard input cannot be changed")
    loaded = load_policy(policy, os.environ)
    experiments = {each.name: each for each in loaded.experiments.values()}
    found = experiments.get(name)
    if found is None:
        raise ConfigError(f"the policy has no experiment {name!r} (there are: {', '.join(experiments) or 'none'})")
    first, *others = found.weights
    if variant and variant not in others:
        raise ConfigError(f"--variant: {name} compares with {first}: write one of {', '.join(others) or 'none'}")
    if not variant and len(others) != 1:
        raise ConfigError(f"{name} has {len(others)} variants but the first: write --variant ({', '.join(others)})")
    return loaded.hash, found, variant or others[0]
